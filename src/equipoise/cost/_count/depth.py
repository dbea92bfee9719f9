"""Longest chains in the max-plus algebra: joins are maxima, sequences are sums.

The depth of an array is a map from *labels* to chains: where the longest chain of operations from
that source to the array has so many operations. Labels are the inputs of the loop body at hand, or
:data:`START`, the beginning of the program.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from equipoise.cost._expression.expression import ONE, ZERO, Expression
from equipoise.cost._expression.order import frontier

START = -1
Frontier: TypeAlias = tuple[Expression, ...]


class Chain(NamedTuple):
    """A length in primitives, and in steps of pairwise operations; each the largest of several."""

    unit: Frontier = (ZERO,)
    log: Frontier = (ZERO,)

    def plus(self, other: "Chain") -> "Chain":
        """Both chains, one after the other."""
        return Chain(*(_sums(a, b) for a, b in zip(self, other, strict=True)))

    def times(self, count: Expression) -> "Chain":
        """The chain repeated."""
        return Chain(*(tuple(length * count for length in lengths) for lengths in self))

    def join(self, other: "Chain") -> "Chain":
        """The longer of the two."""
        if self == other:
            return self
        return Chain(*(frontier((*a, *b)) for a, b in zip(self, other, strict=True)))


def _sums(left: Frontier, right: Frontier) -> Frontier:
    if len(left) == len(right) == 1:
        return (left[0] + right[0],)
    return frontier(a + b for a in left for b in right)


EMPTY = Chain()
Depth: TypeAlias = Mapping[int, Chain]
AT_START: Depth = {START: EMPTY}


def step(unit: Expression = ONE, log: Expression | None = None) -> Chain:
    """A chain of so many primitives, which take so many pairwise steps."""
    return Chain((unit,), (unit if log is None else log,))


def join(depths: Iterable[Depth]) -> Depth:
    """The longest chain from each label."""
    joined: dict[int, Chain] = {}
    for depth in depths:
        for label, chain in depth.items():
            known = joined.get(label)
            joined[label] = chain if known is None else known.join(chain)
    return joined


def after(depth: Depth, chain: Chain) -> Depth:
    """Every chain followed by another."""
    if chain is EMPTY or chain == EMPTY:
        return depth
    return {label: known.plus(chain) for label, known in depth.items()}


def compose(inputs: Sequence[Depth], output: Depth) -> Depth:
    """Chains to an output of a body, given the depths of its inputs."""
    return join(
        after(AT_START if label == START else inputs[label], chain)
        for label, chain in output.items()
    )


def loop(outputs: Sequence[Depth], carry: Sequence[int], trips: Expression) -> list[Depth]:
    """Chains from the inputs of a loop to the outputs of its body, after the last iteration.

    ``outputs`` are the chains through one iteration, of which the first are the new carry;
    ``carry`` gives the labels of the old one. Iterations are counted in full where a cycle through
    the carry needs them, so a loop whose carry is not read has the depth of one body.
    """
    size = len(carry)
    position = {label: i for i, label in enumerate(carry)}
    one: list[dict[int, Chain]] = [
        {position[label]: chain for label, chain in outputs[j].items() if label in position}
        for j in range(size)
    ]
    through, since_entry = _closure(one, trips - 1), _closure(one, trips - 2)
    entering = [
        {label: c for label, c in output.items() if label not in position} for output in outputs
    ]
    # Chains to each carry before the last iteration: straight from it, or entering on the way.
    before: list[Depth] = [
        join(
            [
                {carry[i]: chain for i, chain in through[j].items()},
                *(after(entering[i], chain) for i, chain in since_entry[j].items()),
            ]
        )
        for j in range(size)
    ]
    return [
        join(
            [
                entering[k],
                *(after(before[position[i]], c) for i, c in output.items() if i in position),
            ]
        )
        for k, output in enumerate(outputs)
    ]


def _closure(one: list[dict[int, Chain]], steps: Expression) -> list[dict[int, Chain]]:
    """``[j][i]``: an upper bound of the longest chain from carry i to carry j in so many steps.

    Carries that depend on each other form a component. A chain crosses components, an iteration
    each time, and spends the rest of the iterations in them, each at most at the heaviest edge
    inside a component on its way. Exact where that edge joins a carry to itself.
    """
    size = len(one)
    reach = _reachable(one)
    component = [min(k for k in range(size) if reach[j][k] and reach[k][j]) for j in range(size)]
    rate: dict[int, Chain] = {}
    crossing: dict[tuple[int, int], Chain] = {}
    for j in range(size):
        for i, chain in one[j].items():
            a, b = component[i], component[j]
            if a == b:
                rate[a] = rate[a].join(chain) if a in rate else chain
            else:
                crossing[a, b] = crossing[a, b].join(chain) if (a, b) in crossing else chain
    order = sorted(set(component), key=lambda k: sum(reach[k]))
    closed: list[dict[int, Chain]] = [{} for _ in range(size)]
    for source in order:
        for target in order:
            if reach[target][source]:
                on_the_way = [k for k in order if reach[k][source] and reach[target][k]]
                chain = _between(source, target, on_the_way, rate, crossing, steps)
                for j in (j for j in range(size) if component[j] == target):
                    for i in (i for i in range(size) if component[i] == source):
                        closed[j][i] = chain
    return closed


def _reachable(one: list[dict[int, Chain]]) -> list[list[bool]]:
    """``[j][i]``: whether carry j depends on carry i after some number of iterations."""
    size = len(one)
    reach = [[i == j or i in one[j] for i in range(size)] for j in range(size)]
    for k in range(size):
        for row in reach:
            if row[k]:
                row[:] = [a or b for a, b in zip(row, reach[k], strict=True)]
    return reach


def _between(
    source: int,
    target: int,
    on_the_way: list[int],
    rate: dict[int, Chain],
    crossing: dict[tuple[int, int], Chain],
    steps: Expression,
) -> Chain:
    """The longest chain between two components, those on the way in the order of dependence."""
    rates = [rate[k] for k in on_the_way if k in rate]
    linger = EMPTY
    for chain in rates:
        linger = linger.join(chain)
    longest = {source: EMPTY}
    for k in on_the_way:
        for i in on_the_way:
            if i in longest and (i, k) in crossing:
                chain = longest[i].plus(_less(crossing[i, k], linger))
                longest[k] = longest[k].join(chain) if k in longest else chain
    return longest[target].plus(linger.times(steps))


def _less(chain: Chain, other: Chain) -> Chain:
    """The chain less another whose length is one expression; the chain itself otherwise."""
    return Chain(
        *(
            tuple(a - b[0] for a in lengths) if len(b) == 1 else lengths
            for lengths, b in zip(chain, other, strict=True)
        )
    )
