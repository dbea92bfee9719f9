"""Decoding a token at a time equals the full causal computation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention

EPS = np.finfo(np.float64).eps
TOKENS = 10


def arrays(rng, batch=(2,), t=TOKENS, n=4, k=2, h=3, e=5):
    return tuple(
        jnp.asarray(rng.normal(size=(*batch, t, heads, size)))
        for heads, size in ((n, h), (k, h), (k, e))
    )


def decode(cache, arrays, chunks, **options):
    """Rows of all chunks, and how often the step was traced."""
    traces = []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(cache, q, k, v):
        traces.append(None)
        return attention.decode_step(cache, q, k, v, **options)

    rows, start = [], 0
    for size in chunks:
        cache, y = step(cache, *(x[..., start : start + size, :, :] for x in arrays))
        rows.append(y)
        start += size
    return jnp.concatenate(rows, axis=-3), cache, len(traces)


def empty(capacity, batch=(2,), **options):
    return attention.init_cache(
        capacity, 2, 3, value_size=5, batch=batch, dtype=jnp.float64, **options
    )


def distance_mask(batch, head, q, k):
    return (q - k) % 3 != 1


OPTIONS = {
    "plain": {},
    "window": {"local_window_size": (3, 0)},
    "window_both_sides": {"local_window_size": 4},
    "cap_sinks_scale": {"logits_soft_cap": 2.0, "sinks": jnp.arange(4.0), "scale": 0.7},
    "slopes_and_mask": {"score_fn": attention.alibi(4), "mask_fn": distance_mask},
    "window_slopes_mask": {
        "score_fn": attention.alibi(4),
        "mask_fn": distance_mask,
        "local_window_size": 3,
    },
}


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_decode_step_equals_the_full_computation(rng, name, ring):
    options = OPTIONS[name]
    full = attention.reference_attention(*(x := arrays(rng)), is_causal=True, **options)
    windowed = "local_window_size" in options
    capacity = (6 if windowed else TOKENS) if ring else 13
    y, cache, traces = decode(empty(capacity, ring=ring), x, [1] * TOKENS, **options)
    # Ten terms of order one, in another order.
    np.testing.assert_allclose(y, full, rtol=0, atol=64 * EPS)
    assert traces == 1
    assert cache.length == TOKENS
    assert not cache.overflowed


@pytest.mark.parametrize("ring", [False, True])
def test_decode_step_takes_several_tokens_at_once(rng, ring):
    x = arrays(rng, batch=())
    options = {"local_window_size": 3}
    full = attention.reference_attention(*x, is_causal=True, **options)
    cache = empty(7 if ring else TOKENS, batch=(), ring=ring)
    y, _, _ = decode(cache, x, [4, 1, 3, 2], **options)
    np.testing.assert_allclose(y, full, rtol=0, atol=64 * EPS)


def test_decode_step_ring_without_window_reads_the_last_keys(rng):
    x = arrays(rng)
    full = attention.reference_attention(*x, is_causal=True, local_window_size=3)
    y, _, _ = decode(empty(4, ring=True), x, [1] * TOKENS)
    np.testing.assert_allclose(y, full, rtol=0, atol=64 * EPS)


def test_decode_step_overflow_is_nan_and_loses_nothing(rng):
    x = arrays(rng)
    full = attention.reference_attention(*x, is_causal=True)
    y, cache, _ = decode(empty(7), x, [1] * TOKENS)
    np.testing.assert_allclose(y[:, :7], full[:, :7], rtol=0, atol=64 * EPS)
    assert np.all(np.isnan(y[:, 7:]))
    assert cache.overflowed
    assert cache.length == TOKENS
    np.testing.assert_array_equal(cache.key, x[1][:, :7])
    np.testing.assert_array_equal(cache.value, x[2][:, :7])


def test_append_to_cache_then_decode_continues_a_prompt(rng):
    q, k, v = arrays(rng)
    full = attention.reference_attention(q, k, v, is_causal=True)
    cache = attention.append_to_cache(empty(TOKENS), k[:, :8], v[:, :8])
    y, _, _ = decode(cache, (q[:, 8:], k[:, 8:], v[:, 8:]), [1, 1])
    np.testing.assert_allclose(y, full[:, 8:], rtol=0, atol=64 * EPS)


def test_append_to_cache_ring_replaces_the_oldest():
    cache = attention.init_cache(3, 1, 1, ring=True)
    for i in range(5):
        token = jnp.full((1, 1, 1), i, jnp.float32)
        cache = attention.append_to_cache(cache, token, token)
    np.testing.assert_array_equal(cache.key[:, 0, 0], [3, 4, 2])


def test_decode_step_maps_over_entries_of_different_length(rng):
    q, k, v = arrays(rng)
    lengths = (3, 6)
    caches = [
        attention.append_to_cache(empty(TOKENS, batch=()), k[i, :n], v[i, :n])
        for i, n in enumerate(lengths)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)
    new = [jnp.stack([x[i, n : n + 1] for i, n in enumerate(lengths)]) for x in (q, k, v)]
    _, y = jax.jit(jax.vmap(attention.decode_step))(stacked, *new)
    full = attention.reference_attention(q, k, v, is_causal=True)
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(y[i, 0], full[i, n], rtol=0, atol=64 * EPS)


@pytest.mark.parametrize("window", [None, (31, 0)])
def test_decode_step_work_does_not_grow_with_capacity(window):
    def work(capacity):
        """FLOPs of one pass through every loop, and bytes held beside the donated cache."""
        cache = jax.eval_shape(lambda: attention.init_cache(capacity, 2, 16))
        x = jax.ShapeDtypeStruct((1, 2, 16), jnp.float32)
        step = functools.partial(attention.decode_step, local_window_size=window)
        program = jax.jit(step, donate_argnums=0).lower(cache, x, x, x).compile()
        return (
            program.cost_analysis()["flops"],
            program.memory_analysis().temp_size_in_bytes,
        )

    (small_flops, small_bytes), (flops, bytes_held) = work(2**12), work(2**16)
    # Which of the 128 blocks are read is a list of that length.
    assert flops < 1.1 * small_flops
    assert bytes_held < small_bytes + 128 * 100


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (ValueError, lambda c, x: attention.init_cache(0, 1, 1), "`capacity` must be at least 1"),
        (TypeError, lambda c, x: attention.init_cache(2.0, 1, 1), "`capacity` must be a Python"),
        (
            TypeError,
            lambda c, x: attention.init_cache(2, 1, 1, dtype=jnp.int32),
            "`dtype` must be floating",
        ),
        (
            ValueError,
            lambda c, x: attention.append_to_cache(c, x[1][..., :2], x[2]),
            "`key` must have the batch axes of the cache",
        ),
        (
            ValueError,
            lambda c, x: attention.append_to_cache(c, x[1], x[2][:, :3]),
            "`value` must have the batch axes of the cache",
        ),
        (
            ValueError,
            lambda c, x: attention.append_to_cache(c, x[1][0, 0, 0], x[2]),
            "`key` must have the batch axes of the cache",
        ),
        (ValueError, lambda c, x: attention.append_to_cache(c, x[1], x[2]), "at most 4 tokens"),
        (
            TypeError,
            lambda c, x: attention.append_to_cache(c, x[1].astype(int), x[2]),
            "`key` must be a floating",
        ),
        (
            ValueError,
            lambda c, x: attention.decode_step(c, x[0][:, :1], x[1][:, :2], x[2][:, :2]),
            "`query` must have the batch axes and tokens",
        ),
        (
            TypeError,
            lambda c, x: attention.decode_step((c.key, c.value), *x),
            "`cache` must be a KVCache",
        ),
        (
            TypeError,
            lambda c, x: attention.append_to_cache(x[1], x[1], x[2]),
            "`cache` must be a KVCache",
        ),
        (
            TypeError,
            lambda c, x: attention.decode_step(c, x[0].astype(int), x[1], x[2]),
            "`query` must be a floating",
        ),
        (
            ValueError,
            lambda c, x: attention.decode_step(
                empty(4, ring=True), *(y[:, :1] for y in x), local_window_size=4
            ),
            "`local_window_size` must leave room in a ring of 4",
        ),
    ],
)
def test_cache_rejects_wrong_arguments(rng, kind, call, message):
    with pytest.raises(kind, match=message):
        call(empty(4), arrays(rng))
