"""Masks as values: which query may read which key, by index, composed with ``&``, ``|``, ``~``.

A mask answers two questions. ``allowed`` gives truth for index arrays, and ``bounds`` gives for
whole blocks whether any pair *may* be allowed and whether all pairs *must* be, from the first and
last index alone: what no pair may enter is never computed, and nothing of size T × S exists.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from equipoise import _check_old as _check
from equipoise._types import result, static_field
from equipoise.attention._functions import hoist

Bounds: TypeAlias = tuple[Any, Any]
"""(some pair may be allowed, every pair is allowed) for each block of a grid."""


class Indices(NamedTuple):
    """Where the pairs of a block lie: ``row`` counts the query array, ``query`` adds the offset.

    All broadcast to (batch, head, row, key).
    """

    batch: Any
    head: Any
    row: Any
    query: Any
    key: Any


class Extent(NamedTuple):
    """First and last index of blocks, each broadcast over the grid (batch, row block, key block).

    Rows and keys are known while tracing; the query offset may be traced.
    """

    row: tuple[np.ndarray, np.ndarray]
    query: tuple[Any, Any]
    key: tuple[np.ndarray, np.ndarray]


class Rule(NamedTuple):
    """What a kind of mask does with its static values and its operands."""

    allowed: Callable[[tuple[Any, ...], tuple[Any, ...], Indices], Any]
    bounds: Callable[[tuple[Any, ...], tuple[Any, ...], Extent], Bounds]


@result
class Mask:
    """A set of (query, key) pairs that may attend, as a value that composes.

    Attributes:
        rule: The kind of mask.
        static: Its values that are fixed while tracing.
        operands: Its arrays, or the masks that it combines.
    """

    rule: Rule = static_field()
    static: tuple[Any, ...] = static_field()
    operands: tuple[Any, ...]

    def allowed(self, at: Indices) -> Any:
        """Whether each pair may attend, broadcast to (batch, head, row, key)."""
        return self.rule.allowed(self.static, self.operands, at)

    def bounds(self, extent: Extent) -> Bounds:
        """Whether some pair of each block may attend, and whether every pair does."""
        return self.rule.bounds(self.static, self.operands, extent)

    def __and__(self, other: "Mask") -> "Mask":
        return Mask(BOTH, (), (self, _other("&", other)))

    def __or__(self, other: "Mask") -> "Mask":
        return Mask(EITHER, (), (self, _other("|", other)))

    def __invert__(self) -> "Mask":
        return Mask(INVERSE, (), (self,))


def _other(operator: str, value: Any) -> Mask:
    if not isinstance(value, Mask):
        raise _check.type_error(
            "attention.Mask",
            operator,
            "must combine two mask values",
            value,
            "Write an array as attention.from_function(lambda b, h, q, k: array[q, k]).",
        )
    return value


def _both(_: Any, parts: tuple[Any, ...], at: Indices) -> Any:
    return parts[0].allowed(at) & parts[1].allowed(at)


def _both_bounds(_: Any, parts: tuple[Any, ...], extent: Extent) -> Bounds:
    (p, c), (q, d) = parts[0].bounds(extent), parts[1].bounds(extent)
    return p & q, c & d


def _either(_: Any, parts: tuple[Any, ...], at: Indices) -> Any:
    return parts[0].allowed(at) | parts[1].allowed(at)


def _either_bounds(_: Any, parts: tuple[Any, ...], extent: Extent) -> Bounds:
    (p, c), (q, d) = parts[0].bounds(extent), parts[1].bounds(extent)
    return p | q, c | d


def _inverse(_: Any, parts: tuple[Any, ...], at: Indices) -> Any:
    return ~parts[0].allowed(at)


def _inverse_bounds(_: Any, parts: tuple[Any, ...], extent: Extent) -> Bounds:
    possible, certain = parts[0].bounds(extent)
    return certain ^ True, possible ^ True


# A band: query - left <= key <= query + right, either side None for unbounded.
def _band(static: tuple[Any, ...], _: Any, at: Indices) -> Any:
    left, right = static
    inside = [at.key >= at.query - left] if left is not None else []
    inside += [at.key <= at.query + right] if right is not None else []
    return inside[0] & inside[-1] if inside else at.key >= 0


def _band_bounds(static: tuple[Any, ...], _: Any, extent: Extent) -> Bounds:
    left, right = static
    (q_first, q_last), (k_first, k_last) = extent.query, extent.key
    possible, certain = np.ones((), bool), np.ones((), bool)
    if left is not None:
        possible, certain = (
            possible & (k_last >= q_first - left),
            certain & (k_first >= q_last - left),
        )
    if right is not None:
        possible = possible & (k_first <= q_last + right)
        certain = certain & (k_last <= q_first + right)
    return possible, certain


def _per_batch(array: Any, batch: Any) -> Any:
    """Entries of an array with a leading batch axis (or one of size 1) for batch indices."""
    return array[batch if array.shape[0] > 1 else jnp.zeros_like(batch)]


# Keys before a length, the same for all queries of a batch entry.
def _prefix(_: Any, operands: tuple[Any, ...], at: Indices) -> Any:
    return at.key < _per_batch(operands[0], at.batch)


def _prefix_bounds(_: Any, operands: tuple[Any, ...], extent: Extent) -> Bounds:
    length = operands[0][:, None, None]
    return extent.key[0] < length, extent.key[1] < length


# Rows before a length; counts rows, not positions.
def _rows(_: Any, operands: tuple[Any, ...], at: Indices) -> Any:
    return at.row < _per_batch(operands[0], at.batch)


def _rows_bounds(_: Any, operands: tuple[Any, ...], extent: Extent) -> Bounds:
    length = operands[0][:, None, None]
    return extent.row[0] < length, extent.row[1] < length


# Equal segment ids of row and key.
def _segments(_: Any, operands: tuple[Any, ...], at: Indices) -> Any:
    rows, keys = operands

    def pick(ids: Any, index: Any) -> Any:
        batch = at.batch if ids.shape[0] > 1 else jnp.zeros_like(at.batch)
        return ids[batch, index]

    return pick(rows, at.row) == pick(keys, at.key)


def _segments_bounds(_: Any, operands: tuple[Any, ...], extent: Extent) -> Bounds:
    def span(ids: Any, first: np.ndarray, last: np.ndarray) -> tuple[Any, Any]:
        width = int(np.max(last - first, initial=0)) + 1
        index = np.minimum(first[..., None] + np.arange(width, dtype=np.int32), last[..., None])
        inside = ids[:, index[0]]
        return inside.min(-1), inside.max(-1)

    r_min, r_max = span(operands[0], *extent.row)
    k_min, k_max = span(operands[1], *extent.key)
    possible = (r_min <= k_max) & (k_min <= r_max)
    return possible, possible & (r_min == r_max) & (k_min == k_max)


# A function of scalar indices: nothing is known of a block.
def _function(static: tuple[Any, ...], operands: tuple[Any, ...], at: Indices) -> Any:
    return static[0](operands, (at.batch, at.head, at.query, at.key))


def _function_bounds(_: Any, operands: tuple[Any, ...], extent: Extent) -> Bounds:
    return np.ones((), bool), np.zeros((), bool)


BOTH = Rule(_both, _both_bounds)
EITHER = Rule(_either, _either_bounds)
INVERSE = Rule(_inverse, _inverse_bounds)
BAND = Rule(_band, _band_bounds)
PREFIX = Rule(_prefix, _prefix_bounds)
ROWS = Rule(_rows, _rows_bounds)
SEGMENTS = Rule(_segments, _segments_bounds)
FUNCTION = Rule(_function, _function_bounds)


def window_sides(where: str, argument: str, size: Any) -> tuple[int | None, int | None]:
    """(left, right) of a window given as one number or as a pair, None for unbounded."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise _check.value_error(where, argument, "must be a number or (left, right)", size)
    left, right = (
        None if side is None else _check.positive_integer(where, argument, side, minimum=0)
        for side in pair
    )
    return left, right


def hoisted_mask(where: str, argument: str, function: Callable[..., Any]) -> Mask:
    """A function of scalar indices as a mask."""
    program, captured = hoist(where, argument, function, (jnp.int32,) * 4, jnp.bool_)
    return Mask(FUNCTION, (program,), captured)
