"""Sums over devices that are made at once, as XLA makes them: those of which none needs another.

Sums of one kind of number along the same axes are one operation, however large: all that they read
is there when it starts, and all that they make when it ends.
"""

import heapq
from typing import NamedTuple

from equipoise.cost._memory.graph import Graph


class _Group(NamedTuple):
    """Operations that are made at once, and which other groups they need, as bits of a number."""

    sums: object
    members: list[int]
    needs: list[int]


def join(graph: Graph) -> None:
    """Replace such sums by one operation each, and bring what follows after it."""
    groups = [group for group in _groups(graph) if len(group.members) > 1]
    if not groups:
        return
    nodes = dict(enumerate(graph.nodes))
    for group in groups:
        parts = [nodes.pop(index) for index in group.members]
        reads = tuple(dict.fromkeys(v for part in parts for v in part.reads))
        makes = tuple(v for part in parts for v in part.makes)
        reshaped = frozenset[int]().union(*(part.reshaped for part in parts))
        joint = parts[0]._replace(reads=reads, makes=makes, reshaped=reshaped)
        nodes[group.members[-1]] = joint
    maker = {v: index for index, node in nodes.items() for v in node.makes}
    readers: dict[int, list[int]] = {}
    missing = dict.fromkeys(nodes, 0)
    for index, node in nodes.items():
        for other in {maker[v] for v in node.reads if v in maker}:
            readers.setdefault(other, []).append(index)
            missing[index] += 1
    ready = [index for index, count in missing.items() if not count]
    heapq.heapify(ready)
    graph.nodes = []
    while ready:
        index = heapq.heappop(ready)
        graph.nodes.append(nodes[index])
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)


def _groups(graph: Graph) -> list[_Group]:
    """The sums over devices, each in the first group none of which it follows from."""
    groups: list[_Group] = []
    behind: dict[int, int] = {}  # the groups that a value follows from
    for index, node in enumerate(graph.nodes):
        needed = 0
        for v in node.reads:
            needed |= behind.get(v, 0)
        if node.sums is not None:
            after = _closure(needed, groups)
            free = (i for i, g in enumerate(groups) if g.sums == node.sums and not after >> i & 1)
            place = next(free, len(groups))
            if place == len(groups):
                groups.append(_Group(node.sums, [], [0]))
            groups[place].members.append(index)
            groups[place].needs[0] |= needed
            needed |= 1 << place
        behind.update(dict.fromkeys(node.makes, needed))
    return groups


def _closure(needed: int, groups: list[_Group]) -> int:
    """These groups and all that they need."""
    found, rest = 0, needed
    while rest:
        found |= rest
        wider = found
        for i, group in enumerate(groups):
            if rest >> i & 1:
                wider |= group.needs[0]
        rest = wider & ~found
    return found
