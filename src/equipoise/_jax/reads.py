"""Of how high a degree a function is in its argument, read off its program."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from equipoise._jax.evaluation import run
from equipoise._jax.programs import SCAN, Equation, Program, aval, called, is_array, scan
from equipoise._types import PyTree

_MARK = object()  # stands for a value that depends on what is asked about
# Steps whose derivative is 0 wherever there is one, so that derivatives do not show them.
_JUMPS = ("sign", "floor", "ceil", "round", "nextafter")


class _Jump(Exception):
    """The function is no polynomial, as it jumps or branches by the value asked about."""


def degree(function: Callable[..., PyTree], at: PyTree, *others: PyTree, most: int) -> int | None:
    """The degree of the function as a polynomial in its first argument; None above ``most``.

    It is d where the d-th derivative is the last that depends on the argument's value no more.
    """

    def derivative(of: Callable[..., PyTree]) -> Callable[..., PyTree]:
        return lambda x, v, *rest: jax.jvp(lambda x: of(x, v, *rest), (x,), (v,))[1]

    def first(x: PyTree, v: PyTree, *rest: PyTree) -> PyTree:
        return function(x, *rest)

    current: Callable[..., PyTree] = first
    try:
        for d in range(most + 1):
            if not _depends(current, at, others):
                return d
            current = derivative(current)
    except _Jump:
        pass
    return None


def _depends(function: Callable[..., PyTree], at: PyTree, others: Sequence[PyTree]) -> bool:
    program = jax.make_jaxpr(function)(at, at, *others)
    marked = len(jax.tree.leaves(at))
    operands = [_MARK if i < marked else None for i in range(len(program.in_avals))]
    return _MARK in _marks(program, operands)


def _marks(program: Program, operands: Sequence[object]) -> list[object]:
    """Which results depend on the marked operands."""

    def apply(equation: Equation, operands: list[object]) -> Sequence[object]:
        marks = [_MARK if x is _MARK else None for x in operands]
        if _MARK not in marks:
            return [None] * len(equation.outvars)
        if (inner := called(equation)) is not None:
            return _marks(inner, marks)
        if equation.primitive.name == SCAN:
            return _of_scan(equation, marks)
        kinds = [aval(atom).dtype for atom in equation.outvars if is_array(atom)]
        floating = all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
        if not floating or equation.primitive.name in _JUMPS:
            raise _Jump
        return [_MARK] * len(equation.outvars)

    found = run(program, operands, apply)
    return [_MARK if x is _MARK else None for x in found]


def _of_scan(equation: Equation, marks: list[object]) -> list[object]:
    layout = scan(equation)
    first, last = layout.num_constants, layout.num_constants + layout.num_carried
    while True:
        found = _marks(layout.body, marks)
        carried = [a or b for a, b in zip(marks[first:last], found, strict=False)]
        if carried == marks[first:last]:
            return found
        marks = [*marks[:first], *carried, *marks[last:]]
