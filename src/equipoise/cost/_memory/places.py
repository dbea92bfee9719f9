"""Which values lie in memory that another one leaves, or that a result will need.

A loop writes over what it is the last to read, where it reads that element by element. A result
has memory of its own from the beginning, in which that lies which it is written over.
"""

from collections.abc import Sequence
from typing import NamedTuple

from equipoise.cost._expression.expression import Expression
from equipoise.cost._memory.fusion import Loops
from equipoise.cost._memory.graph import Graph


class _Span(NamedTuple):
    """One piece of memory: its bytes, and the places of the first and the last loop to use it."""

    bytes: Expression
    first: int
    last: int


def spans(
    graph: Graph, found: Loops, order: Sequence[int], results: dict[int, int], kept: set[int]
) -> list[_Span]:
    """The memory that a program needs beside the caller's and that of its results.

    ``results`` has for each the donated argument that it takes the place of, or itself; ``kept``
    are values that stay to the end.
    """
    last = {v: place for place, index in enumerate(order) for v in found.reads[index]}
    last |= dict.fromkeys(kept, len(order))
    held: dict[int, int] = {}  # by each value the first one in its memory
    pieces: dict[int, _Span] = {}
    for place, index in enumerate(order):
        node, alike = graph.nodes[index], found.alike[index]
        dying = {r for r in found.reads[index] if r in held and last[r] == place}
        for v in node.makes:
            over = {r for r, made in node.over if made == v} & dying
            if not over and v not in found.reshaped:
                over = {r for r in alike & dying if graph.shapes[r] == graph.shapes[v]}
            below = min(over, default=None)
            dying.discard(below)
            if below is not None and v in results and results[v] not in found.reads[index]:
                del pieces[held[below]]
            if v not in graph.owned and v not in results:
                held[v] = v if below is None else held[below]
                first = place if below is None else pieces[held[v]].first
                pieces[held[v]] = _Span(graph.bytes[v], first, last.get(v, place))
    return list(pieces.values())
