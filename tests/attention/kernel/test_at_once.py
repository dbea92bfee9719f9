"""Few pairs at once, with their weights kept: the definition, and the blocks, at every order."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.attention.problems import KEY, PROBLEMS, QUERY, VALUE, S, T
from tests.thinned import slow_but

ARRAYS = (QUERY, KEY, VALUE)
# Sums of at most 27 terms of order one, differentiated twice: some hundred roundings.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


@functools.partial(jax.jit, static_argnums=(0, 1))
def derivatives(name, block_size, *arrays):
    """Value, gradient, tangent of value and of gradient, and gradient of the gradient."""

    def run(*arrays):
        options = {**PROBLEMS[name], "block_size": block_size, "return_residual": True}
        out, lse = attention.dot_product_attention(*arrays, **options)
        return jnp.sin(out), jnp.cos(jnp.where(jnp.isneginf(lse), 0, lse))

    def total(function):
        return lambda *arrays: sum(jnp.sum(jnp.sin(x)) for x in function(*arrays))

    gradient, along = jax.grad(total(run), (0, 1, 2)), tuple(0.5 - x for x in arrays)
    tangents = [jax.jvp(f, arrays, along) for f in (run, gradient)]
    return tangents, jax.grad(total(gradient), (0, 1, 2))(*arrays)


@pytest.mark.parametrize("name", slow_but(PROBLEMS, "plain", "together", "lengths"))
def test_attention_at_once_is_attention_by_blocks(name):
    """Those of the second kind are held to the definition in test_dot_product."""
    found, wanted = (derivatives(name, size, *ARRAYS) for size in (None, 8))
    chex.assert_trees_all_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_attention_at_once_lets_nothing_through_a_mask(bad):
    """A key that no row reads and a row that reads no key."""
    mask = jnp.ones((T, S), bool).at[:, 11].set(False).at[4].set(False)

    def orders(*arrays):
        def total(*arrays):
            out = attention.dot_product_attention(*arrays, mask=mask)
            return jnp.sum(jnp.sin(out))

        gradient = jax.grad(total, (0, 1, 2))
        return gradient(*arrays), jax.jvp(
            gradient, arrays, arrays[:0] + tuple(map(jnp.cos, ARRAYS))
        )

    query, key, value = ARRAYS
    broken = query.at[:, 4].set(bad), key.at[:, 11].set(bad), value.at[:, 11].set(bad)
    found, wanted = (jax.jit(orders)(*arrays) for arrays in (broken, ARRAYS))
    chex.assert_trees_all_close(found, wanted, rtol=1e-12)


def test_attention_at_once_of_a_value_that_is_not_finite():
    value = VALUE.at[:, 9, 0, 1].set(jnp.inf)
    out = attention.dot_product_attention(QUERY, KEY, value, is_causal=True)
    plain = attention.dot_product_attention(*ARRAYS, is_causal=True)
    np.testing.assert_array_equal(out[:, :9], plain[:, :9])
    np.testing.assert_array_equal(out[:, :, 2:], plain[:, :, 2:])
    assert not np.isfinite(out[:, 9:, :2, 1]).any()


def test_attention_at_once_ends_where_weights_are_longer_than_queries():
    """Whose products of scores then come twice: memory is linear in the length."""
    counts = {}
    for length in (128, 129):
        x = jax.ShapeDtypeStruct((1, length, 2, 4), jnp.float32)
        total = lambda *a: jnp.sum(attention.dot_product_attention(*a) ** 2)  # noqa: E731
        lowered = jax.jit(jax.grad(total, (0, 1, 2))).lower(x, x, x)
        counts[length] = lowered.as_text().count("stablehlo.dot_general")
    assert counts == {128: 6, 129: 8}


@pytest.mark.parametrize(
    "options",
    [
        {"local_window_size": 40},
        {"is_causal": True, "query_offset": 26},
        {"mask": attention.causal() & ~attention.sliding_window(0), "query_offset": 30},
    ],
)
def test_a_mask_that_permits_every_pair_is_none(options):
    texts = [
        jax.jit(functools.partial(attention.dot_product_attention, **given))
        .lower(*ARRAYS)
        .as_text()
        for given in (options, {})
    ]
    assert texts[0] == texts[1]


def test_masks_of_two_types_with_equal_arrays_are_two_programs():
    x = jnp.eye(4)[:, None]
    numbers = jnp.array([-1, 0, 0, 2])
    for mask in (attention.tree(numbers), attention.segments(numbers, numbers)):
        found = attention.dot_product_attention(x, x, x, mask=mask)
        expected = attention.reference_attention(x, x, x, mask=mask)
        np.testing.assert_allclose(found, expected, atol=1e-12)
