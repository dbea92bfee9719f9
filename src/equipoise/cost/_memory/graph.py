"""A program as a graph of values, calls written out and code that nothing reads left out.

What matters to memory is who reads whom, and how each operation is compiled: into the loop of
another, into one of its own, or as a call of a library.
"""

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from equipoise._jax.programs import (
    COND,
    KERNEL,
    SCAN,
    SHARD_MAP,
    SOLVE,
    WHILE,
    Atom,
    Equation,
    Program,
    Size,
    aval,
    branches,
    called,
    implementation,
    is_array,
    is_literal,
    linear_solve,
    num_devices,
    opened,
    rank,
    scan,
    while_loop,
)
from equipoise.cost._count.rules import RENAMED, RULES
from equipoise.cost._count.scope import is_small
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._program.sizes import size_of, total_bytes

# Elementwise operations whose operands have other shapes, or other types, than the result.
_RESHAPING = "clamp concatenate convert_element_type dynamic_slice pad select_n slice split"


class Kind(enum.Enum):
    """How an operation is compiled."""

    SPREAD = "a broadcast: computed again wherever it is read"
    CHEAP = "computed again wherever it is read"
    DEAR = "computed once, in the loop of its one reader"
    REDUCTION = "a loop of its own, which takes in what it reads"
    COPY = "the same numbers in the order that a library wants, as soon as they are there"
    OPAQUE = "reads and writes memory"


_CHEAP = """
abs add add_any and ceil clamp complex concatenate conj convert_element_type copy
dynamic_slice eq eq_to floor ge gt imag integer_pow is_finite le le_to lt lt_to max min
mul ne neg not one_minus_square mul_add or pad population_count pvary real reduce_precision rev
round select_n shift_left shift_right_arithmetic shift_right_logical sign slice split square
sub transpose xor mesh_cast optimization_barrier sharding_constraint
"""
_SPREAD = "broadcast broadcast_in_dim full iota"
_DEAR = """
acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma div erf erf_inv erfc exp exp2 expm1
lgamma log log1p logistic pow rem rsqrt sin sinh sqrt tan tanh nextafter
"""
_REDUCTION = """
reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce
"""
_UPDATE = "dynamic_update_slice scatter scatter-add scatter-mul scatter-min scatter-max scatter-sub"
_KINDS = {
    name: kind
    for kind, names in (
        (Kind.SPREAD, _SPREAD),
        (Kind.CHEAP, _CHEAP),
        (Kind.DEAR, _DEAR),
        (Kind.REDUCTION, _REDUCTION),
    )
    for name in names.split()
}


class Node(NamedTuple):
    """An operation: which values it reads and makes, and the bytes it needs while it runs.

    ``over`` has the values that may be written over, each with what takes its place.
    """

    kind: Kind
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    inside: tuple[Expression, ...] = ()
    over: tuple[tuple[int, int], ...] = ()


_Inner = Callable[[Program, int], Sequence[Expression]]


