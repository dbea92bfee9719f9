"""The one reader of traced programs: their primitives, parameter names and layouts.

A *program* is what ``jax.make_jaxpr`` gives: equations in order, each a primitive with operands
and parameters. Some primitives hold programs: calls, loops, branches and solves. What they are
called, and where they keep what they hold, is known here and nowhere else.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, SupportsInt, TypeAlias, TypeGuard

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from equipoise._types import Array, PyTree

Program: TypeAlias = ClosedJaxpr | Jaxpr
OpenProgram: TypeAlias = Jaxpr  # without what it captured
ClosedProgram: TypeAlias = ClosedJaxpr  # with it
Equation: TypeAlias = JaxprEqn
Atom: TypeAlias = Literal | Var
Variable: TypeAlias = Var
Value: TypeAlias = PyTree  # an array, a tracer, or what an abstract interpreter puts in its place
Size: TypeAlias = SupportsInt  # a number, or one of JAX's symbolic dimensions

SCAN, WHILE, COND, SOLVE, SHARD_MAP = "scan", "while", "cond", "custom_linear_solve", "shard_map"
KERNEL = "pallas_call"
_STORES = ("swap", "masked_swap", "addupdate")  # into what an operand of a kernel points at
# Under which names a primitive keeps a program.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_HELD = (*_CALLED, "cond_jaxpr", "body_jaxpr")
# Primitives that keep a program under such a name and do not call it once.
_NO_CALLS = (SCAN, WHILE, COND, KERNEL, "reduce", "reduce_window")


class Aval(Protocol):
    """What is known of an array while tracing."""

    @property
    def shape(self) -> tuple[Size, ...]:
        """Its sizes."""

    @property
    def dtype(self) -> np.dtype:
        """Its type of numbers."""


def aval(atom: Atom) -> Aval:
    """Shape and dtype of an operand or result; a token has neither (:func:`is_array`)."""
    found: PyTree = atom.aval
    return found


def is_array(atom: Atom) -> bool:
    """Whether an operand or result is an array, and no token."""
    return hasattr(atom.aval, "shape") and hasattr(atom.aval, "dtype")


def variable(like: Atom, shape: Sequence[Size] | None = None) -> Variable:
    """A new variable like another, perhaps of another shape."""
    if shape is None:
        return Var(like.aval)
    return Var(jax.core.ShapedArray(tuple(shape), aval(like).dtype))


def has_effects(equation: Equation) -> bool:
    """Whether an equation does more than to compute its results; that devices meet is no more."""
    return any(type(effect).__name__ != "NamedAxisEffect" for effect in equation.effects)


def is_literal(atom: object) -> TypeGuard[Literal]:
    """Whether an operand is a number in the program's text, its ``val``."""
    return isinstance(atom, Literal)


def is_atom(value: object) -> TypeGuard[Atom]:
    """Whether a value is an operand or result of an equation."""
    return isinstance(value, (Literal, Var))


def is_program(value: object) -> TypeGuard[Program]:
    """Whether a parameter is a program."""
    return isinstance(value, (ClosedJaxpr, Jaxpr))


def rank(atom: Atom) -> int:
    """The number of axes of a variable or number."""
    return len(aval(atom).shape) if is_array(atom) else 0


