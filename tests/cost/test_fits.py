"""Whether a program fits into memory, and the largest size that does."""

import jax.numpy as jnp
import pytest

from equipoise import cost


def network(w, x):
    return jnp.sum(jnp.tanh(x @ w) @ w)


ARGS = ("f32[d,d]", "f32[b,d]")


def test_fits_changes_at_the_largest_size():
    found = cost.analyze(network, *ARGS)
    batch = found.peak_bytes.largest("b", at_most="1 MB", d=64)
    assert cost.fits(found, "1 MB", b=batch, d=64)
    assert not cost.fits(found, "1 MB", b=batch + 1, d=64)


def test_fits_says_what_is_left_or_missing():
    found = cost.analyze(network, *ARGS)
    peak = found.peak_bytes.evaluate(b=10, d=64)
    room = cost.fits(found, 10**6, b=10, d=64)
    assert (room.peak_bytes, room.left) == (peak, 10**6 - peak)
    assert str(room).splitlines()[:2] == [
        "Fits: yes",
        f"  left        {(10**6 - peak) / 1e3:.4g} kB",
    ]
    assert str(cost.fits(found, 10**4, b=10, d=64)).startswith("Fits: no\n  missing ")


def test_fits_counts_both_passes_of_training():
    trained = cost.analyze_training(network, *ARGS)
    expected = trained.total.peak_bytes.evaluate(b=10, d=64)
    assert cost.fits(trained, "1 GB", b=10, d=64).peak_bytes == expected


def test_fits_refuses_what_is_no_cost_and_no_amount():
    found = cost.analyze(network, *ARGS)
    with pytest.raises(TypeError, match=r"cost\.fits: `cost` must be a Cost or a TrainingCost"):
        cost.fits(found.flops, "1 GB", b=1, d=1)
    with pytest.raises(ValueError, match="`memory` must be an amount of memory"):
        cost.fits(found, "one gigabyte", b=1, d=1)
    with pytest.raises(ValueError, match="`b` must be given a size"):
        cost.fits(found, "1 GB", d=1)
