"""The attention layer equals its definition, and decodes as it computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.oracles import sequence
from tests.thinned import thinned

EPS = np.finfo(np.float64).eps


def by_definition(layer, params, x, context, *, causal):
    """One entry (t, d), one head at a time, in NumPy."""
    p = {name: np.asarray(value) for name, value in params.items()}
    source = x if context is None else context

    def project(name, inputs):
        return np.einsum("td,dnh->tnh", inputs, p[name]) + p.get(f"{name}_bias", 0)

    q, k, v = project("query", x), project("key", source), project("value", source)
    if layer.rotary_base is not None:
        turn = functools.partial(
            sequence.rotary, base=layer.rotary_base, size=layer.head_size, interleaved=False
        )
        q, k = turn(q, np.arange(len(q))), turn(k, np.arange(len(k)))
    y = np.broadcast_to(p.get("output_bias", np.zeros(x.shape[1])), x.shape).copy()
    group = layer.num_heads // layer.num_key_heads
    for head in range(layer.num_heads):
        scores = q[:, head] @ k[:, head // group].T / np.sqrt(layer.head_size)
        if causal:
            scores[np.triu_indices(len(x), 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        y += weights @ v[:, head // group] @ p["output"][head]
    return y


LAYERS = {
    "plain": attention.multi_head_attention(6, 3),
    "grouped_rotary_bias": attention.multi_head_attention(
        6, 4, num_key_heads=2, head_size=4, value_size=3, rotary_base=100.0, use_bias=True
    ),
    "multi_query": attention.multi_head_attention(6, 2, num_key_heads=1),
}


def parameters(layer, key):
    """Parameters with biases that are not 0."""
    params = layer.init(key, jnp.float64)
    return jax.tree.map(lambda p: p + 0.1, params)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("crossed", [False, True])
def test_multi_head_attention_matches_definition(rng, key, name, crossed):
    layer = LAYERS[name]
    params = parameters(layer, key)
    x = rng.normal(size=(2, 5, 6))
    context = rng.normal(size=(2, 8, 6)) if crossed else None
    apply = jax.jit(functools.partial(layer.apply, is_causal=not crossed))
    y = apply(params, x, context)
    for i in range(2):
        entry = None if context is None else context[i]
        expected = by_definition(layer, params, x[i], entry, causal=not crossed)
        np.testing.assert_allclose(y[i], expected, rtol=0, atol=256 * EPS * np.abs(expected).max())


def test_multi_head_attention_steps_equal_apply(rng, key):
    layer = attention.multi_head_attention(
        8, 4, num_key_heads=2, rotary_base=50.0, local_window_size=(3, 0), logits_soft_cap=5.0
    )
    params = parameters(layer, key)
    x = rng.normal(size=(2, 9, 8))
    full = jax.jit(functools.partial(layer.apply, is_causal=True))(params, x)
    for ring, implementation in ((False, None), (True, None), (False, "plain"), (True, "plain")):
        cache = layer.init_cache(4 if ring else 9, batch=(2,), dtype=jnp.float64, ring=ring)
        step = jax.jit(functools.partial(layer.step, implementation=implementation))
        for i in range(9):
            cache, y = step(params, cache, x[:, i : i + 1])
            np.testing.assert_allclose(y[:, 0], full[:, i], rtol=0, atol=256 * EPS * 8)


def test_multi_head_attention_options_are_those_of_attention(rng, key):
    """Norms divide queries and keys, sinks take weight, a window and a scale of one layer."""
    plain, full = (
        attention.multi_head_attention(8, 4, num_key_heads=2, **options)
        for options in ({}, {"normalize_keys": True, "use_sinks": True, "scale": 0.3})
    )
    params, x = parameters(full, key), rng.normal(size=(2, 9, 8))
    assert set(params) - set(plain.weights) == {"query_norm", "key_norm", "sinks"}

    def heads(name):
        y = np.einsum("btd,dnh->btnh", x, params[name])
        if name == "value":
            return y
        root = np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + 1e-6)
        return y / root * np.asarray(params[f"{name}_norm"])

    def expected(**options):
        y = attention.reference_attention(
            *map(heads, ("query", "key", "value")), scale=0.3, sinks=params["sinks"], **options
        )
        return np.einsum("btnv,nvd->btd", y, params["output"])

    apply = jax.jit(lambda x, window: full.apply(params, x, local_window_size=(window, 0)))
    for window in (2, 9):
        wanted = expected(local_window_size=(window, 0))
        np.testing.assert_allclose(apply(x, window), wanted, rtol=0, atol=256 * EPS * 8)
    cache = full.init_cache(9, batch=(2,), dtype=jnp.float64)
    step = jax.jit(lambda cache, x, window: full.step(params, cache, x, local_window_size=window))
    for i in range(9):
        cache, y = step(cache, x[:, i : i + 1], 2)
        wanted = expected(local_window_size=(2, 0))[:, i]
        np.testing.assert_allclose(y[:, 0], wanted, rtol=0, atol=256 * EPS * 8)
    with pytest.raises(ValueError, match="'plain' does not serve sinks"):
        full.apply(params, x, implementation="plain")


def test_multi_head_attention_drops_weights_only_by_a_key(rng, key):
    layer = attention.multi_head_attention(8, 2, dropout_rate=0.5)
    params, x = parameters(layer, key), rng.normal(size=(5, 8))
    still = layer.apply(params, x)
    np.testing.assert_allclose(still, attention.multi_head_attention(8, 2).apply(params, x))
    draws = jax.vmap(lambda key: layer.apply(params, x, dropout_key=key))(
        jax.random.split(key, 400)
    )
    # The mean of 400 draws of weights 0 or 2, five of its standard errors.
    error = np.std(draws, axis=0) / 20
    np.testing.assert_array_less(np.abs(np.mean(draws, axis=0) - still), 5 * error)


def test_multi_head_attention_scale_is_that_of_written_out_scores(rng, key):
    layer = attention.multi_head_attention(8, 2, scale=0.1, rotary_base=50.0)
    params, x = parameters(layer, key), rng.normal(size=(5, 8))
    found, wanted = (layer.apply(params, x, implementation=i) for i in ("plain", None))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=256 * EPS * 8)


def test_multi_head_attention_edge_step_past_the_capacity_is_nan(rng, key):
    layer = LAYERS["plain"]
    params, x = parameters(layer, key), rng.normal(size=(3, 6))
    for implementation in (None, "plain"):
        step = jax.jit(functools.partial(layer.step, implementation=implementation))
        cache = layer.init_cache(2, dtype=jnp.float64)
        for i in range(3):
            cache, y = step(params, cache, x[i : i + 1])
            assert np.isnan(y).all() if i == 2 else np.isfinite(y).all()


WINDOWS = [
    (causal, window)
    for causal in (False, True)
    for window in (None, 2, (None, 1), (2, None), (3, 1))
]


def written_out(layer, causal, key, rng):
    """The layer in two forms, as functions of the parameters."""
    x = rng.normal(size=(2, 11, 8))
    return parameters(layer, key), [
        functools.partial(layer.apply, inputs=x, is_causal=causal, implementation=form)
        for form in (None, "plain")
    ]


@pytest.mark.parametrize(("causal", "window"), WINDOWS)
def test_multi_head_attention_written_out_equals_blockwise(rng, key, causal, window):
    layer = attention.multi_head_attention(
        8, 4, num_key_heads=2, value_size=3, local_window_size=window, logits_soft_cap=3.0
    )
    params, forms = written_out(layer, causal, key, rng)
    np.testing.assert_allclose(*(jax.jit(f)(params) for f in forms), rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 2), (True, 2)])
def test_multi_head_attention_written_out_has_the_gradient_of_blockwise(rng, key, causal, window):
    layer = attention.multi_head_attention(8, 2, local_window_size=window)
    params, forms = written_out(layer, causal, key, rng)
    one, other = (jax.jit(jax.grad(lambda p, f=f: jnp.sum(f(p) ** 2)))(params) for f in forms)
    for name in params:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-10)


def test_multi_head_attention_of_named_sizes_has_shapes_to_analyze():
    layer = attention.multi_head_attention("h*k", "h", use_bias=True)
    assert layer.shapes("bf16")["key"] == "bf16[h*k,h,k]"
    assert layer.shapes()["output_bias"] == "f32[h*k]"
    with pytest.raises(ValueError, match=r"must be a number to draw weights.*shapes\(\)"):
        layer.init(jax.random.key(0))


def test_multi_head_attention_positions_move_only_the_rotary_embedding(rng, key):
    layer = LAYERS["grouped_rotary_bias"]
    params = parameters(layer, key)
    x = rng.normal(size=(5, 6))
    apply = jax.jit(layer.apply)
    moved = apply(params, x, positions=np.arange(5) + 11)
    np.testing.assert_allclose(moved, apply(params, x), rtol=1e-11)


def test_multi_head_attention_keeps_the_scale_of_its_input(rng, key):
    layer = attention.multi_head_attention(64, 4)
    params = layer.init(key)
    assert all(value.dtype == jnp.float32 for value in params.values())
    for name in ("query", "key", "value", "output"):
        # 4096 draws: their standard deviation is known to 1.1 %; five of those.
        assert abs(float(params[name].std()) * 8 - 1) < 0.055


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (
            ValueError,
            lambda: attention.multi_head_attention(4, 1, local_window_size="r").apply(
                {}, jnp.zeros((5, 4))
            ),
            "`local_window_size` must be a number where `inputs` has numbers",
        ),
        (ValueError, lambda: attention.multi_head_attention("d +", 1), "an expression in names"),
        (
            ValueError,
            lambda: LAYERS["plain"].apply(
                LAYERS["plain"].init(jax.random.key(0), jnp.float64),
                jnp.zeros((5, 6)),
                bias=jnp.zeros((5, 5)),
                implementation="plain",
            ),
            "'plain' does not serve bias",
        ),
        (
            ValueError,
            lambda: attention.multi_head_attention(6, 2, dropout_rate=1.0),
            "`dropout_rate` must lie in",
        ),
        (ValueError, lambda: attention.multi_head_attention(6, 4), "`num_heads` must divide"),
        (
            ValueError,
            lambda: attention.multi_head_attention(8, 4, num_key_heads=3),
            "`num_key_heads` must divide",
        ),
        (ValueError, lambda: attention.multi_head_attention(0, 1), "`model_size` must be at least"),
        (TypeError, lambda: attention.multi_head_attention(8, 2.0), "`num_heads` must be a Python"),
        (
            ValueError,
            lambda: LAYERS["plain"].apply({}, jnp.ones((4, 5))),
            r"`inputs` must have shape \(\*batch, t, 6\)",
        ),
        (
            ValueError,
            lambda: LAYERS["plain"].apply({}, jnp.ones((4, 6)), jnp.ones((4, 5))),
            "`context` must have shape",
        ),
    ],
)
def test_multi_head_attention_rejects_wrong_arguments(kind, call, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "latent_size"), thinned([{"ragged": True}, {"page_size": 4}], [None, 5])
)
def test_multi_head_attention_serves_requests_of_different_lengths(rng, key, options, latent_size):
    layer = attention.multi_head_attention(
        12, 4, head_size=4, rotary_base=50.0, latent_size=latent_size
    )
    params = layer.init(key, jnp.float64)
    x = jnp.asarray(rng.normal(size=(3, 9, 12)))
    full = layer.apply(params, x, is_causal=True)
    cache = layer.init_cache(12, batch=(3,), dtype=jnp.float64, **options)
    if "page_size" in options:
        cache = attention.reserve_pages(cache, jnp.array([10, 4, 0]))
    lengths = jnp.array([7, 2])
    cache, y = layer.step(params, cache, x[:2, :7], entries=jnp.arange(2), lengths=lengths)
    np.testing.assert_allclose(y[0], full[0, :7], rtol=0, atol=1e-13)
    np.testing.assert_allclose(y[1, :2], full[1, :2], rtol=0, atol=1e-13)
    new = jnp.stack([x[0, 7:9], x[1, 2:4]])
    _, y = layer.step(params, cache, new, entries=jnp.arange(2))
    np.testing.assert_allclose(y[0], full[0, 7:9], rtol=0, atol=1e-13)
    np.testing.assert_allclose(y[1], full[1, 2:4], rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="'plain' does not serve a cache of one length an entry"):
        layer.step(params, cache, x[:, :2], implementation="plain")
