"""Keys and values in 8 bits: each number within its bound, and so is an output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from equipoise.attention._cache.quantized import quantized, restored
from tests.attention.cache.serving import EPS, empty, in_pages, rows, tokens

SHORT = [jnp.int8, jnp.float8_e4m3fn, jnp.float8_e5m2]
# Half the last bit of a number, by its size; half the least step, in units of the scale.
RELATIVE = {jnp.int8: 0, jnp.float8_e4m3fn: 1 / 17, jnp.float8_e5m2: 1 / 9}
LEAST = {jnp.int8: 0.5, jnp.float8_e4m3fn: 2**-10, jnp.float8_e5m2: 2**-17}


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("wide", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_quantized_is_off_by_half_a_step_at_most(rng, dtype, wide):
    magnitude = 10.0 ** rng.integers(-6, 7, size=(64, 1))
    x = jnp.asarray(magnitude * rng.normal(size=(64, 32)) ** 3, wide)
    short, scale = quantized(x, dtype)
    assert (short.dtype, scale.dtype) == (dtype, jnp.float32)
    x = np.asarray(x, float)
    off = np.abs(np.asarray(restored(short, scale, jnp.float64)) - x)
    # The scale itself, and what is divided by it, are rounded to float32.
    bound = np.maximum(
        RELATIVE[dtype] * np.abs(x), LEAST[dtype] * np.asarray(scale, float)[:, None]
    )
    rounding = 4 * np.finfo(np.float32).eps * np.abs(x).max(-1, keepdims=True)
    assert np.all(off <= bound + rounding)
    assert np.max(off / (bound + rounding)) > 0.9  # and no bound says more than is so
    largest = 127 if dtype == jnp.int8 else float(jnp.finfo(dtype).max)
    np.testing.assert_array_equal(np.abs(np.asarray(short, float)).max(-1), largest)


@pytest.mark.parametrize("dtype", SHORT)
def test_quantized_edges(dtype):
    x = jnp.array([[0.0, 0.0], [jnp.nan, 1.0], [jnp.inf, 1.0], [-1.0, 1.0]])
    back = np.asarray(restored(*quantized(x, dtype), jnp.float64))
    np.testing.assert_array_equal(back[0], 0)
    assert not np.any(np.isfinite(back[1:3]))
    np.testing.assert_array_equal(back[3, 0], -back[3, 1])
    slope = jax.grad(lambda x: jnp.sum(restored(*quantized(x, dtype), jnp.float64)))(x)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("paged", [False, True])
def test_decode_step_in_int8_keeps_the_stated_bound(rng, paged):
    """By max |v| (1/254 + e^{2δ} − 1), δ what a score moves at most."""
    x = tokens(rng, 3, 12)
    lengths = jnp.array([12, 3, 7])
    exact = attention.decode_step(empty(12, (3,)), *x, lengths=lengths)[1]
    options = {"dtype": jnp.int8}
    cache = in_pages(rng, 12, (3,), 4, **options) if paged else empty(12, (3,), **options)
    cache, y = attention.decode_step(cache, *x, lengths=lengths)
    assert (cache.key.dtype, cache.key_scale.dtype) == (jnp.int8, jnp.float32)
    q, k, v = (np.abs(z) for z in x)
    delta = q.sum(-1).max() * k.max() / 254 / np.sqrt(q.shape[-1])
    bound = v.max() * (1 / 254 + np.expm1(2 * delta)) + 1e-6  # scales are float32
    off = np.abs(np.asarray(y - exact)).max()
    assert 0 < off <= bound < 0.3 * v.max()
    # And twice as many read the very numbers that a cache of whole numbers would have.
    stored = restored(cache.key, cache.key_scale, jnp.float64)
    assert np.abs(stored).max() <= k.max() + 1e-6


@pytest.mark.parametrize("dtype", SHORT)
def test_decode_step_in_8_bits_reads_what_is_stored(rng, dtype):
    """Exactly the attention of the numbers that come back: nothing else is rounded."""
    q, k, v = tokens(rng, 2, 10)
    back = [restored(*quantized(z, dtype), jnp.float64) for z in (k, v)]
    full = attention.reference_attention(q, *back, is_causal=True)
    cache = empty(12, (2,), dtype=dtype)
    cache = attention.append_to_cache(cache, k[:, :8], v[:, :8])
    step = jax.jit(attention.decode_step)
    for i in (8, 9):
        cache, y = step(cache, *rows((q, k, v), range(2), (i, i), 1))
        np.testing.assert_allclose(y[:, 0], full[:, i], rtol=0, atol=64 * EPS)


def test_decode_step_in_int8_has_the_slope_of_queries_and_none_of_keys(rng):
    x = tokens(rng, 2, 5)
    back = [restored(*quantized(z, jnp.int8), jnp.float64) for z in x[1:]]

    def served(q, k, v):
        cache = empty(8, (2,), dtype=jnp.int8)
        return jnp.sum(jnp.sin(attention.decode_step(cache, q, k, v)[1]))

    def whole(q):
        return jnp.sum(jnp.sin(attention.reference_attention(q, *back, is_causal=True)))

    slopes = jax.grad(served, (0, 1, 2))(*x)
    np.testing.assert_allclose(slopes[0], jax.grad(whole)(x[0]), rtol=0, atol=2**8 * EPS)
    assert not np.any(slopes[1])
    assert not np.any(slopes[2])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_decode_step_takes_caches_of_another_dtype(rng, dtype):
    """Sums are those of the wider one, results have the dtype of the query."""
    x = [y.astype(dtype) for y in tokens(rng, 2, 6)]
    full = attention.reference_attention(*(y.astype(jnp.float64) for y in x), is_causal=True)
    _, y = attention.decode_step(empty(8, (2,), dtype=dtype), *x)
    assert y.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float64), full, rtol=0, atol=4 * eps)
    _, y = attention.decode_step(empty(8, (2,), dtype=jnp.float32), *x)
    np.testing.assert_allclose(y.astype(jnp.float64), full, rtol=0, atol=4 * eps)
