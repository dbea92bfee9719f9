"""Latent keys and values: the layer equals its definition, with keys that a step never makes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention, cost
from tests.oracles import sequence
from tests.thinned import slow_but

EPS = np.finfo(np.float64).eps
D, N, H, E, C, R = 12, 3, 4, 5, 6, 2
LATENT = functools.partial(
    attention.multi_head_attention, D, N, head_size=H, value_size=E, latent_size=C
)
LAYERS = {
    "latent": LATENT(),
    "turned": LATENT(rotary_base=50.0),
    "queries": LATENT(rotary_base=50.0, query_latent_size=7, normalize_keys=True),
    "options": LATENT(
        rotary_base=50.0,
        rotary_size=4,
        local_window_size=(3, 0),
        logits_soft_cap=5.0,
        use_sinks=True,
        scale=0.3,
    ),
}
# The same sums in another order, of some tens of terms whose results are of order one to ten.
BOUND = {"rtol": 0, "atol": 2**12 * EPS}


def parameters(layer, key):
    return jax.tree.map(lambda p: p + 0.1, layer.init(key, jnp.float64))


def by_definition(layer, params, x):
    """Equations 9 to 19 of DeepSeek-V2: every head's keys and values are made, in NumPy."""
    p = {name: np.asarray(value) for name, value in params.items()}

    def normed(vector, name):
        if name not in p:
            return vector
        return vector / np.sqrt(np.mean(vector**2, -1, keepdims=True) + 1e-6) * p[name]

    asked = x
    if layer.query_latent_size is not None:
        asked = normed(x @ p["query_latent"], "query_latent_norm")
    latent = normed(x @ p["latent"], "latent_norm")
    y = np.zeros_like(x)
    i, j = np.arange(len(x))[:, None], np.arange(len(x))
    allowed = j <= i
    if layer.local_window_size is not None:
        allowed &= j >= i - layer.local_window_size[0]
    for head in range(N):
        q, k = asked @ p["query"][:, head], latent @ p["key"][:, head]
        v = latent @ p["value"][:, head]
        if layer.rotary_base is not None:
            turn = functools.partial(
                sequence.rotary,
                positions=np.arange(len(x)),
                base=layer.rotary_base,
                size=layer.rotary_size,
                interleaved=False,
            )
            turned = (asked @ p["rotary_query"][:, head], x @ p["rotary_key"])
            q_turned, k_turned = (turn(z[:, None])[:, 0] for z in turned)
            q, k = np.concatenate([q, q_turned], -1), np.concatenate([k, k_turned], -1)
        scores = q @ k.T * (layer.scale or q.shape[-1] ** -0.5)
        if layer.logits_soft_cap is not None:
            scores = layer.logits_soft_cap * np.tanh(scores / layer.logits_soft_cap)
        weights = np.where(allowed, np.exp(scores), 0)
        sink = np.exp(p["sinks"][head]) if layer.use_sinks else 0
        y += weights / (weights.sum(1, keepdims=True) + sink) @ v @ p["output"][head]
    return y


def decoded(layer, params, x, *, ring=False, sizes=(4, 1, 1, 1, 1, 1), **options):
    """What a prompt and then single tokens give."""
    capacity = 7 if ring else x.shape[-2]
    cache = layer.init_cache(capacity, batch=x.shape[:-2], dtype=x.dtype, ring=ring)
    rows, start = [], 0
    for size in sizes:
        tokens = x[..., start : start + size, :]
        cache, y = layer.step(params, cache, tokens, **options)
        rows.append(y)
        start += size
    return jnp.concatenate(rows, axis=-2)


@pytest.mark.parametrize("name", slow_but(LAYERS, "queries", "options"))
def test_multi_head_attention_with_a_latent_matches_definition(rng, key, name):
    layer = LAYERS[name]
    params, x = parameters(layer, key), jnp.asarray(rng.normal(size=(2, 9, D)))
    expected = np.stack([by_definition(layer, params, np.asarray(entry)) for entry in x])
    full = jax.jit(functools.partial(layer.apply, is_causal=True))(params, x)
    np.testing.assert_allclose(full, expected, **BOUND)
    steps = jax.jit(functools.partial(decoded, layer))(params, x)
    np.testing.assert_allclose(steps, expected, **BOUND)


