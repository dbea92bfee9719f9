"""Which checkpoint policy fits: the cheapest that does, by its own cost."""

import jax.numpy as jnp
import pytest

from equipoise import cost


def deep(w, x):
    for _ in range(6):
        x = jnp.tanh(jnp.sin(x @ w) @ w)
    return x.sum()


def test_best_checkpoint_takes_the_least_work_that_fits():
    everything = cost.best_checkpoint(deep, "f32[d,d]", "f32[n,d]", at_most="1 GB", n=512, d=32)
    assert everything.best == "everything_saveable"
    assert everything.flops == tuple(sorted(everything.flops))
    assert everything.residual_bytes == tuple(sorted(everything.residual_bytes, reverse=True))
    least = min(everything.peak_bytes)
    tight = cost.best_checkpoint(deep, "f32[d,d]", "f32[n,d]", at_most=least, n=512, d=32)
    assert tight.peak_bytes[tight.policies.index(tight.best)] == least
    nothing = cost.best_checkpoint(deep, "f32[d,d]", "f32[n,d]", at_most=least - 1, n=512, d=32)
    assert nothing.best is None
    assert str(nothing).startswith("Checkpoints: none fits")


def test_best_checkpoint_refuses_a_size_without_a_number():
    with pytest.raises(ValueError, match=r"cost\.best_checkpoint: `n` must be given a size"):
        cost.best_checkpoint(deep, "f32[d,d]", "f32[n,d]", at_most="1 GB", d=32)
    with pytest.raises(ValueError, match="`at_most` must be an amount of memory"):
        cost.best_checkpoint(deep, "f32[d,d]", "f32[n,d]", at_most="much", n=1, d=32)
    with pytest.raises(TypeError, match="must be an array"):
        cost.best_checkpoint(deep, object(), "f32[n,d]", at_most="1 GB", n=1, d=32)
