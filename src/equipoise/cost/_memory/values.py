"""The values of a program, by number, and the operations that make those which nobody wrote."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self, TypeAlias

import jax.numpy as jnp

from equipoise._jax.programs import Atom, Equation, aval, is_array, is_literal
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._memory.kinds import Kind
from equipoise.cost._program.sizes import as_text, is_one, total_bytes

_Shape: TypeAlias = tuple[str, ...]  # sizes, then the type of numbers


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


class Values:
    """Values with their bytes, and the operations on them in the order of the program.

    ``owned`` are the values that belong to the caller: arguments, and what programs closed over.
    """

    def __init__(self) -> None:
        self.bytes: list[Expression] = []
        self.shapes: list[_Shape] = []  # as each value is made; those of no array are empty
        self.nodes: list[Node] = []
        self.owned: set[int] = set()
        self.zeros: set[int] = set()  # the number 0, and arrays of it
        self.lying: dict[int, int] = {}  # transposed matrices, and what lies there
        self.turned: dict[int, int] = {}  # all that is transposed, and of what
        self.swapped: set[int] = set()  # products that are computed transposed
        self._filled: dict[tuple[str, str], int] = {}  # arrays of one number, by it and their shape
        self._number_of: dict[int, int] = {}  # that fills an array
        self._given: set[int] = set()  # such arrays that something is written over
        self._ordered: dict[tuple[int, tuple[int, ...]], int] = {}  # copies in order of axes
        self._spreads: dict[tuple[int, tuple[int, ...], _Shape], int] = {}  # by where axes go

    def value(self, atom: Atom, *, owned: bool = False) -> int:
        """A new value of this shape."""
        return self.new(total_bytes([atom]), shape_of(atom), owned=owned)

    def copy(self, value: int) -> int:
        """A new value that is a copy of another, made as soon as there is time."""
        made = self.new(self.bytes[value], self.shapes[value])
        self.nodes.append(Node(Kind.COPY, (value,), (made,)))
        return made

    def in_order(self, value: int, order: tuple[int, ...]) -> int:
        """A copy with axes in another order, the same for all that ask for it."""
        if (value, order) not in self._ordered:
            self._ordered[value, order] = self.copy(value)
        return self._ordered[value, order]

    def copied(self) -> Self:
        """The same values and operations, to which others may be added."""
        other = copy.copy(self)
        other.bytes, other.shapes = list(self.bytes), list(self.shapes)
        other.nodes, other.owned = list(self.nodes), set(self.owned)
        return other

    def arguments(self, atoms: Sequence[Atom]) -> list[int]:
        """New values that belong to the caller."""
        return [self.value(atom, owned=True) for atom in atoms]

    def new(self, size: Expression, shape: _Shape = (), *, owned: bool = False) -> int:
        self.bytes.append(size)
        self.shapes.append(shape)
        if owned:
            self.owned.add(len(self.bytes) - 1)
        return len(self.bytes) - 1

    def number(self, atom: Atom) -> int:
        """A number in the program's text, or one that follows from sizes: it takes no memory."""
        number = self.new(ZERO, owned=True)
        if is_literal(atom) and jnp.issubdtype(aval(atom).dtype, jnp.number) and atom.val == 0:
            self.zeros.add(number)
        return number

    def spread(self, atom: Atom, operand: int, result: Atom) -> int:
        """An operand in the shape of the result."""
        if is_literal(atom):
            return self.fill(operand, str(atom.val), result)
        axes = [i for i, size in enumerate(aval(atom).shape) if not is_one(size)]
        return self.spread_along(axes, operand, result)

    def spread_along(self, axes: Sequence[int], operand: int, result: Atom) -> int:
        """The same for all that ask for it."""
        key = operand, tuple(axes), shape_of(result)
        if key not in self._spreads:
            kind = Kind.SPREAD if self.bytes[operand] != 0 else Kind.FILLED
            self._spreads[key] = self.value(result)
            self._spread_out(kind, operand, self._spreads[key])
        return self._spreads[key]

    def _spread_out(self, kind: Kind, operand: int, made: int) -> None:
        known = self.shapes[made][-1] in ("float32", "float64")
        self.nodes.append(Node(kind, (operand,), (made,), in_library=known))

    def turn(self, equation: Equation, operand: int, *, alone: bool) -> int:
        """A transposed matrix: products read it as it lies, all others as it is."""
        before = self.nodes[-1] if self.nodes else None
        if alone and before and before.kind is Kind.PRODUCT and before.makes == (operand,):
            self.swapped.add(operand)
            return operand
        made = self.value(equation.outvars[0])
        self.lying[made] = self.turned[made] = operand
        self.nodes.append(Node(Kind.CHEAP, (operand,), (made,)))
        return made

    def fill(self, operand: int, number: str, result: Atom) -> int:
        """An array of one number in the shape of the result, the same for all that ask for it."""
        key = number, str(result.aval)
        if key not in self._filled:
            self._filled[key] = self.value(result)
            self._spread_out(Kind.FILLED, operand, self._filled[key])
            self._number_of[self._filled[key]] = operand
            if operand in self.zeros:
                self.zeros.add(self._filled[key])
        return self._filled[key]

    def own(self, value: int) -> int:
        """The value, or where it is one number everywhere an array that is written over once."""
        operand = self._number_of.get(value)
        if operand is None:
            return value
        made = (
            value if value not in self._given else self.new(self.bytes[value], self.shapes[value])
        )
        if made != value:
            self._spread_out(Kind.FILLED, operand, made)
        self._given.add(made)
        return made

    def put_together(self, value: int) -> int:
        """The pieces of a value in their order, for all who read them."""
        made = self.new(self.bytes[value], self.shapes[value])
        self.nodes.append(Node(Kind.CHEAP, (value,), (made,)))
        return made

    def straightened(self, value: int) -> int:
        """The value as a loop reads it: copied where it is written in another order of axes."""
        source = self.turned.get(value)
        if source is None or source in self.owned:
            return value
        made = self.new(self.bytes[value], self.shapes[value])
        self.nodes.append(Node(Kind.OPAQUE, (value,), (made,)))
        return made


def shape_of(atom: Atom) -> _Shape:
    return (*map(as_text, aval(atom).shape), str(aval(atom).dtype)) if is_array(atom) else ()
