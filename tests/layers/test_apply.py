"""Layers against their equations in NumPy, and the laws that each of them obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import layers
from tests.layers.zoo import ALL as LAYERS
from tests.layers.zoo import ATTENTION, D
from tests.oracles import layers as oracle

ALL = {**LAYERS, **ATTENTION}
ORACLES = {
    "elman_rnn": oracle.elman_rnn,
    "elman_rnn_wide": oracle.elman_rnn,
    "gru": oracle.gru,
    "attention_full": oracle.self_attention,
    "attention_causal": lambda p, x: oracle.self_attention(p, x, is_causal=True),
    "attention_window": lambda p, x: oracle.self_attention(p, x, window=3),
    "attention_causal_window": lambda p, x: oracle.self_attention(p, x, is_causal=True, window=3),
    "linear_attention": oracle.linear_attention,
    "linear_attention_causal": lambda p, x: oracle.linear_attention(p, x, is_causal=True),
    "convolution": oracle.convolution,
    "convolution_causal": lambda p, x: oracle.convolution(p, x, is_causal=True),
    "convolution_dilated": lambda p, x: oracle.convolution(p, x, dilation=3, is_causal=True),
    "feed_forward": oracle.feed_forward,
    "layer_norm": oracle.layer_norm,
    "block": oracle.transformer_block,
    "block_causal": lambda p, x: oracle.transformer_block(p, x, is_causal=True),
}


def drawn(layer, key):
    """Weights with biases that are not zero, so that a forgotten one shows."""

    @jax.jit
    def draw(key):
        params = layer.init(key, jnp.float64)
        keys = jax.random.split(key, len(jax.tree.leaves(params)))
        keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
        return jax.tree.map(
            lambda w, k: w + 0.3 * jax.random.normal(k, w.shape, w.dtype), params, keys
        )

    return draw(key)


@pytest.mark.parametrize("name", ORACLES)
def test_apply_matches_numpy_float64(name, key):
    params, x = drawn(ALL[name], key), jax.random.normal(key, (9, D), jnp.float64)
    y = jax.jit(ALL[name].apply)(params, x)
    want = ORACLES[name](jax.tree.map(np.asarray, params), np.asarray(x))
    # Sums of some hundred terms of order one.
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gru", "attention_causal", "linear_attention_causal"])
def test_apply_edge_one_position(name, key):
    params, x = drawn(ALL[name], key), jax.random.normal(key, (1, D), jnp.float64)
    want = ORACLES[name](jax.tree.map(np.asarray, params), np.asarray(x))
    np.testing.assert_allclose(jax.jit(ALL[name].apply)(params, x), want, rtol=1e-12, atol=1e-12)


MIXED = ("gru", "attention_causal_window", "linear_attention_causal", "convolution", "layer_norm")


@pytest.mark.parametrize("name", MIXED)
def test_apply_keeps_the_dtype(name, key):
    for dtype, bound in ((jnp.float32, 1e-4), (jnp.bfloat16, 0.3)):
        params, x = ALL[name].init(key, dtype), jax.random.normal(key, (5, D), dtype)
        y = jax.jit(ALL[name].apply)(params, x)
        assert y.dtype == dtype
        exact = jax.jit(ALL[name].apply)(
            *jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x))
        )
        # Eight bits of mantissa and some ten roundings of values of order one in a row.
        np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=bound, rtol=bound)


@pytest.mark.parametrize("name", ["attention_full", "linear_attention", "block"])
def test_full_attention_is_equivariant_to_permutation(name, key):
    params, x = drawn(ALL[name], key), jax.random.normal(key, (8, D), jnp.float64)
    order = jax.random.permutation(key, 8)
    apply = jax.jit(ALL[name].apply)
    y = apply(params, x)
    np.testing.assert_allclose(apply(params, x[order]), y[order], rtol=1e-11, atol=1e-12)


def test_convolution_is_equivariant_to_translation(key):
    layer = ALL["convolution"]
    params, x = drawn(layer, key), jax.random.normal(key, (9, D), jnp.float64)
    moved = np.concatenate([np.zeros((3, D)), x])
    apply = jax.jit(layer.apply)
    np.testing.assert_allclose(
        apply(params, moved)[5:], apply(params, x)[2:], rtol=1e-11, atol=1e-12
    )


def test_layer_norm_ignores_shift_and_scale_of_a_position(key):
    layer = layers.layer_norm(D, epsilon=1e-30)
    params, x = layer.init(key), jax.random.normal(key, (4, D), jnp.float64)
    np.testing.assert_allclose(layer.apply(params, 3 * x + 7), layer.apply(params, x), atol=1e-12)


def test_layer_norm_edge_constant_position_maps_to_shift(key):
    layer = layers.layer_norm(D)
    params = drawn(layer, key)
    y = layer.apply(params, jnp.ones((2, D), jnp.float64))
    np.testing.assert_array_equal(y, np.tile(params["shift"], (2, 1)))


def test_stack_is_its_layer_applied_again(key):
    layer = layers.feed_forward(D)
    stack = layers.stack(layer, 3)
    params, x = drawn(stack, key), jax.random.normal(key, (5, D), jnp.float64)
    y, apply = x, jax.jit(layer.apply)
    for i in range(3):
        y = apply(jax.tree.map(lambda w, i=i: np.asarray(w)[i], params), y)
    np.testing.assert_allclose(jax.jit(stack.apply)(params, x), y, rtol=1e-11, atol=1e-12)
