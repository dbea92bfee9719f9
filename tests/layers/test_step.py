"""Step by step equals all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import layers
from tests.layers.zoo import CAUSAL, OTHERS, D


def run(layer, params, x, max_length):
    @jax.jit
    def steps(params, x):
        state = layer.init_state(params, max_length)
        return jax.lax.scan(lambda s, x_t: layer.step(params, s, x_t), state, x)[1]

    return steps(params, x)


def drawn(layer, key):
    return jax.jit(lambda key: layer.init(key, jnp.float64))(key)


@pytest.mark.parametrize("name", CAUSAL)
def test_step_equals_apply(name, key):
    layer = CAUSAL[name]
    params, x = drawn(layer, key), jax.random.normal(key, (11, D), jnp.float64)
    y = jax.jit(layer.apply)(params, x)
    # The same sums in another order.
    np.testing.assert_allclose(run(layer, params, x, 20), y, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_step_has_the_gradient_of_apply(name, key):
    layer = CAUSAL[name]
    params, x = drawn(layer, key), jax.random.normal(key, (6, D), jnp.float64)
    one = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply(p, x)))))(params)
    other = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(run(layer, p, x, 6)))))(params)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_step_edge_past_max_length_is_nan(key):
    layer = layers.stack(layers.transformer_block(D, is_causal=True), 2)
    y = run(layer, drawn(layer, key), jax.random.normal(key, (7, D)), 5)
    assert np.isfinite(y[:5]).all()
    assert np.isnan(y[5:]).all()


def test_step_edge_a_window_needs_no_max_length(key):
    layer = layers.transformer_block(D, is_causal=True, window=3)
    params, x = drawn(layer, key), jax.random.normal(key, (9, D))
    y = jax.jit(layer.apply)(params, x)
    np.testing.assert_allclose(run(layer, params, x, 1), y, rtol=1e-11)


@pytest.mark.parametrize("name", OTHERS)
def test_step_rejects_a_layer_that_reads_ahead(name, key):
    layer = OTHERS[name]
    shapes = jax.eval_shape(layer.init, key)
    params = jax.tree.map(lambda w: jnp.zeros(w.shape, w.dtype), shapes)
    with pytest.raises(ValueError, match=r"reads no later position.*is_causal=True"):
        layer.init_state(params, 4)
    with pytest.raises(ValueError, match=r"reads no later position.*is_causal=True"):
        layer.step(params, (), jnp.zeros(D))


def test_init_state_rejects_no_length(key):
    layer = layers.transformer_block(4, is_causal=True)
    with pytest.raises(ValueError, match="`max_length` must be at least 1"):
        layer.init_state(layer.init(key), 0)
