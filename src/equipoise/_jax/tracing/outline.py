"""What tells two programs apart, and what they may differ in and yet share what is compiled."""

import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.evaluation import again
from equipoise._jax.programs import (
    Atom,
    ClosedProgram,
    Equation,
    Program,
    aval,
    constants,
    is_literal,
    is_program,
    opened,
    own_rules,
    plain_call,
)
from equipoise._types import Array

_Key: TypeAlias = Hashable
_Function: TypeAlias = Callable[..., Sequence[Array]]
_Derivative: TypeAlias = Callable[[_Function, tuple[int, ...]], _Function]
_ORDERS = 2  # of derivatives that tell functions with rules of their own apart


def none(number: float) -> bool:
    """Of no number."""
    return False


class _Same:
    """An object that equals itself alone, whatever its own equality; kept alive by the key."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


# As long as the programs are there, which those of the library's own functions are: their rules of
# derivation take longer to trace than all the rest.
outlines: weakref.WeakKeyDictionary[Program, dict[int, _Key]] = weakref.WeakKeyDictionary()


class Outline:
    """What two programs must agree in to share what is compiled, and in what they may differ.

    Attributes:
        captured: The values that they may differ in, in the order of the walk.
        orders: Of derivatives that tell functions with rules of their own apart.
        kept: Whether they may not differ in a number.
    """

    def __init__(self, orders: int = _ORDERS, kept: Callable[[float], bool] = none) -> None:
        self.captured: list[Array | np.ndarray] = []
        self.orders, self.kept = orders, kept

    def of(self, program: Program, *, lift: bool = False) -> _Key:
        """The program as a value to compare. With ``lift`` what it captured is left out."""
        jaxpr = opened(program)
        number: dict[Atom, int] = {v: i for i, v in enumerate([*jaxpr.constvars, *jaxpr.invars])}
        avals = tuple(v.aval for v in number)
        captured = constants(program)
        if lift:
            self.captured += captured

        def read(atom: Atom) -> _Key:
            if not is_literal(atom):
                return number[atom]
            if lift and self.is_data(atom):
                self.captured.append(np.asarray(atom.val, aval(atom).dtype))
                return atom.aval
            return atom.aval, self.value(np.asarray(atom.val))

        equations = []
        for equation in jaxpr.eqns:
            operands = tuple(read(atom) for atom in equation.invars)
            if own_rules(equation):
                held = self.rules(program, equation)
            else:
                inside = lift and _inlined(equation) is not None
                params = sorted(equation.params.items())
                held = tuple((name, self.value(v, lift=inside)) for name, v in params)
            results = tuple(v.aval for v in equation.outvars)
            number.update((v, len(number) + i) for i, v in enumerate(equation.outvars))
            equations.append((equation.primitive, operands, held, results))
        kept = () if lift else tuple(map(_Same, captured))
        return avals, kept, tuple(equations), tuple(read(atom) for atom in jaxpr.outvars)

    def known(self, program: Program) -> _Key:
        """The whole program as a value; that of a function that JAX keeps compiled is kept too."""
        found = outlines.setdefault(program, {})
        if self.orders not in found:
            found[self.orders] = self.of(program)
        return found[self.orders]

    def is_data(self, atom: Atom) -> bool:
        """Whether it is a number in the text that may be another one."""
        if not is_literal(atom) or not jnp.issubdtype(aval(atom).dtype, jnp.floating):
            return False
        return not self.kept(atom.val)

    def value(self, value: object, *, lift: bool = False) -> _Key:
        """A parameter as a value to compare."""
        if is_program(value):
            return self.of(value, lift=True) if lift else self.known(value)
        if isinstance(value, (tuple, list)):
            return (type(value), *map(self.value, value))
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype, value.tobytes()
        try:
            hash(value)
        except TypeError:
            return _Same(value)
        return value

    def rules(self, program: Program, equation: Equation) -> _Key:
        """A call with rules of derivation of its own, told by what it computes and they give.

        The rules themselves are wrapped anew in each trace. One order less is asked of what they
        call in turn, which is the function itself more often than not.
        """
        own = [self.value(v) for _, v in sorted(equation.params.items()) if is_program(v)]
        if not self.orders:
            return tuple(own)
        avals = [aval(atom) for atom in equation.invars]
        first = equation.params.get("num_consts", 0)  # rules say nothing of what is closed over
        floating = [i for i, x in enumerate(avals) if jnp.issubdtype(x.dtype, jnp.inexact)]
        varied = tuple(i for i in floating if i >= first)

        def derived(derivative: _Derivative, argnums: tuple[int, ...]) -> _Key:
            function = derivative(lambda *operands: again(program, equation, operands), argnums)
            return Outline(self.orders - 1).of(jax.make_jaxpr(function)(*avals))

        def told(derivative: _Derivative, argnum: int) -> _Key:
            try:
                return derived(derivative, (argnum,))
            except Exception as error:  # whatever a rule raises where there is no derivative
                return type(error), str(error)

        try:
            return *own, derived(_reverse, varied)
        except Exception:  # by some of the operands, or backward, there is none
            modes = (_reverse,) if "bwd" in equation.params else (_reverse, _forward)
            return *own, *(told(mode, i) for i in varied for mode in modes)


def _inlined(equation: Equation) -> ClosedProgram | None:
    """The program of a call that holds arrays of its own, which must become operands too."""
    program = plain_call(equation)
    if program is None or own_rules(equation):
        return None
    inside = any(_inlined(e) is not None for e in opened(program).eqns)
    return program if inside or constants(program) else None


def _of(
    function: _Function, argnums: tuple[int, ...], operands: Sequence[Array]
) -> tuple[_Function, list[Array]]:
    """The floating-point results as a function of some operands, and those operands."""

    def of(*moving: Array) -> list[Array]:
        full = list(operands)
        for i, x in zip(argnums, moving, strict=True):
            full[i] = x
        return [x for x in function(*full) if jnp.issubdtype(x.dtype, jnp.inexact)]

    return of, [operands[i] for i in argnums]


def _reverse(function: _Function, argnums: tuple[int, ...]) -> _Function:
    """Cotangents of the operands, for results that all weigh one."""

    def cotangents(*operands: Array) -> Sequence[Array]:
        of, moving = _of(function, argnums, operands)
        results, pullback = jax.vjp(of, *moving)
        return pullback([jnp.ones_like(x) for x in results])

    return cotangents


def _forward(function: _Function, argnums: tuple[int, ...]) -> _Function:
    """Tangents of the results, for operands that all move by one."""

    def tangents(*operands: Array) -> Sequence[Array]:
        of, moving = _of(function, argnums, operands)
        return jax.jvp(of, moving, [jnp.ones_like(x) for x in moving])[1]

    return tangents


def lifted(program: ClosedProgram, outline: Outline) -> ClosedProgram:
    """The program with captured values as its first operands, in the order of the outline."""

    def whole(captured: Sequence[Array], *operands: Array) -> Sequence[Array]:
        return _rerun(program, operands, iter(captured), outline.is_data)

    return jax.make_jaxpr(whole)([jax.typeof(x) for x in outline.captured], *program.in_avals)


def _rerun(
    program: Program,
    operands: Sequence[Array],
    captured: Iterator[Array],
    is_data: Callable[[Atom], bool],
) -> list[Array]:
    jaxpr = opened(program)
    known: dict[Atom, Array] = dict(zip(jaxpr.constvars, captured, strict=False))
    known.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Atom) -> Array:
        if not is_literal(atom):
            return known[atom]
        return next(captured) if is_data(atom) else atom.val

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        inside = _inlined(equation)
        if inside is None:
            results = again(program, equation, values)
        else:
            results = _rerun(inside, values, captured, is_data)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