@pytest.mark.parametrize(
    ("name", "ring"), [("queries", False), pytest.param("options", True, marks=pytest.mark.slow)]
)
def test_multi_head_attention_with_a_latent_steps_have_the_gradient_of_apply(rng, key, name, ring):
    layer = LAYERS[name]
    params, x = parameters(layer, key), jnp.asarray(rng.normal(size=(9, D)))

    def total(run):
        return jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(run(params, x)))))(params)

    at_once = total(functools.partial(layer.apply, is_causal=True))
    in_steps = total(functools.partial(decoded, layer, ring=ring))
    assert set(at_once) == set(layer.weights)
    for weight in at_once:
        assert np.abs(at_once[weight]).max() > 1e-4
        np.testing.assert_allclose(at_once[weight], in_steps[weight], rtol=0, atol=2**14 * EPS)


@pytest.mark.parametrize("name", slow_but(("latent", "queries"), "queries"))
def test_multi_head_attention_with_a_latent_written_out_equals_blockwise(rng, key, name):
    layer = LAYERS[name]
    params, x = parameters(layer, key), jnp.asarray(rng.normal(size=(9, D)))
    wanted = layer.apply(params, x, is_causal=True)
    found = jax.jit(functools.partial(layer.apply, is_causal=True, implementation="plain"))
    np.testing.assert_allclose(found(params, x), wanted, **BOUND)
    steps = jax.jit(functools.partial(decoded, layer, implementation="plain"))
    np.testing.assert_allclose(steps(params, x), wanted, **BOUND)


def test_multi_head_attention_with_a_latent_caches_latents_alone():
    """And what of a key is turned: c + r numbers a token, whatever the heads."""
    for layer, numbers in ((LAYERS["latent"], C), (LAYERS["turned"], C + R)):
        cache = layer.init_cache(100, dtype=jnp.float32)
        assert sum(x.nbytes for x in (cache.key, cache.value)) == 100 * numbers * 4


def test_multi_head_attention_with_a_latent_makes_no_key_in_a_step():
    """Products of a step: projections, absorbed maps, and two a head with each token's latent."""
    layer = LAYERS["turned"]
    params = {name: jax.ShapeDtypeStruct(w.shape, jnp.float32) for name, w in layer.weights.items()}

    def products(capacity):
        cache = jax.eval_shape(lambda: layer.init_cache(capacity))
        x = jax.ShapeDtypeStruct((1, D), jnp.float32)
        step = functools.partial(layer.step, implementation="plain")
        return cost.analyze(step, params, cache, x).by("primitive")["dot_general"].evaluate()

    projections = D * N * (H + R) + D * (C + R) + N * E * D
    maps = N * C * (H + E)
    for s in (64, 128):
        assert products(s) == 2 * (projections + maps + 2 * N * s * (C + R))


def test_multi_head_attention_with_a_latent_is_counted_by_names():
    layer = attention.multi_head_attention(
        "d", "n", head_size="h", latent_size="c", rotary_base=1e4, rotary_size=R
    )
    run = functools.partial(layer.apply, is_causal=True, implementation="plain")
    found = cost.analyze(run, layer.shapes(), "f32[t,d]").by("primitive")["dot_general"]
    d, n, h, c, t = sizes = (5, 3, 4, 7, 11)
    expected = 2 * t * (d * n * (h + R) + d * (c + R) + 2 * c * n * h + n * h * d)
    expected += 2 * n * t * t * (2 * h + R)
    assert found.evaluate(**dict(zip("dnhct", sizes, strict=True))) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"latent_size": 4, "num_key_heads": 2},
            "`num_key_heads` must be None with a `latent_size`",
        ),
        ({"latent_size": 4, "use_bias": True}, "`use_bias` must be False with a `latent_size`"),
        ({"latent_size": 0}, "`latent_size` must be at least 1"),
        ({"query_latent_size": 0}, "`query_latent_size` must be at least 1"),
        ({"rotary_size": 2}, "`rotary_size` needs a `rotary_base`"),
        ({"latent_size": 4, "rotary_base": 9.0, "rotary_size": 3}, "`rotary_size` must be even"),
        ({"rotary_base": 9.0, "rotary_size": 6}, "`rotary_size` must be at most the head size, 4"),
        ({"latent_size": 4, "rotary_base": 9.0, "head_size": 3}, "`rotary_size` must be even"),
    ],
)
def test_multi_head_attention_with_a_latent_rejects_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        attention.multi_head_attention(8, 2, **options)
