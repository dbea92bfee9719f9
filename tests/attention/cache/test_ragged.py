"""One length an entry: each equals its request alone, and costs what its own tokens cost."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from equipoise.attention._cache import read
from tests.attention.cache.serving import EPS, N, empty, in_pages, rows, tokens
from tests.thinned import slow_but, thinned

LENGTHS, T = np.array([5, 0, 11, 1]), 15
EVERY = range(4)
BIAS = np.random.default_rng(3).normal(size=(4, N, 1, 20))
IDS = np.random.default_rng(4).integers(0, 2, size=(4, 20))


def far_or_near(batch, head, q, k):
    return ((q - k) % 3 != 1) | (batch == head)


# By name the options of a step from position p of each entry on, the first n of its capacity.
OPTIONS = {
    "plain": lambda p, n: {},
    "window": lambda p, n: {"local_window_size": (3, 0)},
    "cap_sinks_scale": lambda p, n: {
        "logits_soft_cap": 2.0,
        "sinks": jnp.arange(4.0),
        "scale": 0.7,
    },
    "functions": lambda p, n: {"score_fn": attention.alibi(N), "mask_fn": far_or_near},
    "bias": lambda p, n: {"bias": jnp.asarray(BIAS)},
    "array": lambda p, n: {"mask": jnp.asarray((BIAS > -1) | (np.arange(20) == 0))},
    "mask": lambda p, n: {
        "mask": attention.sliding_window((4, None)) | attention.prefix(2),
        "logits_soft_cap": 3.0,
    },
    "segments": lambda p, n: {
        "segment_ids": (
            jnp.stack([jnp.asarray(i[s : s + n], jnp.int32) for i, s in zip(IDS, p, strict=True)]),
            jnp.asarray(IDS, jnp.int32),
        )
    },
}


def in_full(x, name):
    """What each entry's rows are in the computation of its whole sequence."""
    options = OPTIONS[name]([0] * 4, T)
    for key in ("bias", "mask"):
        if isinstance(options.get(key), jax.Array):
            options[key] = options[key][..., :T]
    if "segment_ids" in options:
        options["segment_ids"] = options["segment_ids"][1][:, :T]
    return attention.reference_attention(*x, is_causal=True, return_residual=True, **options)


STORAGES = [("plain", "at_once"), *zip(OPTIONS, ["in_pages", "at_once"] * 4, strict=True)]


@pytest.mark.parametrize(("name", "storage"), STORAGES)
def test_decode_step_of_different_lengths_equals_each_alone(rng, name, storage):
    x = tokens(rng, 4, T)
    cache = empty(20, (4,)) if storage == "at_once" else in_pages(rng, 20, (4,), 4)
    y, lse = in_full(x, name)
    step = jax.jit(functools.partial(attention.decode_step, return_residual=True), donate_argnums=0)
    prompts, starts = rows(x, EVERY, [0] * 4, 11), LENGTHS.copy()
    options = OPTIONS[name]([0] * 4, 11)
    cache, (found, found_lse) = attention.decode_step(
        cache, *prompts, lengths=jnp.asarray(LENGTHS), return_residual=True, **options
    )
    for b, n in enumerate(LENGTHS):
        # Eleven terms of order one, in another order.
        np.testing.assert_allclose(found[b, :n], y[b, :n], rtol=0, atol=64 * EPS)
        np.testing.assert_allclose(found_lse[b, :n], lse[b, :n], rtol=0, atol=64 * EPS)
        assert not np.any(found[b, n:])
    for _ in range(2):
        if name in ("functions", "mask"):  # functions and masks are no arguments of a jit
            step = functools.partial(attention.decode_step, return_residual=True)
        cache, (found, found_lse) = step(
            cache, *rows(x, EVERY, starts, 2), **OPTIONS[name](starts, 2)
        )
        for b, s in enumerate(starts):
            np.testing.assert_allclose(found[b], y[b, s : s + 2], rtol=0, atol=64 * EPS)
            np.testing.assert_allclose(found_lse[b], lse[b, s : s + 2], rtol=0, atol=64 * EPS)
        starts += 2
    np.testing.assert_array_equal(cache.length, LENGTHS + 4)


