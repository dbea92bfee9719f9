"""What a library computes whole: reductions, with the operations around them that it knows.

XLA grows such a call from each reduction, the last one first: up into operations that nothing else
reads, down into the only one that reads its result. Nothing within is in memory, and what others
read as well is written out for the call, numbers that fill an array included.
"""

from equipoise.cost._memory.fusion import makers
from equipoise.cost._memory.graph import Graph
from equipoise.cost._memory.kinds import REDUCING, Kind
from equipoise.cost._memory.values import Node


def take_whole(graph: Graph, results: set[int], *, few: bool) -> None:
    """Put one operation in the place of each reduction and what the library computes with it.

    What reductions make may have too few elements for a call; then what follows from it alone is
    computed outside.
    """
    nodes, readers = graph.nodes, _readers(graph, results)
    maker = makers(graph, range(len(nodes)))
    known = {i for i, node in enumerate(nodes) if node.in_library}
    if few:
        known -= _of_few(graph)
    for first in reversed(range(len(nodes))):
        if not (first in known and nodes[first].kind in REDUCING and first in readers):
            continue
        inside, grown = set[int](), {first}
        while grown:
            inside |= grown
            above = {maker.get(v, -1) for i in inside for v in nodes[i].reads} - inside
            grown = {i for i in above if i in known and readers[i] <= inside}
            below = readers[max(inside)]
            if not grown and len(below) == 1:
                grown = below & known
        _join(graph, inside)
        known -= inside


_CALLER = -1  # reads the results


def _of_few(graph: Graph) -> set[int]:
    """The operations that compute as few numbers from results of reductions alone."""
    few, found, filled = set[int](), set[int](), set[int]()
    for index, node in enumerate(graph.nodes):
        if node.kind is Kind.FILLED:
            filled.update(node.makes)
        reads = set(node.reads) - filled
        if node.kind is Kind.SPREAD:  # with axes of one it is no operation
            few.update(
                v for v in node.makes if graph.bytes[v] in [graph.bytes[r] for r in reads & few]
            )
        elif reads and reads <= few:
            found.add(index)
        if node.kind is Kind.REDUCTION or index in found:
            few.update(node.makes)
    return found


def _readers(graph: Graph, results: set[int]) -> dict[int, set[int]]:
    """Of each operation that counts those that read what it makes."""
    of_values: dict[int, set[int]] = {v: {_CALLER} for v in results}
    found: dict[int, set[int]] = {}
    for index in reversed(range(len(graph.nodes))):
        around = set[int]().union(*(of_values.get(v, ()) for v in graph.nodes[index].makes))
        if around:
            found[index] = around
            for v in graph.nodes[index].reads:
                of_values.setdefault(v, set()).add(index)
    return found


def _join(graph: Graph, inside: set[int]) -> None:
    """One operation that reads what these read from outside, in the place of the last of them."""
    nodes = [graph.nodes[i] for i in sorted(inside)]
    made = {v for node in nodes for v in node.makes}
    reads = tuple(dict.fromkeys(v for node in nodes for v in node.reads if v not in made))
    whole = set().union(*(set(node.reads) - node.reshaped for node in nodes))
    joined = Node(Kind.OPAQUE, reads, nodes[-1].makes, reshaped=frozenset(reads) - whole)
    for i in inside:
        graph.nodes[i] = Node(Kind.OPAQUE, (), ())
    graph.nodes[max(inside)] = joined
