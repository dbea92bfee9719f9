"""What happens at the edges: no keys, masked rows, NaN behind a mask, bad input."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.attention.problems import KEY, QUERY, VALUE, B, E, N, S, T

ARRAYS = (QUERY, KEY, VALUE)
blocks = functools.partial(attention.dot_product_attention, block_size=8)


def test_dot_product_attention_edge_masked_rows_are_zero_with_zero_gradients():
    mask = jnp.ones((T, S), bool).at[3].set(False)

    def f(q, k, v):
        return blocks(q, k, v, mask=mask[None], return_residual=True)

    out, lse = f(*ARRAYS)
    assert np.all(np.asarray(out)[:, 3] == 0)
    assert np.all(np.isneginf(np.asarray(lse)[:, 3]))
    assert np.all(np.isfinite(np.asarray(lse)[:, :3]))
    row = jax.grad(lambda *a: jnp.sum(f(*a)[0][:, 3]), (0, 1, 2))(*ARRAYS)
    chex.assert_trees_all_equal(row, jax.tree.map(jnp.zeros_like, row))
    whole = jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a)[0])), (0, 1, 2))(*ARRAYS)
    assert all(np.all(np.isfinite(x)) for x in whole)
    assert np.all(np.asarray(whole[0])[:, 3] == 0)


def test_dot_product_attention_edge_infinite_bias_masks():
    bias = jnp.zeros((T, S)).at[3].set(-jnp.inf).at[:, 5].set(-jnp.inf)
    allowed = ~jnp.isneginf(bias)
    for cap in (None, 2.0):
        actual = blocks(*ARRAYS, bias=bias[None], logits_soft_cap=cap)
        wanted = blocks(*ARRAYS, mask=allowed[None], logits_soft_cap=cap)
        chex.assert_trees_all_equal(actual, wanted)
    gradient = jax.grad(lambda b: jnp.sum(jnp.sin(blocks(*ARRAYS, bias=b[None]))))(bias)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient)[3] == 0)


@jax.jit
def without_a_key(*arrays):
    """Values, gradients and a tangent where no row may read key 11."""
    mask = jnp.ones((T, S), bool).at[:, 11].set(False)

    def f(q, k, v):
        return blocks(q, k, v, mask=mask[None], return_residual=True)

    gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a)[0])), (0, 1, 2))
    tangents = tuple(jnp.ones_like(x) for x in arrays)
    return f(*arrays), gradient(*arrays), jax.jvp(f, arrays, tangents)[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_dot_product_attention_edge_masked_nonfinite_reaches_nothing(bad):
    clean = without_a_key(QUERY, KEY.at[:, 11].set(0), VALUE.at[:, 11].set(0))
    dirty = without_a_key(QUERY, KEY.at[:, 11].set(bad), VALUE.at[:, 11].set(bad))
    chex.assert_trees_all_close(dirty, clean, rtol=1e-12, atol=1e-12)


@jax.jit
def causal_with_tangent(*arrays):
    attend = functools.partial(blocks, is_causal=True)
    return jax.jvp(attend, arrays, tuple(jnp.ones_like(x) for x in arrays))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_dot_product_attention_edge_nonfinite_reaches_only_rows_that_may_read_it(bad):
    last = T - 4
    for dirty in (
        (QUERY, KEY[:, :T].at[:, last].set(bad), VALUE[:, :T]),
        (QUERY, KEY[:, :T], VALUE[:, :T].at[:, last].set(bad)),
    ):
        out, tangent = map(np.asarray, causal_with_tangent(*dirty))
        clean = np.asarray(causal_with_tangent(QUERY, KEY[:, :T], VALUE[:, :T])[0])
        np.testing.assert_allclose(out[:, :last], clean[:, :last], rtol=1e-12)
        assert not np.any(np.isfinite(out[:, last])) or bad == np.inf
        assert np.all(np.isfinite(tangent[:, :last]))


def test_dot_product_attention_edge_nan_value_that_is_read_is_seen():
    value = VALUE.at[0, 2].set(jnp.nan)
    for options in ({}, {"mask": attention.from_function(lambda b, h, q, k: k < 5)}):
        out = blocks(QUERY, KEY, value, **options)
        assert np.all(np.isnan(out[0]))
        assert np.all(np.isfinite(out[1]))


def test_dot_product_attention_edge_no_keys_no_rows():
    out, lse = blocks(QUERY, KEY[:, :0], VALUE[:, :0], return_residual=True)
    assert np.all(out == 0)
    assert out.shape == (B, T, N, E)
    assert np.all(np.isneginf(lse))
    assert blocks(QUERY[:, :0], KEY, VALUE).shape == (B, 0, N, E)
    gradient = jax.grad(lambda q: jnp.sum(blocks(q, KEY[:, :0], VALUE[:, :0])))(QUERY)
    assert np.all(gradient == 0)


@pytest.mark.parametrize(("b", "t", "s"), [(B, T, 0), (B, 0, S), (0, T, S), (0, 0, 0)])
def test_attention_edge_nothing_to_read_or_nobody_to_read_it(b, t, s):
    """Of functions of indices too, and of their derivatives."""
    q, k, v = QUERY[:b, :t], KEY[:b, :s], VALUE[:b, :s]
    options = {
        "mask_fn": lambda b, h, i, j: i > j,
        "score_fn": lambda s, b, h, i, j: 2 * s,
        "dropout_rate": 0.5,
        "dropout_key": jax.random.key(0),
    }

    @jax.jit
    def found(q):
        found = [
            attend(q, k, v, return_residual=True, **options)
            for attend in (attention.dot_product_attention, attention.reference_attention)
        ]
        statistics = attention.attention_statistics(q, k, mask=attention.causal())
        return *found, attention.linear_attention(q, k, v), statistics

    (out, lse), reference, linear, statistics = found(q)
    assert out.shape == linear.shape == (b, t, N, E)
    chex.assert_trees_all_equal((out, lse), reference)
    assert np.all(out == 0)
    assert np.all(np.isneginf(lse))
    assert statistics.top_weights.shape == (b, t, N, 1)
    assert statistics.key_mass.shape == (b, s, N)
    if s == 0:
        assert np.all(statistics.top_indices == -1)
        assert np.all(statistics.top_weights == 0)
        assert np.all(statistics.entropy == 0)
    slopes = jax.grad(lambda q: sum(jnp.sum(x) for x in (found(q)[0][0], found(q)[3].entropy)))(q)
    assert np.all(slopes == 0)


def test_attention_makes_no_infinity_of_its_own_where_they_are_looked_for():
    x = QUERY[:, :, :2]
    with jax.debug_infs(True):
        for options in ({"is_causal": True}, {"local_window_size": 3, "sinks": jnp.ones(2)}):
            blocks(x, x, x, **options)
            attention.reference_attention(x, x, x, **options)
        attention.attention_statistics(x, x, mask=attention.causal())
        attention.linear_attention(x, x, x, is_causal=True)


def test_dot_product_attention_first_row_of_causal_reads_the_first_key():
    out = blocks(*ARRAYS, is_causal=True)
    first = jnp.repeat(VALUE[:, 0], N // VALUE.shape[2], axis=1)
    np.testing.assert_allclose(out[:, 0], first, rtol=1e-12)


def test_dot_product_attention_invariant_to_permuted_keys():
    order = jnp.asarray(np.random.default_rng(1).permutation(S))
    actual = blocks(QUERY, KEY[:, order], VALUE[:, order])
    np.testing.assert_allclose(actual, blocks(*ARRAYS), rtol=1e-10, atol=1e-12)


def test_dot_product_attention_constant_bias_moves_the_residual_alone():
    out, lse = blocks(*ARRAYS, return_residual=True)
    moved, lse_moved = blocks(*ARRAYS, bias=jnp.full((1, 1, 1), 3.0), return_residual=True)
    np.testing.assert_allclose(moved, out, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(lse_moved, lse + 3, rtol=1e-12)


def test_dot_product_attention_sink_scales_by_a_sigmoid():
    sinks = jnp.linspace(0.0, 2.0, N)
    out, lse = blocks(*ARRAYS, return_residual=True)
    actual, with_sink = blocks(*ARRAYS, sinks=sinks, return_residual=True)
    share = jax.nn.sigmoid(lse - sinks[None, None])
    np.testing.assert_allclose(actual, out * share[..., None], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(with_sink, jnp.logaddexp(lse, sinks[None, None]), rtol=1e-12)


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (ValueError, "`query` must have shape", (QUERY[0, 0], KEY, VALUE), {}),
        (ValueError, "`key` must have shape", (QUERY, KEY[0], VALUE), {}),
        (ValueError, "`key` must have the head size", (QUERY, KEY[..., :2], VALUE), {}),
        (ValueError, "`value` must have the lengths", (QUERY, KEY, VALUE[:, :3]), {}),
        (ValueError, "multiple of `key`'s", (QUERY[:, :, :3], KEY, VALUE), {}),
        (TypeError, "`query` must be a floating-point", (QUERY.astype(int), KEY, VALUE), {}),
        (TypeError, "`key` must have the dtype", (QUERY, KEY.astype(jnp.float32), VALUE), {}),
        (ValueError, "`bias` must broadcast", ARRAYS, {"bias": jnp.ones((3, T, S))}),
        (ValueError, "`mask` must broadcast", ARRAYS, {"mask": jnp.ones((T, S + 1), bool)}),
        (TypeError, "`mask` must be boolean", ARRAYS, {"mask": jnp.ones((T, S))}),
        (ValueError, "`dropout_key` must be", ARRAYS, {"dropout_rate": 0.1}),
        (ValueError, "`dropout_rate` must lie", ARRAYS, {"dropout_rate": 1.0}),
        (ValueError, "`sinks` must have shape", ARRAYS, {"sinks": jnp.ones(N + 1)}),
        (ValueError, "`segment_ids` must have shape", ARRAYS, {"segment_ids": jnp.ones(T, int)}),
        (TypeError, "`query_offset` must hold integers", ARRAYS, {"query_offset": 0.5}),
        (ValueError, "must have shape", ARRAYS, {"query_seq_lengths": jnp.ones(5, int)}),
        (ValueError, "`local_window_size` must be", ARRAYS, {"local_window_size": (1, 2, 3)}),
        (ValueError, "`implementation` must be one of", ARRAYS, {"implementation": "flash"}),
        (ValueError, "attention.reference_attention", ARRAYS, {"implementation": "reference"}),
        (TypeError, "`block_size` must be a Python", ARRAYS, {"block_size": 2.0}),
        (TypeError, "`score_fn` must return", ARRAYS, {"score_fn": lambda s, b, h, q, k: q}),
        (TypeError, "`mask_fn` must return", ARRAYS, {"mask_fn": lambda b, h, q, k: q}),
        (TypeError, "`scale` must be a real scalar", ARRAYS, {"scale": jnp.ones(3)}),
    ],
)
def test_dot_product_attention_rejects(error, match, arguments, options):
    with pytest.raises(error, match=match):
        attention.dot_product_attention(*arguments, **options)
    if "implementation" not in options and "block_size" not in options:
        with pytest.raises(error, match=match):
            attention.reference_attention(*arguments, **options)


def test_dot_product_attention_cudnn_says_why_it_cannot_serve():
    half = [jnp.zeros((B, x.shape[1], N, 8), jnp.bfloat16) for x in (QUERY, KEY, KEY)]
    for options, reason in (
        ({"logits_soft_cap": 1.0}, "`logits_soft_cap` None"),
        ({"local_window_size": 3}, r"`mask` causal.*got windows.*\(3, 3\)"),
        ({"query_offset": 2}, "`query_offset` the integer 0"),
        ({}, "needs an NVIDIA GPU"),
    ):
        with pytest.raises(ValueError, match=reason):
            attention.dot_product_attention(*half, implementation="cudnn", **options)
    with pytest.raises(ValueError, match="`query` float16 or bfloat16; got float64"):
        attention.dot_product_attention(*ARRAYS, implementation="cudnn")


def test_reference_names_an_option_that_attention_does_not_have():
    x = jnp.ones((2, 1, 3))
    with pytest.raises(TypeError, match="`causal` is not an argument of attention"):
        attention.reference_attention(x, x, x, causal=True)
