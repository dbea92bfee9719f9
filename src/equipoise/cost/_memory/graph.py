"""A program as a graph of values, calls written out and code that nothing reads left out.

What matters to memory is who reads whom, and how each operation is compiled.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from equipoise._jax.programs import (
    SCAN,
    SHARD_MAP,
    WHILE,
    Atom,
    Equation,
    Program,
    aval,
    called,
    implementation,
    is_array,
    is_literal,
    opened,
    rank,
    recomputes,
)
from equipoise.cost._count.rules import ELEMENTWISE, RENAMED, RULES
from equipoise.cost._count.scope import is_small
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._memory.exchange import lies_apart, summed
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
    reordered,
    written_over,
)
from equipoise.cost._program.sizes import as_text, count, is_one, total_bytes


class Node(NamedTuple):
    """An operation: which values it reads and makes, and the bytes it needs while it runs.

    ``over`` has the values that may be written over, each with what takes its place; ``alike``
    those that are read element by element in the order of the result, ``reshaped`` those that
    are read in another shape than they were made in. Some operations a library knows; ``sums``
    says over which devices it sums, where it does.
    """

    kind: Kind
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    inside: tuple[Expression, ...] = ()
    over: tuple[tuple[int, int], ...] = ()
    alike: frozenset[int] = frozenset()
    reshaped: frozenset[int] = frozenset()
    in_library: bool = False
    sums: object = None


_INDEX = 4  # bytes of a place in an axis
_WORDS = 3  # beside random bits, while they are mixed: theirs, and two that are next
_FLAT = "flat"  # the shape of products that are computed as matrices
_ELEMENTWISE = frozenset(ELEMENTWISE.split())
_Shape: TypeAlias = tuple[str, ...]  # sizes, then the type of numbers
_Inner = Callable[[Program, int], Sequence[Expression]]


class Graph:
    """Values by number, with their bytes, and the operations on them in the order of the program.

    ``owned`` are the values that belong to the caller: arguments, and what programs closed over.
    With barriers, what a checkpoint computes again waits for all that it reads.
    """

    def __init__(self, inner: _Inner, *, barriers: bool = False) -> None:
        self._barriers = barriers
        self.bytes: list[Expression] = []
        self.shapes: list[_Shape] = []  # as each value is made; those of no array are empty
        self.nodes: list[Node] = []
        self.owned: set[int] = set()
        self._inner = inner
        self._filled: dict[tuple[str, str], int] = {}  # arrays of one number, by it and their shape
        self._number_of: dict[int, int] = {}  # that fills an array
        self._given: set[int] = set()  # such arrays that something is written over
        self._zeros: set[int] = set()  # the number 0, and arrays of it
        self._scattered: dict[int, tuple[int, ...]] = {}  # sums onto zeros: indices and updates
        self._lying: dict[int, int] = {}  # transposed matrices, and what lies there
        self._turned: dict[int, int] = {}  # all that is transposed, and of what
        self._masks: set[int] = set()  # ones and zeros that were Booleans
        self._spreads: dict[tuple[int, tuple[int, ...], _Shape], int] = {}  # by where axes go
        self._unread: set[Atom] = set()  # what loops build for nobody
        self.swapped: set[int] = set()  # products that are computed transposed

    def value(self, atom: Atom, *, owned: bool = False) -> int:
        """A new value of this shape."""
        return self._new(total_bytes([atom]), _shape_of(atom), owned=owned)

    def copy(self, value: int) -> int:
        """A new value that is a copy of another, made as soon as there is time."""
        made = self._new(self.bytes[value], self.shapes[value])
        self.nodes.append(Node(Kind.COPY, (value,), (made,)))
        return made

    def arguments(self, atoms: Sequence[Atom]) -> list[int]:
        """New values that belong to the caller."""
        return [self.value(atom, owned=True) for atom in atoms]

    def run(self, program: Program, operands: Sequence[int]) -> list[int]:
        """Append a program's operations on these operands; its results."""
        body = opened(program)
        env: dict[Atom, int] = dict(zip(body.invars, operands, strict=True))
        env.update((v, self.value(v, owned=True)) for v in body.constvars)

        def read(atom: Atom) -> int:
            return self._number(atom) if is_literal(atom) else env[atom]

        uses = Counter(v for e in body.eqns for v in e.invars if not is_literal(v))
        uses.update(v for v in body.outvars if not is_literal(v))
        for equation in body.eqns:
            if equation.primitive.name == SCAN:
                self._unread.update(v for v in equation.outvars if not uses[v])
            if folds(equation):
                alone = uses[equation.invars[0]] == 1
                made: Sequence[int] = [self._turn(equation, read(equation.invars[0]), alone=alone)]
            else:
                made = self._apply(equation, read)
            env.update(zip(equation.outvars, made, strict=True))
        return [read(atom) for atom in body.outvars]

    def _new(self, size: Expression, shape: _Shape = (), *, owned: bool = False) -> int:
        self.bytes.append(size)
        self.shapes.append(shape)
        if owned:
            self.owned.add(len(self.bytes) - 1)
        return len(self.bytes) - 1

    def _number(self, atom: Atom) -> int:
        """A number in the program's text, or one that follows from sizes: it takes no memory."""
        number = self._new(ZERO, owned=True)
        if is_literal(atom) and jnp.issubdtype(aval(atom).dtype, jnp.number) and atom.val == 0:
            self._zeros.add(number)
        return number

    def _spread(self, atom: Atom, operand: int, result: Atom) -> int:
        """An operand in the shape of the result."""
        if is_literal(atom):
            return self._fill(operand, str(atom.val), result)
        axes = [i for i, size in enumerate(aval(atom).shape) if not is_one(size)]
        return self._spread_along(axes, operand, result)

    def _spread_along(self, axes: Sequence[int], operand: int, result: Atom) -> int:
        """The same for all that ask for it."""
        key = operand, tuple(axes), _shape_of(result)
        if key not in self._spreads:
            kind = Kind.SPREAD if self.bytes[operand] != 0 else Kind.FILLED
            self._spreads[key] = self.value(result)
            self._spread_out(kind, operand, self._spreads[key])
        return self._spreads[key]

    def _spread_out(self, kind: Kind, operand: int, made: int) -> None:
        known = self.shapes[made][-1] in ("float32", "float64")
        self.nodes.append(Node(kind, (operand,), (made,), in_library=known))

    def _turn(self, equation: Equation, operand: int, *, alone: bool) -> int:
        """A transposed matrix: products read it as it lies, all others as it is."""
        before = self.nodes[-1] if self.nodes else None
        if alone and before and before.kind is Kind.PRODUCT and before.makes == (operand,):
            self.swapped.add(operand)
            return operand
        made = self.value(equation.outvars[0])
        self._lying[made] = self._turned[made] = operand
        self.nodes.append(Node(Kind.CHEAP, (operand,), (made,)))
        return made

    def _fill(self, operand: int, number: str, result: Atom) -> int:
        """An array of one number in the shape of the result, the same for all that ask for it."""
        key = number, str(result.aval)
        if key not in self._filled:
            self._filled[key] = self.value(result)
            self._spread_out(Kind.FILLED, operand, self._filled[key])
            self._number_of[self._filled[key]] = operand
            if operand in self._zeros:
                self._zeros.add(self._filled[key])
        return self._filled[key]

    def _wait(self, first: int, operands: Sequence[int]) -> None:
        """Put a barrier before these operations, so that none runs until all operands are there."""
        gate = self._new(ZERO)
        for i, node in enumerate(self.nodes[first:], first):
            if not set(operands).isdisjoint(node.reads):
                self.nodes[i] = node._replace(reads=(*node.reads, gate))
        self.nodes.insert(first, Node(Kind.OPAQUE, tuple(operands), (gate,)))

    def _own(self, value: int) -> int:
        """The value, or where it is one number everywhere an array that is written over once."""
        operand = self._number_of.get(value)
        if operand is None:
            return value
        made = (
            value if value not in self._given else self._new(self.bytes[value], self.shapes[value])
        )
        if made != value:
            self._spread_out(Kind.FILLED, operand, made)
        self._given.add(made)
        return made

    def _apply(self, equation: Equation, read: Callable[[Atom], int]) -> Sequence[int]:
        name = equation.primitive.name
        operands = [read(atom) for atom in equation.invars]
        if operands and name in RENAMED:
            return [operands[0]]
        body = called(equation) if name != SHARD_MAP else None
        small = body is None and all(is_array(v) and is_small(v) for v in equation.outvars)
        if small and all(self.bytes[v] == 0 for v in operands):
            return [self._number(v) for v in equation.outvars]
        if body is None and name not in RULES and name not in HOLDING:
            body = implementation(equation)
        if body is not None:
            first, results = len(self.nodes), self.run(body, operands)
            if self._barriers and recomputes(equation):
                self._wait(first, operands)
            return results
        if name == "broadcast_in_dim" and is_literal(equation.invars[0]):
            number = str(equation.invars[0].val)
            return [self._fill(operands[0], number, equation.outvars[0])]
        if name == "broadcast_in_dim" and len(operands) == 1:
            sizes, along = aval(equation.invars[0]).shape, equation.params["broadcast_dimensions"]
            axes = [i for i, size in zip(along, sizes, strict=True) if not is_one(size)]
            return [self._spread_along(axes, operands[0], equation.outvars[0])]
        if name == "dot_general":
            operands = [self._lying.get(v, v) for v in operands]
        apart = lies_apart(equation)
        for i in (0,) if apart else reordered(equation):
            operands[i] = self.copy(operands[i])
        if name == "select_and_scatter_add":
            return [self._select_and_scatter(equation, *operands)]
        makes = tuple(
            self._number(v) if v in self._unread else self.value(v) for v in equation.outvars
        )
        if makes and is_flat(equation):
            self.shapes[makes[0]] = (_FLAT, self.shapes[makes[0]][-1])
        if name == "split":  # into slices, each for its own readers
            self.nodes += [Node(Kind.CHEAP, tuple(operands), (made,)) for made in makes]
        elif not self._scatters(name, operands, makes):
            self.nodes.append(self._node(equation, operands, makes))
        return [self._put_together(v) for v in makes] if apart else makes

    def _put_together(self, value: int) -> int:
        """The pieces of a value in their order, for all who read them."""
        made = self._new(self.bytes[value], self.shapes[value])
        self.nodes.append(Node(Kind.CHEAP, (value,), (made,)))
        return made

    def _select_and_scatter(self, equation: Equation, source: int, operand: int) -> int:
        """What was largest in its window takes the source: found with its place in each axis."""
        places, picked = (
            [self._new(_INDEX * count(aval(v).shape)) for _ in range(rank(v))]
            for v in equation.invars[::-1]
        )
        zero, made = self._new(ZERO, owned=True), self.value(equation.outvars[0])
        filled = self._own(self._fill(zero, "0.0", equation.outvars[0]))
        indices = self._new(sum((self.bytes[v] for v in picked), ZERO))
        best = self._new(self.bytes[source])
        self.nodes += [
            *(Node(Kind.OPAQUE, (zero,), (v,)) for v in places),
            Node(Kind.OPAQUE, (operand, *places), (best, *picked)),
            Node(Kind.CHEAP, tuple(picked), (indices,)),
            Node(Kind.OPAQUE, (filled, indices, source), (made,), (), ((filled, made),)),
        ]
        return made

    def _scatters(self, name: str, operands: Sequence[int], makes: Sequence[int]) -> bool:
        """Whether this adds a sum onto zeros to something, which is a sum onto that."""
        if name == "scatter-add" and operands[0] in self._zeros:
            self._scattered[makes[0]] = tuple(operands[1:])
        if name in ("add", "add_any"):
            for a, b in (operands, operands[::-1]):
                if b in self._scattered:
                    reads = (a, *self._scattered[b])
                    self.nodes.append(Node(Kind.OPAQUE, reads, tuple(makes), (), ((a, makes[0]),)))
                    return True
        return False

    def _node(self, equation: Equation, operands: list[int], makes: tuple[int, ...]) -> Node:
        name = equation.primitive.name
        kind = KINDS.get(name, Kind.OPAQUE)
        if kind in (Kind.CHEAP, Kind.DEAR) and name not in RESHAPING:
            (result,) = equation.outvars
            operands = [
                v if fills(atom, aval(result).shape) else self._spread(atom, v, result)
                for atom, v in zip(equation.invars, operands, strict=True)
            ]
        over = []
        for i, j in written_over(equation):
            operands[i] = self._own(operands[i])
            over.append((operands[i], makes[j]))
        if name == SCAN:  # what it builds piece by piece is written over zeros
            zero = self._new(ZERO, owned=True)
            built = list(zip(equation.outvars, makes, strict=True))[len(over) :]
            for v, made in [pair for pair in built if pair[0] not in self._unread]:
                over.append((self._own(self._fill(zero, "0.0", v)), made))
                operands.append(over[-1][0])
        if name in (SCAN, WHILE):
            operands = [self._straightened(v) for v in operands]
        inside = tuple(
            extra * times
            for program, constants, times in held(equation)
            for extra in self._inner(program, constants)
        )
        if name == "random_bits":
            inside = (self.bytes[makes[0]] * _WORDS,)
        views = self._views(equation, operands, makes)
        if name == "transpose":
            self._turned[makes[0]] = operands[0]
        if name == "convert_element_type" and aval(equation.invars[0]).dtype == jnp.bool_:
            self._masks.update(makes)
        selects = name == "mul" and self._masks.intersection(operands)
        known = in_library(equation) and not selects
        sums = summed(equation)
        return Node(kind, tuple(operands), makes, inside, tuple(over), *views, known, sums)

    def _straightened(self, value: int) -> int:
        """The value as a loop reads it: copied where it is written in another order of axes."""
        source = self._turned.get(value)
        if source is None or source in self.owned:
            return value
        made = self._new(self.bytes[value], self.shapes[value])
        self.nodes.append(Node(Kind.OPAQUE, (value,), (made,)))
        return made

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
            shape = _shape_of(atom)[:-1]
            if shape != self.shapes[v][:-1]:
                reshaped.add(v)
            elif elementwise and shape == result:
                alike.add(v)
        return frozenset(alike - reshaped), frozenset(reshaped)


def _shape_of(atom: Atom) -> _Shape:
    return (*map(as_text, aval(atom).shape), str(aval(atom).dtype)) if is_array(atom) else ()
