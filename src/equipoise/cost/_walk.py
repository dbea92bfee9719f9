"""One walk over a traced program that collects work, depth and live memory.

A program is a list of equations, some of which hold programs: calls, loops and branches. Each
equation is priced by :mod:`_rules` or, where it holds programs, by :mod:`_control`; here the
prices are put together: work adds up, depth joins at every operand, memory lives from an
equation that makes it to the last that reads it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from equipoise.cost import _depth, _order, _rules, _shapes
from equipoise.cost._depth import AT_START, Depth, Frontier
from equipoise.cost._expression import ZERO, Expression
from equipoise.cost._work import NOTHING, Work


class Walked(NamedTuple):
    """What a program, or an equation, costs."""

    work: Work
    # The depth of each result.
    depths: list[Depth]
    # Most bytes alive at once beyond what was alive before it, operands that die there included.
    extra: Frontier
    # Whether a result may take the place of an operand of its size that dies.
    in_place: bool = False
    # Which results follow from sizes alone.
    known: Sequence["Known | None"] = ()


@dataclasses.dataclass
class Ledger:
    """What holds for a whole walk: stated trip counts, and what has been assumed on the way."""

    trips: list[Expression]
    notes: dict[str, None] = dataclasses.field(default_factory=dict)
    branches: list[tuple[Expression, ...]] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0

    def next_trips(self) -> Expression:
        """The trip count of the next while loop: as stated, or a new name."""
        if self.trips:
            return self.trips.pop(0)
        self.unknown_loops += 1
        name = f"trips_{self.unknown_loops}"
        self.notes[f"a while loop runs {name} times"] = None
        return Expression(name)


class Known(NamedTuple):
    """A scalar that follows from sizes alone, and its value where that is a whole number."""

    size: Expression | None


class Operands(NamedTuple):
    """An equation as seen from outside: its operands, and which of its results are read."""

    equation: Any
    depths: list[Depth]
    known: list[Known | None]
    dying: list[bool]
    used: list[bool]


def is_literal(variable: Any) -> bool:
    """Whether an operand is a number in the program's text."""
    return hasattr(variable, "val")


def walk(
    jaxpr: Any,
    ledger: Ledger,
    depths: Sequence[Depth],
    known: Sequence[Known | None],
    dying: Sequence[bool],
    used: Sequence[bool],
) -> Walked:
    """The cost of a program whose inputs have these depths; ``dying`` ones need not be kept."""
    from equipoise.cost import _control  # control flow walks the programs it holds

    scope = _Scope(jaxpr, depths, known, dying, used)
    work = NOTHING
    for index, equation in enumerate(jaxpr.eqns):
        if not scope.needed[index]:
            continue
        operands = scope.operands(index, equation)
        if scope.is_static(equation, operands):
            continue
        name = equation.primitive.name
        otherwise = primitive if name in _rules.RULES else _control.foreign
        walked = _control.CONTROL.get(name, otherwise)(operands, ledger)
        work = work.then(walked.work)
        scope.record(index, equation, walked)
    return Walked(
        work,
        [scope.depth(v) for v in jaxpr.outvars],
        _order.frontier(scope.peaks),
        known=[scope.known.get(v) if not is_literal(v) else None for v in jaxpr.outvars],
    )


