"""Bytes that reverse mode keeps between its passes."""

from collections.abc import Sequence
from typing import TypeAlias

import jax

from equipoise._jax.programs import ClosedProgram, opened
from equipoise._types import PyTree
from equipoise.cost._count.control import ledger_of
from equipoise.cost._count.scope import Walked
from equipoise.cost._count.walk import walk_whole
from equipoise.cost._expression.expression import Expression
from equipoise.cost._program.mesh import Axes
from equipoise.cost._program.remedy import with_numbers
from equipoise.cost._program.sizes import array_bytes, total_bytes
from equipoise.cost._program.trace import Function, Pullback, forward

# The bytes where there is a derivative, and what is to be said of them.
Kept: TypeAlias = tuple[Expression | None, tuple[str, ...]]


def of_function(fn: Function, shapes: Sequence[PyTree], axes: Axes | None) -> Kept:
    """Bytes that a function's derivative keeps, or None and the reason why."""
    try:
        program, (_, pullback) = forward(fn, shapes, axes)
    except Exception as error:  # whatever JAX raises where a primitive has no such rule
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return None, (f"no residual bytes, as there is no reverse derivative: {reason}",)
    return of_pullback(fn, shapes, program, walk_whole(program, ledger_of([])), pullback)


def of_pullback(
    fn: Function,
    shapes: Sequence[PyTree],
    program: ClosedProgram,
    walked: Walked,
    pullback: Pullback,
) -> tuple[Expression, tuple[str, ...]]:
    """Bytes of the last results of a forward program, which are the leaves of its pullback.

    Scalars that follow from sizes alone are constants in a program with numbers for sizes; JAX
    keeps some and folds others away, so how many bytes it keeps is read off such a program. A
    function that closes over named sizes has none: each of these scalars then counts as kept, and
    a note says so.
    """
    results, count = opened(program).outvars, len(jax.tree.leaves(pullback))
    first = len(results) - count
    pairs = list(zip(results[first:], walked.known[first:], strict=True))
    arrays = total_bytes(v for v, known in pairs if known is None)
    if all(known is None for _, known in pairs):
        return arrays, ()
    sizes, numbers = with_numbers(shapes)
    try:
        kept = jax.eval_shape(lambda *xs: jax.vjp(fn, *xs)[1], *numbers)
    except (TypeError, ValueError):
        note = "scalars that follow from sizes alone: all counted as residuals"
        return total_bytes(v for v, _ in pairs), (note,)
    return arrays + array_bytes(*jax.tree.leaves(kept)) - arrays.at(sizes), ()
