"""The one reader of traced programs: their primitives, parameter names and layouts.

A *program* is what ``jax.make_jaxpr`` gives: equations in order, each a primitive with operands
and parameters. Some primitives hold programs: calls, loops, branches and solves. What they are
called, and where they keep what they hold, is known here and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from equipoise._types import Array, PyTree

Program: TypeAlias = ClosedJaxpr | Jaxpr
Equation: TypeAlias = JaxprEqn
Atom: TypeAlias = Literal | Var
Value: TypeAlias = PyTree  # an array, a tracer, or what an abstract interpreter puts in its place

SCAN, WHILE, COND, SOLVE, SHARD_MAP = "scan", "while", "cond", "custom_linear_solve", "shard_map"
# Under which names a call keeps its program.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_HELD = (*_CALLED, "cond_jaxpr", "body_jaxpr")


def is_literal(atom: object) -> bool:
    """Whether an operand is a number in the program's text."""
    return isinstance(atom, Literal)


def rank(atom: Atom) -> int:
    """The number of axes of a variable or number."""
    aval: PyTree = atom.aval
    return len(aval.shape)


def opened(program: Program) -> Jaxpr:
    """The program without its constants."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def constants(program: Program) -> Sequence[Array]:
    """The arrays that the program captured."""
    return program.consts if isinstance(program, ClosedJaxpr) else ()


def closed(program: Jaxpr, captured: Sequence[Array]) -> ClosedJaxpr:
    """The program with these arrays for what it captured."""
    return ClosedJaxpr(program, captured)


def as_function(program: ClosedJaxpr) -> Callable[..., list[Array]]:
    """The program as a function of its operands."""
    return jaxpr_as_fun(program)


def called(equation: Equation) -> Program | None:
    """The one program of a call, under whichever name the primitive keeps it."""
    if equation.primitive.name in (SCAN, WHILE, COND):
        return None
    for name in _CALLED:
        held = equation.params.get(name)
        if isinstance(held, (ClosedJaxpr, Jaxpr)):
            return held
    return None


def held(equation: Equation) -> Iterator[Program]:
    """Every program that an equation holds."""
    for name in _HELD:
        program = equation.params.get(name)
        if isinstance(program, (ClosedJaxpr, Jaxpr)):
            yield program
    yield from equation.params.get("branches", ())
    if equation.primitive.name == SOLVE:
        yield equation.params["jaxprs"].solve


def primitive_names(program: Program) -> Iterator[str]:
    """The primitives of a program, those inside of others included."""
    for equation in opened(program).eqns:
        yield equation.primitive.name
        for inner in held(equation):
            yield from primitive_names(inner)


def run(
    program: Program,
    operands: Sequence[Value],
    apply: Callable[[Equation, list[Value]], Sequence[Value]],
) -> list[Value]:
    """The results of a program, each of whose equations is evaluated by ``apply``."""
    jaxpr = opened(program)
    known = dict(zip(jaxpr.constvars, constants(program), strict=True))
    known.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Atom) -> Value:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = apply(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(equation: Equation, operands: Sequence[Value]) -> list[Value]:
    """The results of an equation's primitive on other operands."""
    found = equation.primitive.bind(*operands, **equation.params)  # type: ignore[no-untyped-call]
    return list(found) if equation.primitive.multiple_results else [found]


class Scan(NamedTuple):
    """A scan: its operands are constants, then the carry, then the arrays it runs along."""

    body: Program
    length: int
    reverse: bool
    num_constants: int
    num_carried: int


def scan(equation: Equation) -> Scan:
    """The layout of a scan. Arrays that it runs along have one axis more outside than inside."""
    body = opened(equation.params["jaxpr"])
    num_carried = len(body.outvars) - _num_sliced(equation.outvars, body.outvars)
    num_scanned = _num_sliced(equation.invars, body.invars)
    return Scan(
        equation.params["jaxpr"],
        equation.params["length"],
        equation.params["reverse"],
        len(body.invars) - num_scanned - num_carried,
        num_carried,
    )


def _num_sliced(outside: Sequence[Atom], inside: Sequence[Atom]) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(rank(o) > rank(i) for o, i in pairs)


class While(NamedTuple):
    """A while loop: operands are constants of the test, those of the body, then the carry."""

    test: Program
    body: Program
    num_test_constants: int
    num_body_constants: int


def while_loop(equation: Equation) -> While:
    """The layout of a while loop."""
    p = equation.params
    return While(p["cond_jaxpr"], p["body_jaxpr"], p["cond_nconsts"], p["body_nconsts"])


def branches(equation: Equation) -> Sequence[Program]:
    """The programs of a branch; its first operand is the index of the one that runs."""
    return equation.params["branches"]


class Solve(NamedTuple):
    """The program of a linear solve, and which operands of the equation it reads."""

    program: Program
    operands: list[int]


def linear_solve(equation: Equation) -> Solve:
    """The program that solves; those that only serve its derivatives are not run."""
    lengths = equation.params["const_lengths"]
    first = lengths.matvec + lengths.vecmat
    sides = first + lengths.solve + lengths.transpose_solve
    reads = [*range(first, first + lengths.solve), *range(sides, len(equation.invars))]
    return Solve(equation.params["jaxprs"].solve, reads)


def implementation(equation: Equation) -> ClosedJaxpr | None:
    """What a primitive computes, traced; None where JAX cannot look inside of it."""
    primitive = equation.primitive

    def computed(*operands: Array) -> Sequence[Array]:
        found = primitive.impl(*operands, **equation.params)  # type: ignore[no-untyped-call]
        return found if primitive.multiple_results else [found]

    structure: Callable[..., PyTree] = jax.ShapeDtypeStruct  # it is left untyped
    avals: list[PyTree] = [v.aval for v in equation.invars]
    shapes = [structure(aval.shape, aval.dtype) for aval in avals]
    try:
        traced = jax.make_jaxpr(computed)(*shapes)
    except Exception:  # whatever an implementation raises that wants values
        return None
    # The implementation of a primitive of XLA is that primitive.
    return None if primitive.name in primitive_names(traced) else traced
