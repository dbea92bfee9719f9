"""Programs as functions: run whole, by what takes the place of equations, or one equation alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun

from equipoise._jax.primitives import definition, is_own
from equipoise._jax.programs import (
    Atom,
    ClosedProgram,
    Equation,
    Program,
    Value,
    aval,
    closed,
    constants,
    is_literal,
    opened,
    primitive_names,
    rewritten,
)
from equipoise._types import Array, PyTree

_V = TypeVar("_V")


def as_function(program: ClosedJaxpr) -> Callable[..., list[Array]]:
    """The program as a function of its operands."""
    return jaxpr_as_fun(program)


def with_operands(program: ClosedProgram, *, after: int) -> ClosedProgram:
    """The program with the arrays that it captured as operands, after the first so many."""
    captured, avals = constants(program), program.in_avals
    if not captured:
        return program

    def run(*args: Array) -> Sequence[Array]:
        given, rest = args[after : after + len(captured)], args[after + len(captured) :]
        return as_function(closed(opened(program), given))(*args[:after], *rest)

    return jax.make_jaxpr(run)(*avals[:after], *map(jax.typeof, captured), *avals[after:])


def run(
    program: Program, operands: Sequence[_V], apply: Callable[[Equation, list[_V]], Sequence[_V]]
) -> list[_V]:
    """The results of a program, each of whose equations is evaluated by ``apply``.

    Numbers in the program's text and arrays that it captured are taken for values as they are.
    """
    jaxpr = opened(program)
    captured: Sequence[PyTree] = constants(program)
    known: dict[Atom, _V] = dict(zip(jaxpr.constvars, captured, strict=True))
    known.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Atom) -> _V:
        return atom.val if is_literal(atom) else known[atom]

    for equation in jaxpr.eqns:
        results = apply(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(equation: Equation, operands: Sequence[Value], **changed: object) -> list[Value]:
    """The results of an equation's primitive on other operands, some parameters changed."""
    params = {**equation.params, **changed}
    found = equation.primitive.bind(*operands, **params)  # type: ignore[no-untyped-call]
    return list(found) if equation.primitive.multiple_results else [found]


def again(program: Program, equation: Equation, operands: Sequence[Value]) -> list[Value]:
    """The results of an equation of the program on other operands, its rules and context kept."""
    variables: list[Atom] = [Var(atom.aval) for atom in equation.invars]
    one = rewritten(
        opened(program),
        constvars=[],
        invars=variables,
        outvars=equation.outvars,
        eqns=[equation.replace(invars=variables)],
    )
    return jaxpr_as_fun(ClosedJaxpr(one, ()))(*operands)


def written_out(equation: Equation) -> ClosedJaxpr | None:
    """What XLA is given for a primitive of ours; None for all others."""
    return implementation(equation) if is_own(equation.primitive) else None


def implementation(equation: Equation) -> ClosedJaxpr | None:
    """What a primitive computes, traced; None where JAX cannot look inside of it."""
    primitive = equation.primitive

    def computed(*operands: Array) -> Sequence[Array]:
        found = definition(primitive)(*operands, **equation.params)
        return found if primitive.multiple_results else [found]

    structure: Callable[..., PyTree] = jax.ShapeDtypeStruct  # it is left untyped
    shapes = [structure(a.shape, a.dtype) for a in map(aval, equation.invars)]
    try:
        traced = jax.make_jaxpr(computed)(*shapes)
    except Exception:  # whatever an implementation raises that wants values
        return None
    # The implementation of a primitive of XLA is that primitive.
    return None if primitive.name in primitive_names(traced) else traced
