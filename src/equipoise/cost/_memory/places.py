"""Which values lie in memory that another one leaves, or that a result does not need yet.

A loop writes over what it is the last to read, where it reads that element by element. A result
has memory of its own from the beginning, and before it is written other values lie there: the
largest first, each where it is known to fit.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from equipoise.cost._expression.expression import Expression
from equipoise.cost._expression.order import is_nonnegative
from equipoise.cost._memory.fusion import Loops
from equipoise.cost._memory.graph import Graph


class _Span(NamedTuple):
    """One piece of memory: its bytes, and the places of the first and the last loop to use it."""

    bytes: Expression
    first: int
    last: int


def spans(
    graph: Graph, found: Loops, order: Sequence[int], results: Mapping[int, bool], kept: set[int]
) -> list[_Span]:
    """The memory that a program needs beside the caller's and that of its results.

    ``results`` says of each whether it has memory of its own, and not that of a donated argument;
    ``kept`` are values that stay to the end.
    """
    last = {v: place for place, index in enumerate(order) for v in found.reads[index]}
    last |= dict.fromkeys(kept, len(order))
    held: dict[int, int] = {}  # by each value the first one in its memory
    pieces: dict[int, _Span] = {}
    free: dict[int, int] = {}  # up to which place the memory of a result is
    for place, index in enumerate(order):
        node, alike = graph.nodes[index], found.alike[index]
        dying = {r for r in found.reads[index] if r in held and last[r] == place}
        for v in node.makes:
            over = {r for r, made in node.over if made == v} & dying
            if not over and v not in found.reshaped:
                over = {r for r in alike & dying if graph.shapes[r] == graph.shapes[v]}
            below = min(over, default=None)
            dying.discard(below)
            if results.get(v):
                free[v] = place if below is None else pieces.pop(held[below]).first
            elif v not in graph.owned and v not in results:
                held[v] = v if below is None else held[below]
                first = place if below is None else pieces[held[v]].first
                pieces[held[v]] = _Span(graph.bytes[v], first, last.get(v, place))
    rooms = [_Room(graph.bytes[v], place, []) for v, place in free.items()]
    return list(_without_room(list(pieces.values()), rooms))


class _Room(NamedTuple):
    """The memory of a result: its bytes, until when it is free, and what lies there before."""

    bytes: Expression
    until: int
    taken: list[_Span]

    def takes(self, span: _Span) -> bool:
        """Whether it is free all the while."""
        return span.last < self.until and not any(
            span.first <= other.last and other.first <= span.last for other in self.taken
        )


def _without_room(pieces: list[_Span], rooms: Sequence[_Room]) -> Iterator[_Span]:
    """What finds no place in the memory of results."""
    sizes = list(dict.fromkeys(span.bytes for span in pieces))
    holds = {s: {t for t in sizes if t == s or is_nonnegative(s - t)} for s in sizes}
    by_size: dict[Expression, list[_Room]] = {}
    for room in rooms:
        by_size.setdefault(room.bytes, []).append(room)
    fits = {
        s: [by_size[t] for t in sorted(by_size, key=lambda t: t != s) if is_nonnegative(t - s)]
        for s in sizes
    }
    for span in sorted(pieces, key=lambda span: -len(holds[span.bytes])):
        found = next((r for group in fits[span.bytes] for r in group if r.takes(span)), None)
        if found is None:
            yield span
        else:
            found.taken.append(span)