def opened(program: Program) -> Jaxpr:
    """The program without its constants."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def constants(program: Program) -> Sequence[Array]:
    """The arrays that the program captured."""
    return program.consts if isinstance(program, ClosedJaxpr) else ()


def closed(program: Jaxpr, captured: Sequence[Array]) -> ClosedJaxpr:
    """The program with these arrays for what it captured."""
    return ClosedJaxpr(program, captured)


def bare(program: Program) -> Jaxpr:
    """The program without the arrays that it captured, which :func:`closed` gives it again.

    Newer versions know no other program than those that hold them.
    """
    body = opened(program)
    return closed(body, ()).jaxpr if constants(body) else body


def rewritten(program: OpenProgram, **changes: object) -> OpenProgram:
    """The program with other parts, whose operands and results no longer have the names of old."""
    names = program.debug_info.with_unknown_names()
    made: OpenProgram = program.replace(**changes, debug_info=names)  # type: ignore[no-untyped-call]
    return made


def called(equation: Equation) -> Program | None:
    """The program that an equation runs once on its operands; None where it is no call.

    Calls are told by their form: they take a program with as many inputs and results as the
    equation has. So are ``jit``, checkpoints, functions with derivatives of their own, and
    ``shard_map``, whose program sees the shards of one device.
    """
    if equation.primitive.name in _NO_CALLS:
        return None
    for name in _CALLED:
        found = equation.params.get(name)
        if is_program(found):
            body = opened(found)
            inside, outside = (len(body.invars), len(body.outvars)), _arity(equation)
            return found if inside == outside else None
    return None


def _arity(equation: Equation) -> tuple[int, int]:
    return len(equation.invars), len(equation.outvars)


def plain_call(equation: Equation) -> ClosedJaxpr | None:
    """The program of a call that computes it and no more, whatever its rules of derivation."""
    p = equation.params
    program = p.get("call_jaxpr", p.get("jaxpr") if equation.primitive.name == "jit" else None)
    return program if isinstance(program, ClosedJaxpr) else None


def own_rules(equation: Equation) -> bool:
    """Whether an equation calls a function that brings rules of derivation of its own."""
    return equation.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call"))


def held(equation: Equation) -> Iterator[Program]:
    """Every program that an equation runs, however often; of a solve the one that solves."""
    for name in _HELD:
        program = equation.params.get(name)
        if is_program(program):
            yield program
    if equation.primitive.name == COND:
        yield from branches(equation)
    if equation.primitive.name == SOLVE:
        yield linear_solve(equation).program


def primitive_names(program: Program) -> Iterator[str]:
    """The primitives of a program, those inside of others included."""
    for equation in opened(program).eqns:
        yield equation.primitive.name
        for inner in held(equation):
            yield from primitive_names(inner)


class _Scan(NamedTuple):
    """A scan: operands are constants, the carry, and the arrays that it runs along.

    Results are the carry, and what each iteration adds to the arrays that it builds.
    """

    body: Program
    length: Size
    reverse: bool
    num_constants: int
    num_carried: int


def scan(equation: Equation) -> _Scan:
    """The layout of a scan: what it runs along has one axis more outside than inside."""
    body = opened(equation.params["jaxpr"])
    num_carried = len(body.outvars) - _num_sliced(equation.outvars, body.outvars)
    num_scanned = _num_sliced(equation.invars, body.invars)
    return _Scan(
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
    """A while loop: operands are constants of the test, those of the body, then the carry.

    Test and body read each its constants and the carry; results are the carry.
    """

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


class _Solve(NamedTuple):
    """A linear solve: its program, and which operands of the equation that reads."""

    program: Program
    operands: list[int]


def linear_solve(equation: Equation) -> _Solve:
    """The program that solves; those that only serve its derivatives are not run."""
    lengths = equation.params["const_lengths"]
    first = lengths.matvec + lengths.vecmat
    sides = first + lengths.solve + lengths.transpose_solve
    reads = [*range(first, first + lengths.solve), *range(sides, len(equation.invars))]
    return _Solve(equation.params["jaxprs"].solve, reads)


class _Kernel(NamedTuple):
    """A kernel: its program on blocks, whose results are what it stores, and its grid."""

    body: Program
    grid: Sequence[Size]


def kernel(equation: Equation) -> _Kernel:
    """The layout of a Pallas kernel, whose program runs once for each point of a grid."""
    body = opened(equation.params["jaxpr"])
    stores = [e for e in body.eqns if e.primitive.name in _STORES]
    storing = rewritten(body, outvars=[e.invars[1] for e in stores])
    return _Kernel(storing, equation.params["grid_mapping"].grid)