class Graph:
    """Values by number, with their bytes, and the operations on them in the order of the program.

    ``owned`` are the values that belong to the caller: arguments, and what programs closed over.
    """

    def __init__(self, inner: _Inner) -> None:
        self.bytes: list[Expression] = []
        self.nodes: list[Node] = []
        self.owned: set[int] = set()
        self._inner = inner

    def value(self, atom: Atom, *, owned: bool = False) -> int:
        """A new value of this shape."""
        self.bytes.append(total_bytes([atom]))
        if owned:
            self.owned.add(len(self.bytes) - 1)
        return len(self.bytes) - 1

    def arguments(self, atoms: Sequence[Atom]) -> list[int]:
        """New values that belong to the caller."""
        return [self.value(atom, owned=True) for atom in atoms]

    def run(self, program: Program, operands: Sequence[int]) -> list[int]:
        """Append a program's operations on these operands; its results."""
        body = opened(program)
        env: dict[Atom, int] = dict(zip(body.invars, operands, strict=True))
        env.update((v, self.value(v, owned=True)) for v in body.constvars)

        def read(atom: Atom) -> int:
            return self._number() if is_literal(atom) else env[atom]

        for equation in body.eqns:
            env.update(zip(equation.outvars, self._apply(equation, read), strict=True))
        return [read(atom) for atom in body.outvars]

    def _spread(self, operand: int, result: int) -> int:
        """The operand in the shape of the result."""
        self.bytes.append(self.bytes[result])
        self.nodes.append(Node(Kind.SPREAD, (operand,), (len(self.bytes) - 1,)))
        return len(self.bytes) - 1

    def _number(self) -> int:
        """A number in the program's text, or one that follows from sizes: it takes no memory."""
        self.bytes.append(ZERO)
        self.owned.add(len(self.bytes) - 1)
        return len(self.bytes) - 1

    def _apply(self, equation: Equation, read: Callable[[Atom], int]) -> Sequence[int]:
        name = equation.primitive.name
        operands = [read(atom) for atom in equation.invars]
        if operands and (name in RENAMED or _folds(equation)):
            return [operands[0]]
        body = called(equation) if name != SHARD_MAP else None
        if body is None and name not in RULES and name not in _HOLDING:
            body = implementation(equation)
        if body is not None:
            return self.run(body, operands)
        small = all(is_array(v) and is_small(v) for v in equation.outvars)
        if small and all(self.bytes[v] == 0 for v in operands):
            return [self._number() for _ in equation.outvars]
        for i in _reordered(equation):
            copy = self.value(equation.invars[i])
            self.nodes.append(Node(Kind.COPY, (operands[i],), (copy,)))
            operands[i] = copy
        makes = tuple(self.value(v) for v in equation.outvars)
        if _KINDS.get(name) in (Kind.CHEAP, Kind.DEAR) and name not in _RESHAPING.split():
            shape = aval(equation.outvars[0]).shape
            pairs = zip(equation.invars, operands, strict=True)
            operands = [
                v if self.bytes[v] == 0 or _fills(a, shape) else self._spread(v, makes[0])
                for a, v in pairs
            ]
        over = tuple((operands[i], makes[j]) for i, j in _written_over(equation))
        inside = tuple(
            extra * times
            for program, constants, times in _held(equation)
            for extra in self._inner(program, constants)
        )
        self.nodes.append(Node(_KINDS.get(name, Kind.OPAQUE), tuple(operands), makes, inside, over))
        return makes


def _written_over(equation: Equation) -> Iterator[tuple[int, int]]:
    """Operands that a result may be written over, each with that result."""
    match equation.primitive.name:
        case "scan":
            layout = scan(equation)
            first, count = layout.num_constants, layout.num_carried
        case "while":
            loop = while_loop(equation)
            first = loop.num_test_constants + loop.num_body_constants
            count = len(equation.outvars)
        case name:
            first, count = 0, int(name in _UPDATE.split())
    yield from ((first + i, i) for i in range(count))


def _fills(atom: Atom, shape: Sequence[Size]) -> bool:
    """Whether an operand of an elementwise operation has the result's shape."""
    own = aval(atom).shape
    widened = any(a == 1 and b != 1 for a, b in zip(own, shape, strict=False))
    return len(own) == len(shape) and not widened


def _folds(equation: Equation) -> bool:
    """Whether it transposes a matrix, which products of matrices read as it lies."""
    return equation.primitive.name == "transpose" and rank(equation.invars[0]) == 2


def _reordered(equation: Equation) -> Iterator[int]:
    """Operands of a product or convolution that are copied into another order of axes first."""
    if equation.primitive.name == "dot_general":
        for i, batch in enumerate(equation.params["dimension_numbers"][1]):
            if tuple(batch) != tuple(range(len(batch))):
                yield i
    if equation.primitive.name == "conv_general_dilated":
        numbers, last = equation.params["dimension_numbers"], rank(equation.invars[0]) - 1
        if tuple(numbers.lhs_spec) != (0, last, *range(1, last)):
            yield 0
        if tuple(numbers.rhs_spec) != (last, last - 1, *range(last - 1)):
            yield 1


_HOLDING = (SCAN, WHILE, COND, SOLVE, SHARD_MAP, KERNEL)


def _held(equation: Equation) -> Iterator[tuple[Program, int, int | Expression]]:
    """Programs inside of an operation, their constant operands, and how many run side by side."""
    match equation.primitive.name:
        case "shard_map":
            yield equation.params["jaxpr"], 0, size_of(num_devices(equation))
        case "scan":
            layout = scan(equation)
            yield layout.body, layout.num_constants, 1
        case "while":
            loop = while_loop(equation)
            yield loop.body, loop.num_body_constants, 1
        case "cond":
            yield from ((branch, 0, 1) for branch in branches(equation))
        case "custom_linear_solve":
            yield linear_solve(equation).program, 0, 1
