"""Bytes that reverse mode keeps between its passes."""

import functools
from collections.abc import Sequence

import jax

from equipoise._jax.programs import ClosedProgram, opened
from equipoise._types import PyTree
from equipoise.cost._count.control import ledger_of
from equipoise.cost._count.scope import Walked
from equipoise.cost._count.walk import walk_whole
from equipoise.cost._expression.expression import Expression
from equipoise.cost._program.mesh import Axes
from equipoise.cost._program.sizes import array_bytes, total_bytes
from equipoise.cost._program.trace import Function, Pullback, forward, with_numbers

# The bytes where there is a derivative, and what is to be said of them.
_Kept = tuple[Expression | None, tuple[str, ...]]


class Residuals:
    """What a function's derivative keeps, found when it is first asked for.

    A derivative takes longer to trace than all else that is counted, and few ask for that of a
    whole training step. Precision and promotion are those of the moment when the function was
    analyzed.
    """

    def __init__(self, fn: Function, shapes: Sequence[PyTree], axes: Axes | None = None) -> None:
        self._fn, self._shapes, self._axes = fn, shapes, axes
        config: PyTree = jax.config
        self._config = config.jax_enable_x64, config.jax_numpy_dtype_promotion

    @functools.cached_property
    def found(self) -> _Kept:
        """The bytes, or None and the reason why."""
        precision, promotion = self._config
        with jax.enable_x64(precision), jax.numpy_dtype_promotion(promotion):
            return _of_function(self._fn, self._shapes, self._axes)

    def __reduce__(self) -> tuple[object, ...]:
        return (known, self.found)


def known(kept: Expression | None, notes: Sequence[str]) -> Residuals:
    """Residuals that were found with something else."""
    made = Residuals.__new__(Residuals)
    made.__dict__["found"] = (kept, tuple(notes))
    return made


def _of_function(fn: Function, shapes: Sequence[PyTree], axes: Axes | None) -> _Kept:
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
