"""A program as a graph of values, calls written out and code that nothing reads left out.

What matters to memory is who reads whom, and how each operation is compiled.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from equipoise._jax.checkpoints import recomputes
from equipoise._jax.evaluation import implementation
from equipoise._jax.programs import (
    SCAN,
    SHARD_MAP,
    WHILE,
    Atom,
    Equation,
    Program,
    aval,
    called,
    is_array,
    is_literal,
    opened,
)
from equipoise.cost._count.rules import ELEMENTWISE, RENAMED, RULES
from equipoise.cost._count.scope import is_small
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._memory.kinds import (
    HOLDING,
    KINDS,
    RESHAPING,
    Kind,
    fills,
    flattened,
    folds,
    held,
    in_library,
    is_flat,
    lies_apart,
    reordered,
    summed,
    written_over,
)
from equipoise.cost._memory.values import Node, shape_of
from equipoise.cost._memory.written_out import WrittenOut
from equipoise.cost._program.sizes import is_one

_FLAT = "flat"  # the shape of products that are computed as matrices
_ELEMENTWISE = frozenset(ELEMENTWISE.split())
_Inner = Callable[[Program, int, set[int]], Sequence[Expression]]


class Graph(WrittenOut):
    """Values by number, with their bytes, and the operations on them in the order of the program.

    With barriers, what a checkpoint computes again waits for all that it reads.
    """

    def __init__(self, inner: _Inner, *, barriers: bool, partitioned: bool) -> None:
        super().__init__()
        self._inner, self._barriers, self.partitioned = inner, barriers, partitioned
        self._masks: set[int] = set()  # ones and zeros that were Booleans
        self._unread: set[Atom] = set()  # what loops build for nobody

    def run(self, program: Program, operands: Sequence[int]) -> list[int]:
        """Append a program's operations on these operands; its results."""
        body = opened(program)
        env: dict[Atom, int] = dict(zip(body.invars, operands, strict=True))
        env.update((v, self.value(v, owned=True)) for v in body.constvars)

        def read(atom: Atom) -> int:
            return self.number(atom) if is_literal(atom) else env[atom]

        readers: dict[Atom, list[str]] = {}  # what reads each value, the caller as ""
        for name, atoms in [(e.primitive.name, e.invars) for e in body.eqns] + [("", body.outvars)]:
            for v in atoms:
                if not is_literal(v):
                    readers.setdefault(v, []).append(name)
        for equation in body.eqns:
            if equation.primitive.name == SCAN:
                self._unread.update(v for v in equation.outvars if v not in readers)
            if folds(equation):
                alone = len(readers[equation.invars[0]]) == 1
                made: Sequence[int] = [self.turn(equation, read(equation.invars[0]), alone=alone)]
            elif equation.primitive.name == "top_k":
                around = [readers.get(v, ()) for v in equation.outvars]
                made = self.top_k(equation, read(equation.invars[0]), around)
            else:
                made = self._apply(equation, read)
            env.update(zip(equation.outvars, made, strict=True))
        return [read(atom) for atom in body.outvars]

    def _wait(self, first: int, operands: Sequence[int]) -> None:
        """Put a barrier before these operations, so that none runs until all operands are there."""
        gate = self.new(ZERO)
        for i, node in enumerate(self.nodes[first:], first):
            if not set(operands).isdisjoint(node.reads):
                self.nodes[i] = node._replace(reads=(*node.reads, gate))
        self.nodes.insert(first, Node(Kind.OPAQUE, tuple(operands), (gate,)))

    def _apply(self, equation: Equation, read: Callable[[Atom], int]) -> Sequence[int]:
        name = equation.primitive.name
        operands = [read(atom) for atom in equation.invars]
        if operands and name in RENAMED:
            return [operands[0]]
        body = called(equation) if name != SHARD_MAP else None
        small = body is None and all(is_array(v) and is_small(v) for v in equation.outvars)
        if small and all(self.bytes[v] == 0 for v in operands):
            return [self.number(v) for v in equation.outvars]
        if body is None and name not in RULES and name not in HOLDING:
            body = implementation(equation)
        if body is not None:
            first, results = len(self.nodes), self.run(body, operands)
            if self._barriers and recomputes(equation):
                self._wait(first, operands)
            return results
        if name == "broadcast_in_dim" and is_literal(equation.invars[0]):
            number = str(equation.invars[0].val)
            return [self.fill(operands[0], number, equation.outvars[0])]
        if name == "broadcast_in_dim" and len(operands) == 1:
            sizes, along = aval(equation.invars[0]).shape, equation.params["broadcast_dimensions"]
            axes = [i for i, size in zip(along, sizes, strict=True) if not is_one(size)]
            return [self.spread_along(axes, operands[0], equation.outvars[0])]
        if name == "dot_general":
            operands = [self.lying.get(v, v) for v in operands]
        apart = lies_apart(equation)
        if apart:
            operands[0] = self.copy(operands[0])
        for i, order in reordered(equation):
            operands[i] = self.in_order(operands[i], order)
        self.unbatch(equation, operands)
        if name == "erf_inv":
            return [self.inverse(equation.outvars[0], *operands)]
        if name == "random_bits":
            return [self.mix(equation.outvars[0], *operands)]
        if name == "select_and_scatter_add":
            return [self.select_and_scatter(equation, *operands)]
        makes = tuple(
            self.number(v) if v in self._unread else self.value(v) for v in equation.outvars
        )
        if makes and is_flat(equation):
            self.shapes[makes[0]] = (_FLAT, self.shapes[makes[0]][-1])
        if name == "split":  # into slices, each for its own readers
            self.nodes += [Node(Kind.CHEAP, tuple(operands), (made,)) for made in makes]
        elif not self.scatters(name, operands, makes):
            self.nodes.append(self._node(equation, operands, makes))
        return [self.put_together(v) for v in makes] if apart else makes

    def _node(self, equation: Equation, operands: list[int], makes: tuple[int, ...]) -> Node:
        name = equation.primitive.name
        kind = KINDS.get(name, Kind.OPAQUE)
        if kind in (Kind.CHEAP, Kind.DEAR) and name not in RESHAPING:
            (result,) = equation.outvars
            operands = [
                v if fills(atom, aval(result).shape) else self.spread(atom, v, result)
                for atom, v in zip(equation.invars, operands, strict=True)
            ]
        over = []
        for i, j in written_over(equation):
            operands[i] = self.own(operands[i])
            over.append((operands[i], makes[j]))
        carried = len(over)  # what the next turn reads
        if name == SCAN:  # what it builds piece by piece is written over zeros
            zero = self.new(ZERO, owned=True)
            built = list(zip(equation.outvars, makes, strict=True))[len(over) :]
            for v, made in [pair for pair in built if pair[0] not in self._unread]:
                over.append((self.own(self.fill(zero, "0.0", v)), made))
                operands.append(over[-1][0])
        if name in (SCAN, WHILE):
            operands = [self.straightened(v) for v in operands]
        unread = {i for i, v in enumerate(equation.outvars) if v in self._unread and i >= carried}
        inside = tuple(
            extra * times
            for program, constants, times in held(equation)
            for extra in self._inner(program, constants, unread)
        )
        views = self._views(equation, operands, makes)
        if name == "transpose":
            self.turned[makes[0]] = operands[0]
        if name == "convert_element_type" and aval(equation.invars[0]).dtype == jnp.bool_:
            self._masks.update(makes)
        selects = name == "mul" and self._masks.intersection(operands)
        known = in_library(equation) and not selects
        sums = summed(equation)
        return Node(kind, tuple(operands), makes, inside, tuple(over), *views, known, sums)

    def _views(
        self, equation: Equation, operands: Sequence[int], makes: Sequence[int]
    ) -> tuple[frozenset[int], frozenset[int]]:
        """Operands that are read element by element, and those that are read in another shape."""
        result = self.shapes[makes[0]][:-1] if len(makes) == 1 else None
        elementwise = equation.primitive.name in _ELEMENTWISE
        alike, reshaped = set[int](), set(flattened(equation, operands))
        for atom, v in zip(equation.invars, operands, strict=False):
            if is_literal(atom) or not self.shapes[v]:
                continue
            shape = shape_of(atom)[:-1]
            if shape != self.shapes[v][:-1]:
                reshaped.add(v)
            elif elementwise and shape == result:
                alike.add(v)
        return frozenset(alike - reshaped), frozenset(reshaped)