@pytest.mark.parametrize("make", [empty, functools.partial(in_pages, np.random.default_rng(0))])
def test_decode_step_of_chosen_entries_leaves_the_others(rng, make):
    x = tokens(rng, 4, T)
    cache = make(20, (4,)) if make is empty else make(20, (4,), 4)
    full = attention.reference_attention(*x, is_causal=True)
    prompts = rows(x, (2, 0), (0, 0), 6)
    cache = attention.append_to_cache(
        cache, *prompts[1:], entries=jnp.array([2, 0]), lengths=jnp.array([6, 3])
    )
    np.testing.assert_array_equal(cache.length, [3, 0, 6, 0])
    new = rows(x, (0, 3, 2), (3, 0, 6), 1)
    decode = jax.jit(attention.decode_step)
    for step in (attention.decode_step, decode):
        after, y = step(cache, *new, entries=jnp.array([0, -1, 2]))
        np.testing.assert_allclose(y[0, 0], full[0, 3], rtol=0, atol=64 * EPS)
        np.testing.assert_allclose(y[2, 0], full[2, 6], rtol=0, atol=64 * EPS)
        assert np.all(np.isnan(y[1]))  # of no entry
        np.testing.assert_array_equal(after.length, [4, 0, 7, 0])
    others = attention.decode_step(cache, *rows(x, EVERY, [3, 0, 6, 0], 1))[1]
    np.testing.assert_allclose(others[3, 0], full[3, 0], rtol=0, atol=64 * EPS)


def test_decode_step_ragged_ring_equals_a_window(rng):
    x = tokens(rng, 4, T + 4)
    full = attention.reference_attention(*x, is_causal=True, local_window_size=3)
    cache, starts = empty(7, (4,), ring=True), np.zeros(4, int)
    step = jax.jit(functools.partial(attention.decode_step, local_window_size=3))
    for counts in ([4, 1, 0, 3], [2, 4, 4, 4], [4, 4, 1, 3], [3, 0, 4, 1]):
        cache, y = step(cache, *rows(x, EVERY, starts, 4), lengths=jnp.array(counts))
        for b, n in enumerate(counts):
            wanted = full[b, starts[b] : starts[b] + n]
            np.testing.assert_allclose(y[b, :n], wanted, rtol=0, atol=64 * EPS)
        starts += counts
    assert not np.any(cache.overflowed)


def test_decode_step_reuses_a_slot(rng):
    x = tokens(rng, 4, T)
    full = attention.reference_attention(*x, is_causal=True)
    cache = attention.append_to_cache(empty(12, (2,)), *rows(x, (0, 1), (0, 0), 12)[1:])
    # What the one before left there, if it is not finite too, reaches nothing.
    cache = dataclasses.replace(cache, value=cache.value.at[0].set(jnp.nan))
    cache = attention.evict_from_cache(cache, jnp.array([0]))
    np.testing.assert_array_equal(cache.length, [0, 12])
    prompt = rows(x, (2,), (0,), 5)
    cache, y = attention.decode_step(cache, *prompt, entries=jnp.array([0]))
    np.testing.assert_allclose(y[0], full[2, :5], rtol=0, atol=64 * EPS)


@pytest.mark.parametrize("storage", slow_but(("at_once", "in_pages", "shared"), "in_pages"))
def test_decode_step_has_every_derivative_of_the_whole(rng, storage):
    x = tokens(rng, 2, 7)
    slopes = jnp.asarray(rng.normal(size=N))

    def options(slopes):
        return {"score_fn": lambda s, b, h, i, j: s * slopes[h] + slopes[h], "sinks": slopes}

    def served(x, slopes):
        cache = in_pages(np.random.default_rng(0), 8, (2,), 4, spare=1)
        if storage != "in_pages":
            cache = empty(8, (2,), ragged=storage == "at_once")
        cache = attention.append_to_cache(cache, *(y[:, :4] for y in x[1:]))
        rest = [y[:, 4:] for y in x]
        return attention.decode_step(cache, *rest, return_residual=True, **options(slopes))[1]

    def whole(x, slopes):
        found = attention.reference_attention(
            *x, is_causal=True, return_residual=True, **options(slopes)
        )
        return jax.tree.map(lambda y: y[:, 4:], found)

    def orders(f):
        slope = jax.grad(lambda a: sum(jnp.sum(jnp.sin(y)) for y in f(*a)))
        return jax.jit(lambda a: (f(*a), jax.jvp(slope, (a,), (jax.tree.map(jnp.cos, a),))))

    # Second derivatives of some fifty terms of order one.
    found, wanted = (orders(f)((x, slopes)) for f in (served, whole))
    chex.assert_trees_all_close(found, wanted, rtol=0, atol=2**14 * EPS)


