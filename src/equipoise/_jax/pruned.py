"""Functions without the operations that their results do not need, before XLA sees them."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax

from equipoise._jax.evaluation import again, run
from equipoise._jax.programs import Equation, Program, is_literal, opened, plain_call
from equipoise._types import Array, PyTree


def pruned(function: Callable[..., Sequence[Array]]) -> Callable[..., list[Array]]:
    """The function without the operations that none of its results needs."""

    def lean(*args: Array) -> list[Array]:
        program = jax.make_jaxpr(function)(*args)
        if any(equation.primitive.name == "jit" for equation in opened(program).eqns):
            # Newer versions inline no call while they trace.
            program = jax.make_jaxpr(functools.partial(_inlined, program))(*args)
        needed = {atom for atom in opened(program).outvars if not is_literal(atom)}
        kept = set()
        for i, equation in reversed(list(enumerate(opened(program).eqns))):
            if needed.intersection(equation.outvars):
                kept.add(i)
                needed.update(atom for atom in equation.invars if not is_literal(atom))
        count = itertools.count()

        def apply(equation: Equation, operands: list[Array]) -> Sequence[PyTree]:
            alive = next(count) in kept
            return again(program, equation, operands) if alive else [None] * len(equation.outvars)

        return run(program, args, apply)

    return lean


def _inlined(program: Program, *operands: Array) -> list[Array]:
    """The results of a program, of whose calls nothing but their operations is left."""

    def apply(equation: Equation, values: list[Array]) -> Sequence[PyTree]:
        inner = plain_call(equation) if equation.primitive.name == "jit" else None
        return again(program, equation, values) if inner is None else _inlined(inner, *values)

    return run(program, operands, apply)
