"""Pages: taken, shared, given back, missing; and the same numbers wherever they lie."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.attention.cache.serving import EPS, empty, in_pages, rows, tokens, with_table


def named(cache):
    """The pages of each entry."""
    return [[int(p) for p in row if p >= 0] for row in cache.page_table]


@hypothesis.given(st.data())
def test_reserve_pages_gives_each_page_once(data):
    """Whatever comes and goes: enough pages for the tokens, none of them two entries'."""
    page, pages = data.draw(st.sampled_from([(1, 4), (2, 9), (3, 5)]))  # few shapes, few programs
    entries = 3
    cache = empty(4 * page, (entries,), page_size=page, num_pages=pages)
    for _ in range(data.draw(st.integers(1, 4))):
        room = 4 * page - np.asarray(cache.length)
        wanted = np.array([data.draw(st.integers(0, int(n))) for n in room])
        had = [len(x) for x in named(cache)]
        need = -(-np.where(wanted > 0, np.asarray(cache.length) + wanted, 0) // page)
        new = np.maximum(need - had, 0).sum()
        if new > pages - sum(had):
            with pytest.raises(ValueError, match="pages too few"):
                attention.reserve_pages(cache, wanted)
        else:
            before = cache.page_table
            cache = attention.reserve_pages(cache, wanted)
            kept = np.asarray(before) >= 0
            np.testing.assert_array_equal(np.asarray(cache.page_table)[kept], before[kept])
            cache = dataclasses.replace(cache, length=cache.length + jnp.asarray(wanted, jnp.int32))
        every = [page for row in named(cache) for page in row]
        assert len(set(every)) == len(every)
        assert all(len(x) * page >= n for x, n in zip(named(cache), cache.length, strict=True))
        gone = data.draw(st.integers(-1, entries - 1))
        cache = attention.evict_from_cache(cache, jnp.array([gone]))
        assert gone < 0 or named(cache)[gone] == []


def test_reserve_pages_under_jit_leaves_the_last_without(rng):
    cache = empty(8, (3,), page_size=2, num_pages=5)
    short = jax.jit(attention.reserve_pages)(cache, jnp.array([3, 5, 2]))
    assert named(short) == [[0, 1], [2, 3, 4], []]
    x = tokens(rng, 3, 2)
    after, y = jax.jit(attention.decode_step)(short, *x)
    np.testing.assert_array_equal(after.overflowed, [False, False, True])
    np.testing.assert_array_equal(np.isnan(y).all((1, 2, 3)), [False, False, True])
    # A page that comes later does not bring the tokens back.
    later = attention.evict_from_cache(after, jnp.array([0]))
    later = attention.reserve_pages(later, jnp.array([2]), entries=jnp.array([2]))
    later, y = jax.jit(attention.decode_step)(later, *x)
    assert later.overflowed[2]
    assert np.all(np.isnan(y[2]))


def test_decode_step_shares_a_prefix_by_page_numbers(rng):
    """Two requests that begin alike hold the keys of the beginning once."""
    page, x = 4, tokens(rng, 3, 11)
    # The second begins with two pages of the first.
    x = tuple(y.at[1, :8].set(y[0, :8]) for y in x)
    full = attention.reference_attention(*x, is_causal=True)
    cache = empty(12, (3,), page_size=page, num_pages=5)
    cache = attention.reserve_pages(cache, jnp.array([11, 0, 0]))
    prompt, first = rows(x, (0,), (0,), 10), jnp.array([0])
    cache = attention.append_to_cache(cache, *prompt[1:], entries=first)
    table = cache.page_table.at[1, :2].set(cache.page_table[0, :2])
    cache = dataclasses.replace(cache, page_table=table, length=cache.length.at[1].set(8))
    cache = attention.reserve_pages(cache, jnp.array([1, 3, 3]))
    assert named(cache) == [[0, 1, 2], [0, 1, 3], [4]]
    cache, y = attention.decode_step(
        cache, *rows(x, (0, 1, 2), (10, 8, 0), 1), lengths=jnp.array([1, 1, 1])
    )
    for b, n in enumerate((10, 8, 0)):
        np.testing.assert_allclose(y[b, 0], full[b, n], rtol=0, atol=64 * EPS)
    # Who leaves takes no page along that another one reads.
    cache = attention.evict_from_cache(cache, first)
    cache = attention.reserve_pages(cache, jnp.array([4]), entries=first)
    assert named(cache) == [[2], [0, 1, 3], [4]]
    _, y = attention.decode_step(cache, *rows(x, (1,), (9,), 1), entries=jnp.array([1]))
    np.testing.assert_allclose(y[0, 0], full[1, 9], rtol=0, atol=64 * EPS)


def test_evict_from_cache_gives_back_pages_behind_a_window(rng):
    x = tokens(rng, 2, 30)
    full = attention.reference_attention(*x, is_causal=True, local_window_size=5)
    cache = empty(32, (2,), page_size=2, num_pages=9)
    step = jax.jit(attention.decode_step, static_argnames="local_window_size")
    most = 0
    for i in range(30):
        behind = jnp.full(2, max(i - 5, 0))
        cache = attention.evict_from_cache(cache, jnp.arange(2), before=behind)
        cache = attention.reserve_pages(cache, jnp.ones(2, int))
        most = max(most, *map(len, named(cache)))
        cache, y = step(cache, *rows(x, range(2), (i, i), 1), local_window_size=5)
        np.testing.assert_allclose(y[:, 0], full[:, i], rtol=0, atol=64 * EPS)
    assert most == 4  # six positions lie on so many pages at most
    assert not np.any(cache.overflowed)
    # Without the window a row may read what is gone.
    cache = attention.reserve_pages(cache, jnp.ones(2, int))
    assert np.all(np.isnan(attention.decode_step(cache, *rows(x, range(2), (0, 0), 1))[1]))


@pytest.mark.parametrize("number", [-1, 99])
def test_decode_step_reading_a_page_outside_is_nan_for_that_entry_alone(rng, number):
    x = tokens(rng, 2, 9)
    full = attention.reference_attention(*x, is_causal=True)
    cache = attention.append_to_cache(in_pages(rng, 12, (2,), 4), *(y[:, :8] for y in x[1:]))
    cache = with_table(cache, cache.page_table.at[0, 1].set(number))
    after, y = jax.jit(attention.decode_step)(cache, *rows(x, range(2), (8, 8), 1))
    assert np.all(np.isnan(y[0]))
    np.testing.assert_allclose(y[1, 0], full[1, 8], rtol=0, atol=64 * EPS)
    np.testing.assert_array_equal(after.overflowed, [True, False])
    np.testing.assert_array_equal(after.positions[0], [0, 1, 2, 3, -1, -1, -1, -1, 8, -1, -1, -1])


def test_cache_in_pages_equals_one_at_once_bit_for_bit(rng):
    """A permutation of pages changes no sum: blocks are met in the order of positions."""
    x = tokens(rng, 3, 12)
    lengths = jnp.array([12, 5, 7])
    found = [
        attention.decode_step(in_pages(rng, 12, (3,), 4), *x, lengths=lengths)[1] for _ in range(2)
    ]
    np.testing.assert_array_equal(*found)


REJECTED = [
    (lambda c, x: attention.decode_step(c, *x), "`page_table` must name pages 0, …, 3"),
    (
        lambda c, x: attention.append_to_cache(
            with_table(c, jnp.full((2, 2), 4)), *x[1:], lengths=jnp.array([0, 1])
        ),
        "got 4 for positions from 0 on of entry 0",
    ),
    (lambda c, x: attention.reserve_pages(c, jnp.array([8, 9])), "pages too few"),
    (lambda c, x: attention.reserve_pages(c, jnp.array([8])), "`lengths` must have shape"),
    (
        lambda c, x: attention.reserve_pages(empty(4, (2,)), jnp.array([1, 1])),
        "`cache` must have pages",
    ),
    (
        lambda c, x: attention.evict_from_cache(
            empty(4, (2,)), jnp.array([0]), before=jnp.array([1])
        ),
        "`cache` must have pages",
    ),
    (
        lambda c, x: attention.evict_from_cache(c, jnp.array([0]), before=jnp.array([1, 2])),
        "`before` must have shape",
    ),
    (lambda c, x: attention.evict_from_cache(c, jnp.array([2])), "`entries` must be below 2"),
    (lambda c, x: empty(8, (2,), page_size=3), "`page_size` must divide the capacity, 8"),
    (lambda c, x: empty(8, (2,), page_size=4, ring=True), "`ring` must be False with pages"),
    (lambda c, x: empty(8, (2,), num_pages=4), "`num_pages` must come with `page_size`"),
]


@pytest.mark.parametrize(("call", "message"), REJECTED)
def test_cache_in_pages_rejects_wrong_arguments(rng, call, message):
    with pytest.raises(ValueError, match=message):
        call(empty(8, (2,), page_size=4), tokens(rng, 2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: attention.reserve_pages(c, jnp.ones(2)), "`lengths` must hold integers"),
        (lambda c: attention.reserve_pages(None, jnp.ones(2)), "`cache` must be a KVCache"),
        (lambda c: attention.evict_from_cache(None, jnp.ones(2)), "`cache` must be a KVCache"),
        (
            lambda c: attention.evict_from_cache(c, jnp.array([0]), before=jnp.ones(1)),
            "`before` must hold integers",
        ),
    ],
)
def test_pages_reject_wrong_types(call, message):
    with pytest.raises(TypeError, match=message):
        call(empty(8, (2,), page_size=4))
