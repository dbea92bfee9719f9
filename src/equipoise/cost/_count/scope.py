"""The variables of one program: the depth, the known value and the lifetime of each."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from equipoise._jax.programs import Atom, Equation, OpenProgram, aval, has_effects, is_literal
from equipoise.cost._count.depth import Depth, Frontier
from equipoise.cost._count.place import Parts
from equipoise.cost._count.rules import RENAMED
from equipoise.cost._count.work import Work, total
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._program.sizes import size_of, total_bytes

_FEW = 3  # axes of an array, at most, that a vector of so many integers indexes


class Known(NamedTuple):
    """A scalar that follows from sizes alone, and its value where that is a whole number."""

    size: Expression | None


class Operands(NamedTuple):
    """An equation as seen from outside: its operands, and which of its results are read."""

    equation: Equation
    depths: list[Depth]
    known: list[Known | None]
    dying: list[bool]
    used: list[bool]


class Walked(NamedTuple):
    """What a program, or an equation, costs."""

    # Its work, by the places in the code that ask for it.
    parts: Parts
    # The depth of each result.
    depths: list[Depth]
    # Most bytes alive at once beyond what was alive before it, operands that die there included.
    extra: Frontier
    # Whether a result may take the place of an operand of its size that dies.
    in_place: bool = False
    # Which results follow from sizes alone.
    known: Sequence[Known | None] = ()

    @property
    def work(self) -> Work:
        """All of its work."""
        return total(self.parts.values())


class Scope:
    """The variables of one program: their depths, known values, and how long they live."""

    def __init__(
        self,
        program: OpenProgram,
        depths: Sequence[Depth],
        known: Sequence[Known | None],
        dying: Sequence[bool],
        used: Sequence[bool],
    ) -> None:
        self.depths: dict[Atom, Depth] = dict(zip(program.invars, depths, strict=True))
        self.depths.update((v, {}) for v in program.constvars)
        self.known: dict[Atom, Known] = {
            v: x for v, x in zip(program.invars, known, strict=True) if x is not None
        }
        # Memory: bytes that this scope frees, under the variable that holds them.
        self.held: dict[Atom, Expression] = {
            v: total_bytes([v]) for v, dies in zip(program.invars, dying, strict=True) if dies
        }
        self.current: Expression = ZERO
        self.peaks: list[Expression] = [ZERO]
        self.needed, self.last, self.views = _liveness(program, used)
        self.dying_at: dict[int, list[Atom]] = {}
        for variable, index in self.last.items():
            self.dying_at.setdefault(index, []).append(variable)

    def depth(self, variable: Atom) -> Depth:
        return {} if is_literal(variable) else self.depths.get(variable, {})

    def value(self, variable: Atom) -> Known | None:
        if not is_literal(variable):
            return self.known.get(variable)
        value = variable.val
        whole = np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)
        return Known(Expression(int(value)) if whole else None)

    def operands(self, index: int, equation: Equation) -> Operands:
        variables = equation.invars
        return Operands(
            equation,
            [self.depth(v) for v in variables],
            [self.value(v) for v in variables],
            [not is_literal(v) and v in self.held and self.last[v] == index for v in variables],
            [v in self.last for v in equation.outvars],
        )

    def is_static(self, equation: Equation, operands: Operands) -> bool:
        """Whether the result is a number that follows from sizes alone: it costs nothing."""
        known = [value for value in operands.known if value is not None]
        if equation.primitive.name == "dim_as_value":
            result = Known(size_of(equation.params["dim"]))
        elif known and len(known) == len(equation.invars):
            result = _fold(equation.primitive.name, [value.size for value in known])
        else:
            return False
        if len(equation.outvars) != 1 or not is_small(equation.outvars[0]):
            return False
        self.known[equation.outvars[0]] = result
        self.depths[equation.outvars[0]] = {}
        return True

    def record(self, index: int, equation: Equation, walked: Walked) -> None:
        """Take over the results of an equation, and free what it was the last to read."""
        self.known.update(
            (v, x) for v, x in zip(equation.outvars, walked.known, strict=False) if x is not None
        )
        self.depths.update(zip(equation.outvars, walked.depths, strict=True))
        made = [v for v in equation.outvars if v in self.last]
        dying = [v for v in self.dying_at.get(index, []) if v in self.held]
        replaced = {self.held[v] for v in dying if any(v is w for w in equation.invars)}
        if walked.in_place and {total_bytes([v]) for v in made} <= replaced:
            self.peaks.append(self.current)
        elif not self.views.issuperset(made):
            self.peaks.extend(self.current + extra for extra in walked.extra)
        for result in made:
            self.held[result] = ZERO if result in self.views else total_bytes([result])
            self.current = self.current + self.held[result]
        for variable in dying:
            self.current = self.current - self.held.pop(variable)


def is_small(variable: Atom) -> bool:
    """Whether it is a scalar, or the vector of integers that indexes an array."""
    found = aval(variable)
    if not found.shape:
        return True
    (size, *rest) = found.shape
    return not rest and isinstance(size, int) and size <= _FEW and _is_integer(found.dtype)


@functools.cache
def _is_integer(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.integer))


def _fold(primitive: str, sizes: list[Expression | None]) -> Known:
    """A scalar that follows from sizes; followed only as far as trip counts need."""
    match primitive, sizes:
        case ("convert_element_type" | "copy", [Expression() as a]):
            return Known(a)
        case "add", [Expression() as a, Expression() as b]:
            return Known(a + b)
        case "sub", [Expression() as a, Expression() as b]:
            return Known(a - b)
        case "mul", [Expression() as a, Expression() as b]:
            return Known(a * b)
    return Known(None)


def _liveness(
    program: OpenProgram, used: Sequence[bool]
) -> tuple[list[bool], dict[Atom, int], set[Atom]]:
    """Which equations matter, the last to need each variable, and which are views of another.

    Results live to the end, and an operand as long as its views.
    """
    end = len(program.eqns)
    last: dict[Atom, int] = {
        v: end
        for v, is_used in zip(program.outvars, used, strict=True)
        if is_used and not is_literal(v)
    }
    needed = [False] * end
    views: set[Atom] = set()
    for index in reversed(range(end)):
        equation = program.eqns[index]
        if not has_effects(equation) and not any(v in last for v in equation.outvars):
            continue
        needed[index] = True
        operands = [v for v in equation.invars if not is_literal(v)]
        for operand in operands:
            last.setdefault(operand, index)
        if operands and equation.primitive.name in RENAMED:
            (result,) = equation.outvars
            if last[result] < end:
                views.add(result)
                last[operands[0]] = max(last[operands[0]], last[result])
    return needed, last, views
