"""The cache: keys and values of the tokens so far, and where in it the token of a position lies."""

import jax
import jax.numpy as jnp

from equipoise._check import type_error
from equipoise._types import Array, Bool, Float, Int, PyTree, Shaped, result, static_field
from equipoise.attention._kernel.mesh import place

# What the table has in place of pages behind a window that were given back.
GIVEN_BACK = -2


@result
class KVCache:
    """Keys and values of the tokens so far; entries share a length or have their own.

    In pages an entry's positions lie in the pages that its row of the table names, one page of
    positions after the other; entries that share a first part name the same pages.

    Attributes:
        key: Shape ``(*batch, capacity, k, h)``; in pages ``(num_pages, page_size, k, h)``.
        value: The same with e features.
        length: Tokens appended so far, those that found no room included: a scalar, or one number
            per entry, ``(*batch)``.
        ring: Whether a new token takes the place of the oldest when there is no room.
        page_table: The numbers of an entry's pages, ``(*batch, capacity / page_size)``; a number
            outside of 0, …, num_pages − 1 is no page: -1 if there was none yet, -2 if it was given
            back. None without pages.
        key_scale: What a token's key of a head is to be multiplied by, shape of ``key`` without
            the last axis. None unless numbers are stored in 8 bits.
        value_scale: The same of values.
    """

    key: Shaped[Array, "... k h"]
    value: Shaped[Array, "... k e"]
    length: Int[Array, "..."]
    ring: bool = static_field()
    page_table: Int[Array, "*batch pages"] | None = None
    key_scale: Float[Array, "... k"] | None = None
    value_scale: Float[Array, "... k"] | None = None

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes of its entries."""
        return self.key.shape[:-3] if self.page_table is None else self.page_table.shape[:-1]

    @property
    def capacity(self) -> int:
        """Tokens that an entry can hold."""
        tokens = self.key.shape[-3]
        return tokens if self.page_table is None else tokens * self.page_table.shape[-1]

    @property
    def ragged(self) -> bool:
        """Whether each entry has a length of its own."""
        return self.length.ndim > 0 or self.page_table is not None

    @property
    def positions(self) -> Int[Array, "... capacity"]:
        """The position of the token in each place of an entry; negative where there is none."""
        length = self.length[..., None]
        places = jax.lax.broadcasted_iota(
            jnp.int32, (*self.length.shape, self.capacity), self.length.ndim
        )
        if self.ring:
            return places + (length - 1 - places) // self.capacity * self.capacity
        there = places < length
        if self.page_table is not None:
            present = _of_pages(self.page_table, self.key.shape[0])
            there = there & jnp.repeat(present, self.key.shape[-3], axis=-1)
        return jnp.where(there, places, -1)

    @property
    def overflowed(self) -> Bool[Array, "..."]:
        """Whether tokens found no room, so that outputs for them are NaN."""
        if self.ring:
            return jnp.zeros_like(self.length, bool)
        beyond = self.length > self.capacity
        if self.page_table is None:
            return beyond
        table, (count, size) = self.page_table, self.key.shape[:2]
        first = jax.lax.broadcasted_iota(jnp.int32, table.shape, table.ndim - 1) * size
        used = first < self.length[..., None]
        lost = used & ~_of_pages(table, count) & (table != GIVEN_BACK)
        return beyond | lost.any(-1)


def _of_pages(numbers: Array, count: int) -> Array:
    """Which numbers of a table are those of pages."""
    return (numbers >= 0) & (numbers < count)


def check_cache(cache: object) -> None:
    """Raises where a cache is something else, such as the outputs that come with one."""
    if not isinstance(cache, KVCache):
        raise type_error("cache", "must be a KVCache", cache, "Make one: attention.init_cache().")


def places(arguments: dict[str, PyTree]) -> PyTree:
    """The cache stays where it is, and an output lies where its query does, or its inputs."""
    cache = jax.tree.map(place, arguments["cache"])
    rows = arguments.get("query", arguments.get("inputs"))
    if rows is None:
        return cache
    y = place(rows, without=1, beside=1)
    if arguments.get("return_residual"):
        return cache, (y, place(rows, without=1))
    return cache, y
