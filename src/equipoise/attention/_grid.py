"""The grid of blocks over rows and keys, and where arrays and blocks lie on it."""

from typing import Any, NamedTuple

from equipoise._types import Array


class Axes(NamedTuple):
    """Which axis of an array runs over rows and which over keys."""

    row: int | None = None
    key: int | None = None

    def shifted(self) -> "Axes":
        """The same after a new leading axis."""
        return Axes(*(None if a is None else a + 1 for a in self))


class Grid(NamedTuple):
    """Lengths of rows and keys, and the sizes of their blocks, none longer than its axis."""

    rows: int
    keys: int
    row_block: int
    key_block: int


class Place(NamedTuple):
    """Where a block lies: the first row and key read, and the first not read by the one before.

    They differ in the last block of a length that the block size does not divide: it is moved
    back to fit, and the body must leave out the overlap.
    """

    row_start: Any
    row_first: Any
    key_start: Any
    key_first: Any


class Schedule(NamedTuple):
    """The key blocks of each row block: the first ``counts[i]`` entries of ``order[i]``."""

    order: Array
    counts: Array
