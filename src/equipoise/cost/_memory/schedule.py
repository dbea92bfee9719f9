"""When each loop runs: breadth first, as XLA runs programs on the CPU."""

import collections
from collections.abc import Iterable, Mapping

from equipoise.cost._memory.fusion import Loops, ancestors, makers
from equipoise.cost._memory.graph import Graph


def schedule(graph: Graph, reads: Mapping[int, frozenset[int]]) -> list[int]:
    """The loops in the order in which all that they read is there: first come, first served."""
    maker = makers(graph, reads)
    readers: dict[int, list[int]] = {}
    missing: dict[int, int] = {}
    for index in sorted(
        reads, key=lambda i: (not graph.swapped.isdisjoint(graph.nodes[i].makes), i)
    ):
        before = {maker.get(v, ~v) for v in reads[index]}  # ~v stands for a value that is there
        missing[index] = len(before)
        for other in before:
            readers.setdefault(other, []).append(index)
    there = sorted((other for other in readers if other < 0), reverse=True)
    line = collections.deque([*there, *(index for index in missing if not missing[index])])
    order = []
    while line:
        order.append(line.popleft())
        for index in readers.get(order[-1], ()):
            missing[index] -= 1
            if not missing[index]:
                line.append(index)
    return [index for index in order if index >= 0]


def rebuild(graph: Graph, results: Iterable[int]) -> None:
    """Bring the operations into the order in which the partitioner writes a program anew.

    That is depth first: before each operation what its operands follow from, the first one first.
    """
    maker, nodes = makers(graph, range(len(graph.nodes))), graph.nodes
    done, order = set[int](), list[int]()
    line = [maker[v] for v in results if v in maker][::-1]
    while line:
        before = [maker[v] for v in nodes[line[-1]].reads if v in maker]
        if missing := [index for index in before if index not in done]:
            line += missing[::-1]
        elif (index := line.pop()) not in done:
            done.add(index)
            order.append(index)
    graph.nodes = [nodes[index] for index in order]


def save(graph: Graph, found: Loops, over: Mapping[int, int]) -> None:
    """Copy the donated arguments that may still be read when they are written over.

    The loop that reads an argument and writes over it is safe where it follows from all others
    that read the argument; elsewhere XLA has it read a copy.
    """
    reads = found.reads
    maker = makers(graph, reads)
    before = ancestors(reads, maker)
    for donated, result in over.items():
        writes = maker.get(result, -1)
        others = [i for i in reads if donated in reads[i]]
        if writes in others and not all(before[writes] >> i & 1 for i in others):
            reads[len(graph.nodes)] = frozenset((donated,))
            found.alike[len(graph.nodes)] = frozenset()
            reads[writes] = reads[writes] - {donated} | {graph.copy(donated)}