class _Scope:
    """The variables of one program: their depths, known values, and how long they live."""

    def __init__(
        self,
        jaxpr: Any,
        depths: Sequence[Depth],
        known: Sequence[Known | None],
        dying: Sequence[bool],
        used: Sequence[bool],
    ) -> None:
        self.depths: dict[Any, Depth] = dict(zip(jaxpr.invars, depths, strict=True))
        self.depths.update((v, {}) for v in jaxpr.constvars)
        self.known = {v: x for v, x in zip(jaxpr.invars, known, strict=True) if x is not None}
        # Memory: bytes that this scope frees, under the variable that holds them.
        self.held = {
            v: _shapes.array_bytes(v.aval)
            for v, dies in zip(jaxpr.invars, dying, strict=True)
            if dies
        }
        self.current: Expression = ZERO
        self.peaks: list[Expression] = [ZERO]
        self.needed, self.last, self.views = _liveness(jaxpr, used)
        self.dying_at: dict[int, list[Any]] = {}
        for variable, index in self.last.items():
            self.dying_at.setdefault(index, []).append(variable)

    def depth(self, variable: Any) -> Depth:
        return {} if is_literal(variable) else self.depths.get(variable, {})

    def value(self, variable: Any) -> Known | None:
        if not is_literal(variable):
            return self.known.get(variable)
        value = variable.val
        whole = np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)
        return Known(Expression(int(value)) if whole else None)

    def operands(self, index: int, equation: Any) -> Operands:
        variables = equation.invars
        return Operands(
            equation,
            [self.depth(v) for v in variables],
            [self.value(v) for v in variables],
            [not is_literal(v) and v in self.held and self.last[v] == index for v in variables],
            [v in self.last for v in equation.outvars],
        )

    def is_static(self, equation: Any, operands: Operands) -> bool:
        """Whether the result is a number that follows from sizes alone: it costs nothing."""
        known = [value for value in operands.known if value is not None]
        if equation.primitive.name == "dim_as_value":
            result = Known(_shapes.expression(equation.params["dim"]))
        elif known and len(known) == len(equation.invars):
            result = _fold(equation.primitive.name, [value.size for value in known])
        else:
            return False
        if len(equation.outvars) != 1 or not _is_small(equation.outvars[0].aval):
            return False
        self.known[equation.outvars[0]] = result
        self.depths[equation.outvars[0]] = {}
        return True

    def record(self, index: int, equation: Any, walked: Walked) -> None:
        """Take over the results of an equation, and free what it was the last to read."""
        self.known.update(
            (v, x) for v, x in zip(equation.outvars, walked.known, strict=False) if x is not None
        )
        self.depths.update(zip(equation.outvars, walked.depths, strict=True))
        made = [v for v in equation.outvars if v in self.last]
        dying = [v for v in self.dying_at.get(index, []) if v in self.held]
        replaced = {self.held[v] for v in dying if any(v is w for w in equation.invars)}
        if walked.in_place and {_shapes.array_bytes(v.aval) for v in made} <= replaced:
            self.peaks.append(self.current)
        elif not self.views.issuperset(made):
            self.peaks.extend(self.current + extra for extra in walked.extra)
        for variable in made:
            self.held[variable] = (
                ZERO if variable in self.views else _shapes.array_bytes(variable.aval)
            )
            self.current = self.current + self.held[variable]
        for variable in dying:
            self.current = self.current - self.held.pop(variable)


def _is_small(aval: Any) -> bool:
    """A scalar, or the vector of integers that indexes an array."""
    if not aval.shape:
        return True
    return aval.shape in ((1,), (2,), (3,)) and np.issubdtype(aval.dtype, np.integer)


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


def _liveness(jaxpr: Any, used: Sequence[bool]) -> tuple[list[bool], dict[Any, int], set[Any]]:
    """Which equations matter, the last to need each variable, and which are views of another.

    Results live to the end, and an operand as long as its views.
    """
    end = len(jaxpr.eqns)
    last = {
        v: end
        for v, is_used in zip(jaxpr.outvars, used, strict=True)
        if is_used and not is_literal(v)
    }
    needed = [False] * end
    views: set[Any] = set()
    for index in reversed(range(end)):
        equation = jaxpr.eqns[index]
        if not equation.effects and not any(v in last for v in equation.outvars):
            continue
        needed[index] = True
        operands = [v for v in equation.invars if not is_literal(v)]
        for variable in operands:
            last.setdefault(variable, index)
        if operands and equation.primitive.name in _rules.RENAMED:
            (result,) = equation.outvars
            if last[result] < end:
                views.add(result)
                last[operands[0]] = max(last[operands[0]], last[result])
    return needed, last, views


def primitive(operands: Operands, ledger: Ledger) -> Walked:
    """The cost of a primitive that holds no program."""
    equation = operands.equation
    op = _rules.Operation(
        equation.primitive.name,
        [v.aval for v in equation.invars],
        [v.aval for v in equation.outvars],
        equation.params,
    )
    cost = _rules.cost(op)
    if cost.note:
        ledger.notes[cost.note] = None
    pairs = zip(equation.invars, operands.known, strict=True)
    made = sum((_shapes.array_bytes(v.aval) for v in equation.outvars), ZERO)
    read, written = cost.moved or (
        sum((_shapes.array_bytes(v.aval) for v, known in pairs if known is None), ZERO),
        made,
    )
    inputs = _depth.join(operands.depths) or AT_START
    depths = [_depth.after(inputs, cost.chain)] * len(equation.outvars)
    return Walked(cost.work.moving(read, written), depths, (made,), in_place=cost.in_place)
