"""Which entry has which pages: a page that the table does not name is free."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from equipoise._check import at, is_traced, type_error, value_error
from equipoise._types import Array, Int
from equipoise.attention._cache.cache import GIVEN_BACK, KVCache, check_cache, places
from equipoise.attention._cache.checks import check_entries
from equipoise.attention._cache.program import one_program
from equipoise.attention._cache.rows import num_rows, or_none, rows_of
from equipoise.attention._kernel.mesh import placed_by


@at("attention.reserve_pages")
@placed_by(places)
def reserve_pages(
    cache: KVCache,
    lengths: Int[Array, "*batch"],
    *,
    entries: Int[Array, " m"] | None = None,
) -> KVCache:
    r"""A cache whose entries have pages for further tokens, from those that are free.

    .. math::

        \lceil (\ell_b + t_b) / P \rceil \text{ pages of } P \text{ tokens for entry } b

    Pages that an entry has stay; those that are missing are the free ones of the least numbers. A
    page is free if no entry's row of the table names it.

    Args:
        cache: The tokens so far, in pages.
        lengths: t, tokens to come. Shape ``(*batch)``, or ``(m,)`` with ``entries``.
        entries: Which entries they are for, all different. Default all in order.

    Returns:
        The cache with another ``page_table``. Where values are traced and too few pages are free,
        earlier entries come first and the others stay without: their tokens will be dropped and
        ``overflowed`` be true.

    Raises:
        ValueError: If the cache has no pages or shapes do not fit; if values are known, not
            traced, and too few pages are free, or entries would be longer than the capacity.
        TypeError: If ``lengths`` or ``entries`` hold no integers, or ``cache`` is no
            :class:`KVCache`.

    Cost: O(pages of the table + num_pages·log num_pages) integers, once for a new page, not once
        for a token.

    Examples:
        >>> cache = attention.init_cache(8, 1, 1, batch=(2,), page_size=2, num_pages=5)
        >>> cache = attention.reserve_pages(cache, jnp.array([3, 2]))
        >>> print(cache.page_table.tolist())
        [[0, 1, -1, -1], [2, -1, -1, -1]]

    References:
        :cite:t:`kwon2023paged`, section 4.2.
    """
    check_cache(cache)
    _check_paged(cache)
    cache, missing = _reserve(cache, lengths, entries)
    if not is_traced(missing) and int(missing):
        raise value_error(
            "lengths",
            f"must fit into the free pages of {cache.key.shape[0]} and the capacity "
            f"{cache.capacity} of an entry",
            f"{int(missing)} pages too few",
            "Empty an entry with attention.evict_from_cache(), or make more pages.",
        )
    return cache


@one_program
def _reserve(
    cache: KVCache, lengths: Array, entries: Array | None
) -> tuple[KVCache, Int[Array, ""]]:
    assert cache.page_table is not None
    rows = rows_of(cache, 0, entries, lengths)
    table = cache.page_table.reshape(-1, cache.page_table.shape[-1])
    size, count = cache.key.shape[-3], num_rows(cache)
    named = or_none(table, count)
    used = jnp.zeros(count, jnp.int32).at[named].set(1, mode="drop")
    free = jnp.argsort(used, stable=True).astype(jnp.int32)
    # New tokens come after the old ones: pages before those are not looked at.
    first = jnp.arange(table.shape[-1], dtype=jnp.int32)[None] * size
    end = jnp.where(rows.count > 0, rows.start + rows.count, 0)[:, None]
    within = (first < end) & (first + size > rows.start[:, None])
    wanted = jnp.zeros(table.shape, bool).at[rows.entry].set(within, mode="drop")
    wanted = wanted & (named == count)
    number = jnp.cumsum(wanted.reshape(-1), dtype=jnp.int32).reshape(table.shape) - 1
    given = wanted & (number < count - used.sum(dtype=jnp.int32))
    table = jnp.where(given, free.at[number].get(mode="clip"), table)
    beyond = jnp.maximum(-(-end // size) - table.shape[-1], 0)
    missing = (wanted & ~given).sum(dtype=jnp.int32) + beyond.sum(dtype=jnp.int32)
    return dataclasses.replace(cache, page_table=table.reshape(cache.page_table.shape)), missing


@at("attention.evict_from_cache")
@placed_by(places)
def evict_from_cache(
    cache: KVCache, entries: Int[Array, " m"], *, before: Int[Array, " m"] | None = None
) -> KVCache:
    r"""A cache without the tokens of some entries, whose pages are free again.

    .. math::

        \ell_b \leftarrow 0, \qquad \text{pages of } b \leftarrow \varnothing

    Args:
        cache: The tokens so far, with one length per entry.
        entries: Which entries. Shape ``(m,)``; a number that is no entry's, such as -1, is passed
            over.
        before: Positions, ``(m,)``: only pages that lie wholly before them are given back, and the
            entries go on, for attention with a window. Default all, and the entries are empty.

    Returns:
        The cache. Keys and values stay where they are until others are written there; no row reads
        them, as nothing is read beyond an entry's length or without a page. Rows that might read
        what was given back are NaN.

    Raises:
        ValueError: If entries have one length, shapes do not fit, or ``before`` is given without
            pages; if values are known, not traced, and an entry is not there or named twice.
        TypeError: If ``entries`` or ``before`` hold no integers, or ``cache`` is no
            :class:`KVCache`.

    Cost: m integers, and with pages m rows of the table.

    Examples:
        >>> cache = attention.init_cache(4, 1, 1, batch=(2,), ragged=True)
        >>> cache = attention.append_to_cache(cache, *jnp.ones((2, 2, 3, 1, 1)))
        >>> print(attention.evict_from_cache(cache, jnp.array([0])).length)
        [0 3]

    References:
        :cite:t:`yu2022orca`, section 3, for requests that come and go in a batch.
    """
    check_cache(cache)
    if before is not None:
        _check_paged(cache)
    if cache.ragged and np.ndim(entries) == 1 and not is_traced(entries):
        check_entries(cache, np.asarray(entries))
    return _evict(cache, entries, before)


@one_program
def _evict(cache: KVCache, entries: Array, before: Array | None) -> KVCache:
    rows = rows_of(cache, 0, entries, None)
    table = cache.page_table
    if table is None or before is None:
        emptied = cache.length.at[rows.entry].set(0, mode="drop")
        if table is not None:
            table = table.at[rows.entry].set(-1, mode="drop")
        return dataclasses.replace(cache, length=emptied, page_table=table)
    if jnp.shape(before) != rows.batch:
        raise value_error("before", f"must have shape {rows.batch}, one position an entry", before)
    if not jnp.issubdtype(jnp.asarray(before).dtype, jnp.integer):
        raise type_error("before", "must hold integers", before)
    size = cache.key.shape[-3]
    end = jnp.arange(1, table.shape[-1] + 1, dtype=jnp.int32)[None] * size
    kept = table.at[rows.entry].get(mode="fill", fill_value=-1)
    kept = jnp.where(end > jnp.asarray(before, jnp.int32)[:, None], kept, GIVEN_BACK)
    return dataclasses.replace(cache, page_table=table.at[rows.entry].set(kept, mode="drop"))


def _check_paged(cache: KVCache) -> None:
    if cache.page_table is None:
        raise value_error(
            "cache", "must have pages", "one without", "Make it: init_cache(..., page_size=)."
        )
