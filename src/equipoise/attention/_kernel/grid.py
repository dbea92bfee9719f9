"""The grid of blocks over heads, rows and keys, and where arrays and blocks lie on it.

A length is a number, or a symbolic dimension, which JAX leaves untyped: a *named* size.
"""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import core, export, lax

from equipoise._types import Array

Index: TypeAlias = Array | np.int32


def is_named(*sizes: int) -> bool:
    """Whether one of the sizes is no number."""
    return any(map(export.is_symbolic_dim, sizes))


def int32(size: int) -> Index:
    """A size as an operand: a name would be an int64 where those are on, and widen all indices."""
    return jnp.asarray(size, jnp.int32) if is_named(size) else np.int32(size)


def least(length: int, block: int) -> int:
    """The smaller of a length and a block that, if the length is a number, is not longer."""
    return core.min_dim(length, block) if is_named(length) else block


class Axes(NamedTuple):
    """Which axis of an array runs over heads, which over rows and which over keys."""

    head: int | None = None
    row: int | None = None
    key: int | None = None

    def shifted(self) -> "Axes":
        """The same after a new leading axis."""
        return Axes(*(None if a is None else a + 1 for a in self))


class Place(NamedTuple):
    """Where a block lies: its first key head, and the first row and key read and not yet done.

    They differ in the last block of a length that the block size does not divide: it is moved
    back to fit, and the body must leave out the overlap.
    """

    head: Index
    row_start: Index
    row_first: Index
    key_start: Index
    key_first: Index


class Grid(NamedTuple):
    """Numbers of key heads, rows and keys, and of those in a block, none more than there are.

    Blocks divide the heads. An axis over heads may be longer by a factor, the query heads that
    share a key head, and so are its blocks. Of named rows or keys a block has as many as it says,
    or all. With ``every`` all blocks are computed, and loops need no schedule to be counted.
    """

    heads: int
    rows: int
    keys: int
    head_block: int
    row_block: int
    key_block: int
    every: bool = False

    @property
    def block_rows(self) -> int:
        """How many rows a block has."""
        return least(self.rows, self.row_block)

    @property
    def block_keys(self) -> int:
        """How many keys a block has."""
        return least(self.keys, self.key_block)

    @property
    def head_blocks(self) -> int:
        """How many blocks of heads there are."""
        return self.heads // self.head_block

    @property
    def row_blocks(self) -> int:
        """How many blocks of rows there are."""
        return (self.rows + self.row_block - 1) // self.row_block

    @property
    def key_blocks(self) -> int:
        """How many blocks of keys there are."""
        return (self.keys + self.key_block - 1) // self.key_block

    def shape(self, whole: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
        """The shape of a block of an array of this shape."""
        size = list(whole)
        if axes.head is not None:
            size[axes.head] = whole[axes.head] // self.head_blocks
        if axes.row is not None:
            size[axes.row] = self.block_rows
        if axes.key is not None:
            size[axes.key] = self.block_keys
        return tuple(size)

    def read(self, x: Array, axes: Axes, place: Place) -> Array:
        """The block of an array at a place."""
        size = self.shape(x.shape, axes)
        if size == x.shape:
            return x
        corner = self._corner(x, axes, place)
        return lax.dynamic_slice(x, corner, size, allow_negative_indices=False)

    def write(self, x: Array, block: Array, axes: Axes, place: Place) -> Array:
        """The array with this block at a place."""
        if block.shape == x.shape:
            return block
        corner = self._corner(x, axes, place)
        return lax.dynamic_update_slice(x, block, corner, allow_negative_indices=False)

    def _corner(self, x: Array, axes: Axes, place: Place) -> list[Index]:
        start: list[Index] = [np.int32(0)] * x.ndim
        if axes.head is not None:
            start[axes.head] = times(place.head, x.shape[axes.head] // self.heads)
        if axes.row is not None:
            start[axes.row] = place.row_start
        if axes.key is not None:
            start[axes.key] = place.key_start
        return start

    def place(self, head: Index, row: Index, key: Index) -> Place:
        """Where the block lies that is so many blocks of heads, rows and keys from the first."""
        row_first, row_start = _start(row, self.block_rows, self.rows)
        key_first, key_start = _start(key, self.block_keys, self.keys)
        return Place(times(head, self.head_block), row_start, row_first, key_start, key_first)


def times(index: Index, factor: int) -> Index:
    """So many times the index."""
    return index if factor == 1 else lax.mul(index, int32(factor))


def _start(number: Index, block: int, length: int) -> tuple[Index, Index]:
    """(first index, first index read) of a block; the last one is moved back to fit."""
    first = times(number, block)
    if length % block == 0:
        return first, first
    return first, lax.min(first, int32(length - block))


class Schedule(NamedTuple):
    """The blocks that are computed, in the order of their rows: ``stop[-1]`` entries of two lists.

    An entry lies so many blocks of rows and of keys from the first; ``stop`` has, for each block
    of rows, the place in the lists after its last entry.
    """

    row: Array
    key: Array
    stop: Array
