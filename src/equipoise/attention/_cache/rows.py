"""The rows of a call: of which entry each is, how many tokens it brings, and where those go."""

import math

import jax.numpy as jnp
from jax import lax

from equipoise._check import type_error, value_error
from equipoise._types import Array, record, static_field
from equipoise.attention._cache.cache import KVCache


@record
class Rows:
    """For each of m rows its entry, the entry's tokens so far, and how many come.

    An entry that is none has the number after the last one's. ``batch`` are the axes that m is
    the product of, ``every`` says whether the rows are the entries in order.
    """

    entry: Array
    start: Array
    count: Array
    batch: tuple[int, ...] = static_field()
    every: bool = static_field()


def rows_of(cache: KVCache, t: int, entries: Array | None, lengths: Array | None) -> Rows:
    """The rows of a call with t tokens each, or fewer, for all entries or for some."""
    for name, given in (("entries", entries), ("lengths", lengths)):
        if given is not None and not cache.ragged:
            raise value_error(
                name,
                "must not be given where all entries have one length",
                given,
                "Make the cache with init_cache(..., ragged=True).",
            )
        if given is not None and not jnp.issubdtype(jnp.asarray(given).dtype, jnp.integer):
            raise type_error(name, "must hold integers", given)
    batch, total = cache.batch, math.prod(cache.batch)
    if entries is None:
        entry = jnp.arange(total, dtype=jnp.int32)
    else:
        if jnp.ndim(entries) != 1 or len(batch) != 1:
            raise value_error("entries", "must be a vector beside one batch axis", entries)
        batch = jnp.shape(entries)
        entry = or_none(jnp.asarray(entries, jnp.int32), total)
    if lengths is not None and jnp.shape(lengths) != batch:
        raise value_error("lengths", f"must have shape {batch}, one number a row", lengths)
    count = jnp.asarray(t if lengths is None else lengths, jnp.int32)
    start = jnp.broadcast_to(cache.length, cache.batch).reshape(-1)
    if entries is not None:
        start = start.at[entry].get(mode="fill", fill_value=0)
    count = jnp.broadcast_to(count, batch).reshape(-1)
    return Rows(entry, start, count, batch, entries is None)


def in_rows(cache: KVCache, stored: Array) -> Array:
    """Keys, values or scales with the rows of the storage, pages or entries, along one axis."""
    if cache.page_table is not None:
        return stored
    lead = len(cache.batch)
    return stored.reshape(math.prod(cache.batch), *stored.shape[lead:])


def num_rows(cache: KVCache) -> int:
    """How many rows the storage has."""
    return math.prod(cache.batch) if cache.page_table is None else cache.key.shape[0]


def page_of(cache: KVCache, entry: Array, number: Array) -> Array:
    """The number-th page of an entry; where there is none, the count of pages."""
    assert cache.page_table is not None
    table = cache.page_table.reshape(-1, cache.page_table.shape[-1])
    page = table.at[entry, number].get(mode="fill", fill_value=-1)
    return or_none(page, num_rows(cache))


def address(cache: KVCache, entry: Array, positions: Array) -> tuple[Array, Array]:
    """Row and column of the storage where positions of entries lie; the count of rows for none."""
    if cache.page_table is None and not cache.ring:
        return jnp.where(positions < cache.capacity, entry, num_rows(cache)), positions
    size = jnp.full(positions.shape, cache.key.shape[-3], jnp.int32)
    column = lax.rem(positions, size)
    if cache.ring:
        return jnp.broadcast_to(entry, positions.shape), column
    return page_of(cache, entry, lax.div(positions, size)), column


def or_none(numbers: Array, count: int) -> Array:
    """The numbers, and the count in place of those that are negative or not below it."""
    return jnp.where((numbers >= 0) & (numbers < count), numbers, count)
