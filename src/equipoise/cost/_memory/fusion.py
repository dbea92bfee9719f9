"""Which operations are loops that write to memory, and what each of them reads there.

An operation is taken into the loops of those that read it, once for each, by XLA's rules: what is
dear is computed once; what reads more than it makes is computed again only where all that reads it
can take it in, and nothing of that depends on it through memory as well; a reduction takes in only
what nothing else reads.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from equipoise.cost._expression.expression import ZERO
from equipoise.cost._expression.order import is_nonnegative
from equipoise.cost._memory.graph import Graph
from equipoise.cost._memory.kinds import Kind

_SPREAD = (Kind.SPREAD, Kind.FILLED)
_FUSED = (*_SPREAD, Kind.CHEAP, Kind.DEAR, Kind.PIECED)
_FUSING = (*_FUSED, Kind.REDUCTION, Kind.COPY)
_MOST = 15  # times that one loop computes an operation, each time at another place


class _Fate(NamedTuple):
    """Who takes an operation in, and whether it is a loop, for results or for other readers."""

    takers: frozenset[int]
    is_loop: bool


_THERE = _Fate(frozenset(), is_loop=True)  # of what no operation makes


class Loops(NamedTuple):
    """The operations that write to memory: what each reads there, through what it takes in.

    And what of that each may write its result over, as it reads it element by element. Some values
    are never read in the shape in which their operation has them, and are written in another one.
    """

    reads: dict[int, frozenset[int]]
    alike: dict[int, frozenset[int]]
    reshaped: set[int]


def loops(graph: Graph, results: set[int]) -> Loops:
    """The operations that write to memory; the others are taken in."""
    fates, maker = _Fates(graph, results).found, makers(graph, range(len(graph.nodes)))
    through: dict[int, tuple[frozenset[int], frozenset[int]]] = {}
    found, whole = Loops({}, {}, set()), set[int]()
    for index in sorted(fates):
        node, reads, moved = graph.nodes[index], frozenset[int](), frozenset[int]()
        for v in node.reads:
            taken = index in fates.get(maker.get(v, -1), _THERE).takers
            its, its_moved = through[v] if taken else (frozenset((v,)), frozenset[int]())
            reads |= its
            moved |= its_moved if v in node.alike else its
            if not taken:
                (found.reshaped if v in node.reshaped else whole).add(v)
        if fates[index].takers:
            through.update(dict.fromkeys(node.makes, (reads, moved)))
        if fates[index].is_loop:
            found.reads[index] = reads
            found.alike[index] = reads - moved if node.kind in _FUSED else frozenset()
    found.reshaped.difference_update(whole)
    return found


def makers(graph: Graph, indices: Iterable[int]) -> dict[int, int]:
    """Of each value the operation that makes it, among these."""
    return {v: index for index in indices for v in graph.nodes[index].makes}


def ancestors(reads: Mapping[int, Iterable[int]], maker: Mapping[int, int]) -> dict[int, int]:
    """Of each operation those that it follows from, and itself, as bits of a number."""
    found: dict[int, int] = {}
    for index in sorted(reads):
        found[index] = 1 << index
        for v in reads[index]:
            found[index] |= found.get(maker.get(v, -1), 0)
    return found


class _Fates:
    """The fate of each operation that counts, found from the last to the first."""

    def __init__(self, graph: Graph, results: set[int]) -> None:
        self._graph, self._results = graph, results
        nodes, needed = graph.nodes, set(results)
        self._maker = makers(graph, range(len(nodes)))
        self._after = ancestors({i: n.reads for i, n in enumerate(nodes)}, self._maker)
        self._repeated = {i for i, node in enumerate(nodes) if node.kind is Kind.SPREAD}
        # By the loops that an operation becomes part of: whose places it is computed at there.
        self._places: dict[int, dict[int, frozenset[int]]] = {}
        self._times: dict[tuple[int, int], int] = {}  # how often, by operation and loop
        self.found: dict[int, _Fate] = {}
        readers: dict[int, set[int]] = {}
        for index in reversed(range(len(nodes))):
            makes = nodes[index].makes
            if needed.intersection(makes):
                needed.update(nodes[index].reads)
                for v in nodes[index].reads:
                    readers.setdefault(v, set()).add(index)
                self._decide(index, set[int]().union(*(readers.get(v, ()) for v in makes)))

    def _decide(self, index: int, around: set[int]) -> None:
        """The fate of an operation with these readers."""
        makes, takers = self._graph.nodes[index].makes, self._able(index, around)
        # A reshape for an operation that takes nothing in is a loop that does.
        bent = {r for r in around if not self._graph.nodes[r].reshaped.isdisjoint(makes)}
        everywhere = takers | bent == around and not self._results.intersection(makes)
        if not self._worth(index, takers, around, everywhere=everywhere):
            takers = frozenset()
        takers = self._within(index, takers)
        fate = _Fate(takers, is_loop=not (everywhere and takers == around))
        if takers & self._repeated:
            self._repeated.add(index)
        self._places[index] = self._places_in(index, takers)
        for end, places in self._places[index].items():
            self._times[index, end] = self._count(places, end)
        if fate.is_loop:
            self._places[index][index] = frozenset((index,))
            self._times[index, index] = 1
        self.found[index] = fate

    def _places_in(self, index: int, takers: Iterable[int]) -> dict[int, frozenset[int]]:
        """For each loop of these readers the operations at whose places it is computed.

        A reader of the same shape computes it at its own place.
        """
        found: dict[int, frozenset[int]] = {}
        for r in takers:
            here = self._is_at_same_place(index, r)
            for end, places in self._places[r].items():
                found[end] = found.get(end, frozenset()) | (places if here else {r})
        return found

    def _is_at_same_place(self, index: int, reader: int) -> bool:
        graph, node = self._graph, self._graph.nodes[reader]
        (made,) = graph.nodes[index].makes
        shape, other = graph.shapes[made], graph.shapes[node.makes[0]]
        return made not in node.reshaped and shape[:-1] == other[:-1]

    def _count(self, places: Iterable[int], end: int) -> int:
        return sum(self._times[place, end] for place in places)

    def _within(self, index: int, takers: frozenset[int]) -> frozenset[int]:
        """The readers in whose loops it is not computed too often."""
        if self._graph.nodes[index].kind in _SPREAD:
            return takers
        found = self._places_in(index, takers)
        times = {end: self._count(places, end) for end, places in found.items()}
        if self._graph.nodes[index].kind is Kind.PIECED and sum(times.values()) > 1:
            return frozenset()
        often = {end for end, count in times.items() if count > _MOST}
        return frozenset(r for r in takers if often.isdisjoint(self._places[r]))

    def _able(self, index: int, around: set[int]) -> frozenset[int]:
        """The readers that could take it in."""
        kind = self._graph.nodes[index].kind
        if kind not in _FUSED or (kind is Kind.DEAR and self._repeated & around):
            return frozenset()
        return frozenset(r for r in around if self._graph.nodes[r].kind in _FUSING)

    def _worth(
        self, index: int, takers: frozenset[int], around: set[int], *, everywhere: bool
    ) -> bool:
        """Whether it may be computed where it is read, for every reader that takes it in."""
        if self._graph.nodes[index].kind is Kind.DEAR:
            ends = set[int]().union(*(self._places[r] for r in takers))
            return takers == around and everywhere and len(ends) == 1
        if (everywhere and len(around) == 1) or not self._is_wide(index):
            return True
        return everywhere and not any(self._meets(index, r) for r in takers)

    def _is_wide(self, index: int) -> bool:
        """Whether computing it again reads more than it makes."""
        graph, node = self._graph, self._graph.nodes[index]
        whole = [
            v
            for v in set(node.reads)
            if not (v in self._maker and graph.nodes[self._maker[v]].kind in _SPREAD)
        ]
        read = sum((graph.bytes[v] for v in whole), ZERO)
        return len(whole) > 1 and not is_nonnegative(graph.bytes[node.makes[0]] - read)

    def _meets(self, index: int, reader: int) -> bool:
        """Whether something else that a reader reads depends on it through memory."""
        for v in self._graph.nodes[reader].reads:
            other = self._maker.get(v, -1)
            follows = other > index and self._after[other] >> index & 1
            if follows and (reader not in self.found[other].takers or self._meets(index, other)):
                return True
        return False