def test_decode_step_of_different_lengths_under_vmap(rng):
    x = tokens(rng, 2, 3, T)
    full = attention.reference_attention(*x, is_causal=True)
    lengths = jnp.array([[5, 0, 11], [1, 2, 3]])
    caches = jax.vmap(lambda _: empty(16, (3,)))(jnp.arange(2))
    prompts = [y[:, :, :11] for y in x[1:]]
    caches = jax.vmap(attention.append_to_cache)(caches, *prompts, lengths=lengths)
    new = [jnp.take_along_axis(y, lengths[..., None, None, None], axis=2) for y in x]
    after, y = jax.jit(jax.vmap(attention.decode_step))(caches, *new)
    wanted = jnp.take_along_axis(full, lengths[..., None, None, None], axis=2)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=64 * EPS)
    np.testing.assert_array_equal(after.length, lengths + 1)


@pytest.mark.parametrize("at_once", [3, 64])
def test_decode_step_of_several_blocks_at_once_equals_one_at_a_time(rng, at_once, monkeypatch):
    """As devices do that are wide. The sizes are those of no other test, as programs are kept."""
    capacity, page = 18 + 6 * (at_once // 32), 6
    x = tokens(rng, 5, 12)
    full = attention.reference_attention(*x, is_causal=True, local_window_size=8)
    monkeypatch.setattr(read, "_pairs_at_once", lambda *_: at_once)
    cache = in_pages(rng, capacity, (5,), page)
    lengths = jnp.array([12, 1, 0, 7, 3])
    cache, y = attention.decode_step(cache, *x, lengths=lengths, local_window_size=8)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(y[b, :n], full[b, :n], rtol=0, atol=64 * EPS)
        assert not np.any(y[b, n:])


@pytest.mark.parametrize("at_once", [1, 3])
def test_decode_step_takes_long_prompts_in_blocks(rng, at_once, monkeypatch):
    """Blocks of new tokens of which the last one overlaps; the sizes are those of no other test."""
    monkeypatch.setattr(read, "_ROWS", 4)
    monkeypatch.setattr(read, "_pairs_at_once", lambda *_: at_once)
    t, capacity = 13, 24 + at_once
    x = tokens(rng, 3, t)
    bias = jnp.asarray(rng.normal(size=(3, N, t, capacity)))
    full = attention.reference_attention(*x, bias[..., :t], is_causal=True)
    lengths = jnp.array([13, 6, 1])
    _, y = attention.decode_step(empty(capacity, (3,)), *x, bias, lengths=lengths)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(y[b, :n], full[b, :n], rtol=0, atol=64 * EPS)


def trips_of(monkeypatch, run):
    """How many blocks the loop of a call has read."""
    trips = []

    def counted(number):
        jax.debug.callback(lambda n: trips.append(int(n)), number)
        return number

    monkeypatch.setattr(read, "most_of_batch", counted)
    jax.block_until_ready(run())
    jax.effects_barrier()
    assert trips
    return sum(trips)


@pytest.mark.parametrize("window", [None, 40])
def test_decode_step_reads_the_tokens_that_there_are(monkeypatch, window):
    """Blocks read are those of each entry's tokens, whatever the longest and the capacity."""
    lengths = np.array([0, 15, 16, 300, 31])
    for extra in (0, 512):
        capacity = 328 + 8 * bool(window) + extra
        capacity -= capacity % 16
        cache = attention.init_cache(capacity, 1, 2, batch=(5,), page_size=16)
        cache = attention.reserve_pages(cache, jnp.asarray(lengths + 1))
        cache = dataclasses.replace(cache, length=jnp.asarray(lengths, jnp.int32))
        x = jnp.ones((5, 1, 1, 2))
        found = trips_of(
            monkeypatch,
            lambda cache=cache, x=x: attention.decode_step(
                cache, x, x, x, local_window_size=window
            ),
        )
        first = 0 if window is None else np.maximum(lengths - window, 0) // 16
        assert found == np.sum(lengths // 16 + 1 - first)


STORED = [
    {},
    {"page_size": 32},
    {"dtype": jnp.int8},
    {"dtype": jnp.int8, "page_size": 32},
    {"ring": True},
]


@pytest.mark.parametrize(("options", "chosen"), thinned(STORED, [False, True]))
def test_decode_step_writes_in_place_and_holds_no_copy(options, chosen):
    if options.get("page_size") is None:
        options = {"ragged": True, **options}

    def program(capacity):
        cache = jax.eval_shape(lambda: attention.init_cache(capacity, 2, 16, batch=(4,), **options))
        x = jax.ShapeDtypeStruct((2 if chosen else 4, 1, 2, 16), jnp.float32)
        entries = {"entries": jax.ShapeDtypeStruct((2,), jnp.int32)} if chosen else {}
        step = jax.jit(attention.decode_step, donate_argnums=0)
        return cache, step.lower(cache, x, x, x, **entries).compile()

    (small, little), (large, much) = program(2**9), program(2**12)
    held = little.memory_analysis(), much.memory_analysis()
    stored = large.key.size * large.key.dtype.itemsize
    assert held[1].alias_size_in_bytes >= 2 * stored
    # Of blocks that are read there is a list, and of a ring's positions another.
    blocks = 4 * (large.capacity - small.capacity)
    assert held[1].temp_size_in_bytes - held[0].temp_size_in_bytes < 16 * blocks
    assert 16 * blocks < stored


def test_decode_step_without_room_is_nan_for_that_entry_alone(rng):
    x = tokens(rng, 3, 8)
    full = attention.reference_attention(*x, is_causal=True)
    cache = attention.append_to_cache(
        empty(6, (3,)), *(y[:, :6] for y in x[1:]), lengths=jnp.array([6, 2, 5])
    )
    after, y = jax.jit(attention.decode_step)(cache, *rows(x, range(3), [6, 2, 5], 2))
    assert np.all(np.isnan(y[0]))
    assert np.all(np.isnan(y[2, 1]))
    np.testing.assert_allclose(y[1], full[1, 2:4], rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(y[2, 0], full[2, 5], rtol=0, atol=64 * EPS)
    np.testing.assert_array_equal(after.length, [8, 4, 7])
    np.testing.assert_array_equal(after.overflowed, [True, False, True])
    np.testing.assert_array_equal(after.key[0], cache.key[0])


def test_append_to_cache_counts_the_tokens_that_there_are(rng):
    """Where lengths are not known, what is beyond them is as much as there is."""
    x = tokens(rng, 3, 4)
    cache = jax.jit(attention.append_to_cache)(
        empty(9, (3,)), *x[1:], lengths=jnp.array([9, -2, 3])
    )
    np.testing.assert_array_equal(cache.length, [4, 0, 3])
    assert not np.any(cache.overflowed)


REJECTED = [
    (ValueError, lambda c, x: attention.decode_step(c, *x), r"must have room .* entries \[1\]"),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(c, *x[1:], entries=jnp.array([0, 2])),
        "`entries` must be below 2",
    ),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(c, *x[1:], entries=jnp.array([0, 0])),
        "`entries` must all be different",
    ),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(c, *x[1:], lengths=jnp.array([0, 4])),
        "`lengths` must lie in 0, …, 3",
    ),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(c, *x[1:], lengths=jnp.array([0])),
        r"`lengths` must have shape \(2,\)",
    ),
    (
        TypeError,
        lambda c, x: attention.append_to_cache(c, *x[1:], lengths=jnp.array([0.0, 0.0])),
        "`lengths` must hold integers",
    ),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(c, *x[1:], entries=jnp.array(0)),
        "`entries` must be a vector",
    ),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(c, *x[1:], entries=jnp.array([0])),
        "`key` must have the batch axes of `entries`",
    ),
    (
        ValueError,
        lambda c, x: attention.append_to_cache(
            empty(4, (2,), ragged=False), *x[1:], lengths=jnp.array([0, 1])
        ),
        "`lengths` must not be given where all entries have one length",
    ),
    (
        ValueError,
        lambda c, x: attention.evict_from_cache(empty(4, (2,), ragged=False), jnp.array([0])),
        "`entries` must not be given where all entries have one length",
    ),
    (
        ValueError,
        lambda c, x: attention.decode_step(
            empty(4, (2,), ring=True), *x, jnp.zeros((1, 1, 1, 4)), lengths=jnp.array([0, 1])
        ),
        "`bias` must not be given for a ring",
    ),
]


@pytest.mark.parametrize(("kind", "call", "message"), REJECTED)
def test_ragged_cache_rejects_wrong_arguments(rng, kind, call, message):
    x = tokens(rng, 2, 3)
    cache = attention.append_to_cache(empty(4, (2,)), *x[1:], lengths=jnp.array([0, 2]))
    with pytest.raises(kind, match=message):
        call(cache, x)
