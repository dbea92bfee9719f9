"""Longest shortest paths of functions whose graphs are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import cost

X = jnp.ones((7, 1))


def shift(by):
    return lambda x: x + jnp.zeros_like(x).at[by:].set(x[:-by])


def test_path_length_of_shifts_is_a_count_of_applications():
    assert cost.path_length(shift(1), X) == 6
    # Offsets 1 and 2 in one application: three of them for the offset 6.
    assert cost.path_length(lambda x: shift(1)(x) + shift(2)(x), X) == 3


def test_path_length_of_layers_in_turn():
    # Offset 6 = 1 + 2 + 3 after one round; offset 3 is cheaper by its own layer, third in turn.
    assert cost.path_length([shift(1), shift(2), shift(3)], X) == 3
    # Only even offsets are connected; the layer between changes nothing and costs a step.
    assert cost.path_length([shift(2), jnp.sin], X) == 5


def test_path_length_edge_no_other_pair_is_zero():
    assert cost.path_length(jnp.sin, X) == 0


def test_path_length_counts_iterations_of_a_loop():
    from jax import lax

    def running(x):
        return lax.scan(lambda c, x_t: (c + x_t, c + x_t), jnp.zeros(1), x)[1]

    assert cost.path_length(running, X) == 7
    assert cost.path_length(lambda x: jnp.cumsum(x, axis=0), X) == 1


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: cost.path_length([], X), TypeError, "`fn` must be a function, or several"),
        (lambda: cost.path_length(3, X), TypeError, "`fn` must be a function, or several"),
        (lambda: cost.path_length(lambda x: x[1:], X), ValueError, "must keep the 7 positions"),
        (lambda: cost.path_length(jnp.sin, X, 2), ValueError, "`axis` must be an axis of `x`"),
        (lambda: cost.path_length(jnp.sin, np.arange(3)), TypeError, "floating-point"),
    ],
)
def test_path_length_rejects_a_mistake(call, error, text):
    with pytest.raises(error, match=text):
        call()
