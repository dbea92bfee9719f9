"""Bytes alive at the worst moment of a program whose chains of elementwise operations are fused.

XLA computes an elementwise operation in the loop of what reads it, so that only the values between
such loops are in memory, each from the loop that makes it to the last that reads it, through
whatever is computed again. Results have memory of their own from the beginning, that of donated
arguments where there is some.
"""

import functools
import types
from collections.abc import Mapping, Sequence

from equipoise._jax.programs import Program, opened
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.extremes import largest
from equipoise.cost._expression.order import frontier
from equipoise.cost._memory.fusion import loops
from equipoise.cost._memory.graph import Graph
from equipoise.cost._memory.joint import join
from equipoise.cost._memory.kinds import Kind
from equipoise.cost._memory.library import take_whole
from equipoise.cost._memory.places import spans
from equipoise.cost._memory.schedule import rebuild, save, schedule

_NONE: Mapping[int, int] = types.MappingProxyType({})


def new_graph(*, barriers: bool = False, partitioned: bool = False) -> Graph:
    """A graph without values yet; with barriers, checkpoints are kept.

    A partitioned program is that of one device of a mesh, which the partitioner wrote.
    """
    return Graph(
        functools.partial(_inside, partitioned=partitioned),
        barriers=barriers,
        partitioned=partitioned,
    )


def peak_bytes(graph: Graph, results: Sequence[int], over: Mapping[int, int] = _NONE) -> Expression:
    """Most bytes alive at once: arguments, results that take no donated memory, and the rest.

    ``over`` has the donated arguments, each with the result that is written over it.
    """
    whole = sum((graph.bytes[v] for v in (*graph.owned, *results)), ZERO)
    whole = whole - sum((graph.bytes[v] for v in over), ZERO)
    return whole + largest(_alive(graph, results, over=over))


def _inside(
    program: Program, num_constants: int, unread: set[int], *, partitioned: bool
) -> tuple[Expression, ...]:
    """Bytes that one run of a loop's program needs beside its operands and results.

    What follows from constants alone is computed before the loop, and stays.
    """
    graph = new_graph(partitioned=partitioned)
    inputs = graph.arguments(opened(program).invars)
    made = enumerate(graph.run(program, inputs))
    results = [v for i, v in made if i not in unread]
    varying, bare = set(inputs[num_constants:]), set[int]()  # of the rest, what reads no array
    hoisted, here = set[int](), set[int]()
    for node in graph.nodes:
        if varying.intersection(node.reads):
            varying.update(node.makes)
            hoisted.update(v for v in node.reads if v not in varying and v not in graph.owned)
        elif all(v in bare or graph.bytes[v] == 0 for v in node.reads):
            bare.update(node.makes)
        elif node.kind is Kind.SPREAD:
            here.update(node.makes)  # broadcasts of arrays stay where they are
        if node.kind is Kind.FILLED:
            here.update(node.makes)
    hoisted -= here
    before = sum((graph.bytes[v] for v in hoisted), ZERO)
    graph.owned |= hoisted
    return tuple(before + alive for alive in _alive(graph, [], kept=results))


def _alive(
    graph: Graph,
    results: Sequence[int],
    *,
    kept: Sequence[int] = (),
    over: Mapping[int, int] = _NONE,
) -> tuple[Expression, ...]:
    """What may be the most bytes alive at once, beside the caller's and those of results.

    XLA calls a library for what has many elements, which names do not say: so for nothing, for
    everything, or for all but what reductions make, whichever takes more.
    """
    if graph.partitioned:
        rebuild(graph, (*results, *kept))
    join(graph)
    ways = [graph]
    for few in (False, True):
        ways.append(graph.copied())
        take_whole(ways[-1], {*results, *kept}, few=few)
    return frontier([p for way in ways for p in _peaks(way, results, kept, over)])


def _peaks(
    graph: Graph, results: Sequence[int], kept: Sequence[int], over: Mapping[int, int]
) -> list[Expression]:
    """The bytes alive at each place where they grow."""
    found = loops(graph, {*results, *kept})
    save(graph, found, over)
    order = schedule(graph, found.reads)
    taken = {result: donated for donated, result in over.items()}
    own = {v: taken.get(v, v) for v in results if v not in graph.owned}
    starts: dict[int, list[Expression]] = {}
    ends: dict[int, list[Expression]] = {}
    for span in spans(graph, found, order, own, set(kept)):
        starts.setdefault(span.first, []).append(span.bytes)
        ends.setdefault(span.last, []).append(span.bytes)
    current, peaks = ZERO, [ZERO]
    for place, index in enumerate(order):
        inside = graph.nodes[index].inside
        if place in starts or inside:
            current = sum(starts.get(place, ()), current)
            peaks += [current, *(current + extra for extra in inside)]
        current = current - sum(ends.get(place, ()), ZERO)
    return peaks
