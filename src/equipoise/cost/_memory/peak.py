"""Bytes alive at the worst moment of a program whose chains of elementwise operations are fused.

XLA computes an elementwise operation in the loop of what reads it, so that only the values between
such loops are in memory, each from the loop that makes it to the last that reads it, through
whatever is computed again. Results have memory of their own from the beginning, that of donated
arguments where there is some.
"""

from collections.abc import Mapping, Sequence

from equipoise._jax.programs import Program, opened
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.extremes import largest
from equipoise.cost._expression.order import frontier
from equipoise.cost._memory.graph import Graph, Kind, Node

_FUSED = (Kind.SPREAD, Kind.CHEAP, Kind.DEAR)
_FUSING = (*_FUSED, Kind.REDUCTION, Kind.COPY)
_MANY = frozenset((-1, -2))  # stands for any two readers or more


def new_graph() -> Graph:
    """A graph without values yet."""
    return Graph(_inside)


def peak_bytes(graph: Graph, results: Sequence[int], donated: Sequence[int] = ()) -> Expression:
    """Most bytes alive at once: arguments, results that take no donated memory, and the rest."""
    whole = sum((graph.bytes[v] for v in (*graph.owned, *results)), ZERO)
    return whole - sum((graph.bytes[v] for v in donated), ZERO) + largest(_alive(graph, results))


def _inside(program: Program, num_constants: int) -> tuple[Expression, ...]:
    """Bytes that one run of a loop's program needs beside its operands and results.

    What follows from constants alone is computed before the loop, and stays.
    """
    graph = new_graph()
    inputs = graph.arguments(opened(program).invars)
    results = graph.run(program, inputs)
    varying, bare = set(inputs[num_constants:]), set[int]()  # of the rest, what reads no array
    hoisted = set[int]()
    for node in graph.nodes:
        if varying.intersection(node.reads):
            varying.update(node.makes)
            hoisted.update(v for v in node.reads if v not in varying and v not in graph.owned)
        elif all(v in bare or graph.bytes[v] == 0 for v in node.reads):
            bare.update(node.makes)
    spread = {v for node in graph.nodes if node.kind is Kind.SPREAD for v in node.makes} - bare
    hoisted -= spread  # broadcasts of arrays stay where they are
    before = sum((graph.bytes[v] for v in hoisted), ZERO)
    graph.owned |= hoisted
    return tuple(before + alive for alive in _alive(graph, [], kept=results))


def _alive(
    graph: Graph,
    results: Sequence[int],
    kept: Sequence[int] = (),
) -> tuple[Expression, ...]:
    """What may be the most bytes alive at once, beside the caller's and those of results."""
    nodes, end = graph.nodes, len(graph.nodes)
    reads = _loops(graph, {*results, *kept})
    place = _places(graph, reads)
    order = sorted(reads, key=place.__getitem__)
    last = {v: place[index] for index in order for v in reads[index]}
    last |= {v: end for v in kept}
    starts: dict[int, list[int]] = {}
    written = {v: place[index] for index in reads for v in nodes[index].makes}
    for v, index in written.items():
        if v not in results and v not in graph.owned:
            starts.setdefault(index, []).append(v)
    current, peaks = ZERO, [ZERO]
    ends: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        made = starts.get(index, [])
        for v in made:
            ends.setdefault(max(index, last.get(v, index)), []).append(v)
        dying = ends.pop(index, [])
        replaced = [r for r, v in node.over if r in dying and v in made]
        dying = [v for v in dying if v not in replaced]
        current = current - sum((graph.bytes[v] for v in replaced), ZERO)
        if made or node.inside:
            current = current + sum((graph.bytes[v] for v in made), ZERO)
            peaks += [current, *(current + extra for extra in node.inside)]
        current = current - sum((graph.bytes[v] for v in dying), ZERO)
    return frontier(peaks)


def _places(graph: Graph, reads: Mapping[int, frozenset[int]]) -> dict[int, int]:
    """When each loop runs: in its turn, but copies and broadcasts as soon as they can."""
    place: dict[int, int] = {}
    made_at: dict[int, int] = {}
    for index in sorted(reads):
        node = graph.nodes[index]
        early = node.kind in (Kind.COPY, Kind.SPREAD)
        ready = max((made_at.get(v, 0) for v in reads[index]), default=0)
        place[index] = ready if early else index
        made_at.update(dict.fromkeys(node.makes, place[index]))
    return place


def _loops(graph: Graph, results: set[int]) -> dict[int, frozenset[int]]:
    """The operations that write to memory, and what each reads there, through what it takes in."""
    nodes = graph.nodes
    readers: dict[int, set[int]] = {}
    sinks, needed = dict[int, frozenset[int]](), set(results)
    repeated = {i for i, node in enumerate(nodes) if node.kind is Kind.SPREAD}
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        if not needed.intersection(node.makes):
            continue
        needed.update(node.reads)
        for v in node.reads:
            readers.setdefault(v, set()).add(index)
        around = readers.get(node.makes[0], set())
        if node.kind is Kind.DEAR and repeated.intersection(around):
            continue
        if node.kind in _FUSED and not results.intersection(node.makes):
            ends = _ends(node, nodes, around, sinks)
            if ends is not None:
                sinks[index] = ends
                if repeated.intersection(around):
                    repeated.add(index)
    through: dict[int, frozenset[int]] = {}
    reads: dict[int, frozenset[int]] = {}
    for index, node in enumerate(nodes):
        if needed.intersection(node.makes):
            found = frozenset[int]().union(*(through.get(v, (v,)) for v in node.reads))
            if index in sinks:
                through.update(dict.fromkeys(node.makes, found))
            else:
                reads[index] = found
    return reads


def _ends(
    node: Node,
    nodes: Sequence[Node],
    readers: set[int],
    sinks: Mapping[int, frozenset[int]],
) -> frozenset[int] | None:
    """The loops that an operation becomes part of; None where it is one of its own."""
    ends: frozenset[int] = frozenset()
    for reader in readers:
        if nodes[reader].kind not in _FUSING:
            return None
        into = sinks.get(reader, frozenset((reader,)))
        reduces = any(end >= 0 and nodes[end].kind is Kind.REDUCTION for end in into)
        if reduces and (len(readers) > 1 or node.kind is Kind.SPREAD):
            return None
        ends = _MANY if len(ends | into) > 1 else ends | into
    return ends if node.kind is not Kind.DEAR or len(ends) == 1 else None
