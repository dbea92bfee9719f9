"""Weights, their first values and their shapes; and what a layer refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import layers
from tests.layers.zoo import ALL, D


@pytest.mark.parametrize("name", ALL)
def test_init_draws_what_shapes_says(name, key):
    layer = ALL[name]
    params = jax.eval_shape(lambda key: layer.init(key, jnp.float32), key)
    text = jax.tree.map(lambda w: f"f32[{','.join(map(str, w.shape))}]", params)
    assert text == layer.shapes()
    assert len(str(layer).splitlines()) == 1 + len(jax.tree.leaves(params))
    assert repr(layer) == str(layer)


def test_init_recurrence_is_orthogonal(key):
    u = layers.gru(16).init(key)["update"]["recurrent"]
    np.testing.assert_allclose(u @ u.T, np.eye(16), atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "leaf", "fan_in", "fan_out"),
    [
        (layers.feed_forward(40, hidden=90), "inner", 40, 90),
        (layers.linear_attention(60, num_heads=4), "query", 60, 60),
        (layers.linear_attention(60, num_heads=4), "output", 60, 60),
        (layers.convolution(30, kernel_size=5, features=50), "kernel", 150, 50),
    ],
)
def test_init_has_the_variance_of_glorot(layer, leaf, fan_in, fan_out, key):
    w = np.asarray(layer.init(key)[leaf])
    variance = 2 / (fan_in + fan_out)
    assert np.abs(w).max() <= np.sqrt(3 * variance)
    # A uniform draw's variance has relative standard error √(4/5)/√size; four of them.
    assert abs(w.var() / variance - 1) < 4 * np.sqrt(0.8 / w.size)


def test_init_of_a_stack_draws_each_layer_apart(key):
    w = layers.stack(layers.feed_forward(8), 3).init(key)["inner"]
    assert w.shape == (3, 8, 32)
    assert not np.allclose(w[0], w[1])
    # Glorot's bound is that of one layer, not of the stacked array.
    assert 0.9 * np.sqrt(6 / 40) < np.abs(w).max() <= np.sqrt(6 / 40)


def test_init_follows_the_default_dtype(key):
    with jax.enable_x64(False):
        params = layers.elman_rnn(3).init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_init_rejects_named_sizes(key):
    with pytest.raises(ValueError, match=r"layers.elman_rnn: `width` must be a number.*shapes\(\)"):
        layers.elman_rnn("d").init(key)


def test_shapes_are_arguments_of_analyze():
    assert layers.feed_forward("d").shapes()["inner"] == "f32[d,4*d]"
    assert layers.linear_attention("h*k", num_heads="h").shapes("bf16")["key"] == "bf16[h*k,h,k]"
    assert layers.stack(layers.layer_norm("d"), "L").shapes() == {
        "scale": "f32[L,d]",
        "shift": "f32[L,d]",
    }


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: layers.elman_rnn(0), ValueError, "layers.elman_rnn: `width` must be at least 1"),
        (lambda: layers.elman_rnn(2.0), TypeError, "`width` must be a Python integer"),
        (lambda: layers.gru(2, hidden=0), ValueError, "layers.gru: `hidden` must be at least 1"),
        (lambda: layers.gru("d +"), ValueError, "`width` must be a number or an expression"),
        (lambda: layers.feed_forward(0), ValueError, "layers.feed_forward: `width`"),
        (lambda: layers.layer_norm(0), ValueError, "layers.layer_norm: `width`"),
        (lambda: layers.linear_attention("d", num_heads=4), ValueError, r"a product: '4\*k'"),
        (lambda: layers.transformer_block(4, window=0), ValueError, "`window` must be at least 1"),
        (
            lambda: layers.transformer_block(4, implementation="fast"),
            ValueError,
            "`implementation` must be one of 'plain', 'blockwise'",
        ),
        (lambda: layers.linear_attention(6, num_heads=4), ValueError, "a multiple of 4"),
        (lambda: layers.convolution(4, kernel_size=0), ValueError, "`kernel_size` must be"),
        (lambda: layers.convolution(4, kernel_size=2, dilation="k"), TypeError, "`dilation`"),
        (lambda: layers.transformer_block(6, num_heads=4), ValueError, "a multiple of 4"),
        (lambda: layers.transformer_block(6, hidden=0), ValueError, "`hidden` must be"),
        (lambda: layers.stack(layers.gru, 2), TypeError, "layers.stack: `layer` must be a layer"),
        (lambda: layers.stack(layers.gru(2), 0), ValueError, "`num_layers` must be at least 1"),
    ],
)
def test_layer_rejects_a_mistake(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("name", ALL)
def test_apply_rejects_other_shapes(name, key):
    params = jax.tree.map(
        lambda w: jnp.zeros(w.shape, w.dtype), jax.eval_shape(ALL[name].init, key)
    )
    for shape in ((5, D + 1), (2, 5, D), (D,)):
        with pytest.raises(ValueError, match=rf"`x` must have shape \(n, {D}\).*jax.vmap"):
            ALL[name].apply(params, jnp.zeros(shape))


def test_apply_rejects_integers(key):
    with pytest.raises(TypeError, match="`x` must be a floating-point array"):
        ALL["gru"].apply(ALL["gru"].init(key), jnp.zeros((5, D), jnp.int32))
