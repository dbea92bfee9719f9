"""``dot_product_attention`` is its definition, in value and in every derivative."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from equipoise import attention
from equipoise.attention._kernel import schedule as _schedule
from tests.attention.problems import (
    KEY,
    PROBLEMS,
    QUERY,
    SLOPES,
    TABLE,
    VALUE,
    B,
    H,
    N,
    S,
    T,
    normal,
)
from tests.compiled import compiled
from tests.oracles.attention import attend

ARRAYS = (QUERY, KEY, VALUE)
# Sums of at most 27 terms of order one, differentiated twice: some hundred roundings.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _heads_one_after_another(monkeypatch):
    """As where scores are many; other files have so few that all heads go together."""
    monkeypatch.setattr(_schedule, "_IN_CACHE", 1)


def run(options, implementation, *arrays):
    """(o, lse) in blocks that divide neither length."""
    if implementation == "reference":
        return attention.reference_attention(*arrays, **options, return_residual=True)
    return attention.dot_product_attention(*arrays, **options, block_size=8, return_residual=True)


def loss(options, implementation, *arrays):
    out, lse = run(options, implementation, *arrays)
    return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(jnp.where(jnp.isneginf(lse), 0, lse)))


def gradient(options, implementation, *arrays):
    return jax.grad(functools.partial(loss, options, implementation), (0, 1, 2))(*arrays)


def assert_close(function):
    chex.assert_trees_all_close(
        jax.jit(function, static_argnums=0)("blockwise", *ARRAYS),
        jax.jit(function, static_argnums=0)("reference", *ARRAYS),
        **CLOSE,
    )


@functools.cache
def in_blocks(name):
    """(o, lse) of a problem, compiled once for those who compare it."""
    return jax.jit(functools.partial(run, PROBLEMS[name], "blockwise"))(*ARRAYS)


@pytest.mark.parametrize("name", PROBLEMS)
def test_dot_product_attention_matches_definition(name):
    wanted = jax.jit(functools.partial(run, PROBLEMS[name], "reference"))(*ARRAYS)
    chex.assert_trees_all_close(in_blocks(name), wanted, **CLOSE)


# Dropout draws its own numbers, and masks that compose are held to their arrays in test_masks.
@pytest.mark.parametrize("name", sorted(set(PROBLEMS) - {"dropout", "composed"}))
def test_dot_product_attention_matches_numpy_float64(name):
    wanted = attend(*map(np.asarray, ARRAYS), **PROBLEMS[name])
    chex.assert_trees_all_close(in_blocks(name), wanted, **CLOSE)


@pytest.mark.parametrize("name", ["bias", "segments", "cap and sinks", "together"])
def test_dot_product_attention_gradient_matches_definition(name):
    assert_close(functools.partial(gradient, PROBLEMS[name]))


def all_derivatives(options, implementation, *arrays):
    def total(*arrays):
        return sum(jnp.sum(jnp.sin(x)) for x in gradient(options, implementation, *arrays))

    directions = tuple(0.5 - x for x in arrays)
    return (
        gradient(options, implementation, *arrays),
        jax.jvp(functools.partial(run, options, implementation), arrays, directions)[1],
        jax.jvp(functools.partial(gradient, options, implementation), arrays, directions)[1],
        jax.grad(total, (0, 1, 2))(*arrays),
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "together" else pytest.mark.slow) for name in PROBLEMS],
)
def test_dot_product_attention_matches_definition_at_second_order(name):
    # Where a row has no key its log-sum-exp is -inf in both, with tangent 0.
    assert_close(functools.partial(all_derivatives, PROBLEMS[name]))


@pytest.mark.slow
def test_dot_product_attention_gradients_match_finite_differences():
    function = jax.jit(functools.partial(run, PROBLEMS["bias"], None))
    check_grads(function, ARRAYS, order=2, modes=["fwd", "rev"])


def test_dot_product_attention_differentiates_what_functions_capture():
    def total(implementation, slopes, table, bias):
        function = attention.reference_attention
        if implementation == "blockwise":
            function = functools.partial(attention.dot_product_attention, block_size=8)
        out = function(
            *ARRAYS,
            bias,
            score_fn=lambda s, b, h, q, k: (
                s * (1 + 0.1 * table[q, k]) - slopes[h] * k.astype(float)
            ),
            logits_soft_cap=3.0,
        )
        return jnp.sum(jnp.sin(out))

    arrays = (SLOPES, TABLE, normal(N, 1, S))
    for argument in range(3):
        results = [
            jax.jit(jax.grad(functools.partial(total, name), argument))(*arrays)
            for name in ("blockwise", "reference")
        ]
        assert np.any(np.asarray(results[1]) != 0)
        np.testing.assert_allclose(*results, **CLOSE)


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, 0), (1, 0, 2)])
def test_dot_product_attention_vmaps_over_any_argument(axes):
    def f(q, k, v):
        out = attention.dot_product_attention(q, k, v, is_causal=True, block_size=8)
        return jnp.sum(jnp.sin(out))

    arrays = [
        x if a is None else jnp.stack([x, 0.5 * x], axis=a)
        for x, a in zip(ARRAYS, axes, strict=True)
    ]
    one = jax.jit(jax.grad(f, (0, 1, 2)))
    mapped = jax.jit(jax.vmap(one, in_axes=axes))(*arrays)
    for i in range(2):
        row = [
            x if a is None else jnp.take(x, i, axis=a) for x, a in zip(arrays, axes, strict=True)
        ]
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], mapped), one(*row), **CLOSE)


@pytest.mark.slow
def test_dot_product_attention_gradient_of_vmap_is_sum_of_gradients():
    ids = jnp.stack([jnp.zeros(T, int), jnp.arange(T) // 5])

    def f(q, ids):
        return attention.dot_product_attention(q, q, q, segment_ids=ids, block_size=8)

    def total(q):
        return jnp.sum(jnp.sin(jax.vmap(f, in_axes=(None, 0))(q, ids)))

    one = jax.jit(jax.grad(lambda q, i: jnp.sum(jnp.sin(f(q, i)))))
    query = QUERY[0]
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(query), one(query, ids[0]) + one(query, ids[1]), **CLOSE
    )


def test_dot_product_attention_matches_jax_nn():
    key, value = KEY.astype(jnp.float32), KEY.astype(jnp.float32) + 1
    arguments = (QUERY.astype(jnp.float32), key, value)
    for options in (
        {},
        {"is_causal": True},
        {"local_window_size": (3, 2)},
        {"scale": 0.3, "bias": jnp.asarray(normal(N, T, S), jnp.float32)},
    ):
        actual, wanted = (
            compiled(function)(*arguments, **options, return_residual=True)
            for function in (attention.dot_product_attention, jax.nn.dot_product_attention)
        )
        # float32 rounding of scores of order ten, twice.
        chex.assert_trees_all_close(actual, wanted, rtol=2e-5, atol=2e-5)


def test_dot_product_attention_of_grouped_heads_is_that_of_repeated_keys():
    key, value = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (KEY, VALUE))
    options = PROBLEMS["together"] | {"return_residual": True}
    attend = compiled(attention.dot_product_attention)
    chex.assert_trees_all_close(
        attend(*ARRAYS, **options), attend(QUERY, key, value, **options), **CLOSE
    )


def test_dot_product_attention_of_split_keys_merges_by_the_residual():
    def part(keys):
        return attention.dot_product_attention(
            QUERY, KEY[:, keys], VALUE[:, keys], return_residual=True
        )

    (first, a), (second, b) = part(slice(None, 10)), part(slice(10, None))
    out, lse = attention.dot_product_attention(*ARRAYS, return_residual=True)
    np.testing.assert_allclose(lse, jnp.logaddexp(a, b), **CLOSE)
    merged = jnp.exp(a - lse)[..., None] * first + jnp.exp(b - lse)[..., None] * second
    np.testing.assert_allclose(out, merged, **CLOSE)


def test_dot_product_attention_invariant_to_block_size():
    options = PROBLEMS["dropout"] | {"is_causal": True}
    results = [
        attention.dot_product_attention(*ARRAYS, **options, block_size=size) for size in (1, 7, 64)
    ]
    np.testing.assert_allclose(results[0], results[2], **CLOSE)
    np.testing.assert_allclose(results[1], results[2], **CLOSE)


@pytest.mark.slow
def test_dot_product_attention_takes_further_batch_axes_and_none():
    q, k, v = (jnp.stack([x, 2 * x]) for x in ARRAYS)
    out = attention.dot_product_attention(q, k, v)
    assert out.shape == (2, B, T, N, 3)
    one = attention.dot_product_attention(q[1, 0], k[1, 0], v[1, 0])
    np.testing.assert_allclose(out[1, 0], one, **CLOSE)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dot_product_attention_narrow_dtypes_sum_in_float32(dtype):
    narrow = [x.astype(dtype) for x in ARRAYS]
    exact = attention.reference_attention(*(x.astype(jnp.float64) for x in narrow))
    out = attention.dot_product_attention(*narrow)
    assert out.dtype == dtype
    error = np.max(np.abs(np.asarray(out, np.float64) - exact))
    # The result is rounded once; values are at most four.
    assert error <= 4 * float(jnp.finfo(dtype).eps)
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in narrow)
    key, value = (jnp.repeat(x, N // x.shape[1], axis=1) for x in (key, value))
    naive = jax.nn.softmax(query @ jnp.swapaxes(key, 2, 3) / dtype(H**0.5)) @ value
    naive_error = np.max(np.abs(np.asarray(jnp.swapaxes(naive, 1, 2), np.float64) - exact))
    assert error <= 2 * naive_error


def test_dot_product_attention_dropout_keeps_the_mean():
    value = jnp.ones_like(VALUE)

    def mean(key):
        return attention.dot_product_attention(
            QUERY, KEY, value, dropout_rate=0.4, dropout_key=key
        ).mean()

    means = jax.vmap(mean)(jax.random.split(jax.random.key(0), 64))
    # One output is 1 with variance 0.4/0.6 · Σp²; the mean of 64·168 of them, five deviations.
    assert abs(float(means.mean()) - 1) < 5 * (0.67 / (64 * B * T * N)) ** 0.5
