"""A function as data: its program, shared by all that compute alike, and what it closed over.

``jax.jit`` knows a function by its identity: a closure made anew compiles anew, one whose globals
changed does not, and the arrays that it captured are constants, which XLA folds. Here a function is
traced at each call, which takes a few milliseconds and misses no change. What it captured, arrays
and Python numbers alike, becomes operands; the rest is looked up among the programs seen before.
"""

import collections
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.ahead import ahead
from equipoise._jax.programs import (
    Atom,
    ClosedProgram,
    Equation,
    OpenProgram,
    Program,
    again,
    as_function,
    aval,
    bare,
    constants,
    is_literal,
    is_program,
    opened,
    own_rules,
    plain_call,
)
from equipoise._jax.work import factorizes, work
from equipoise._types import Array, PyTree, record, static_field

_Key: TypeAlias = Hashable
_T = TypeVar("_T")
_MOST_PROGRAMS = 1024
_ORDERS = 2  # of derivatives that tell functions with rules of their own apart


def _none(number: float) -> bool:
    return False


class _Shared:
    """A program whose captured values are its first operands; equal to itself alone."""

    def __init__(self, program: ClosedProgram, out_tree: PyTree) -> None:
        self.program, self.out_tree = program, out_tree


# The programs used last; what was compiled for one is found again by its identity.
seen: collections.OrderedDict[_Key, _Shared] = collections.OrderedDict()


@record
class Traced:
    """A function of arrays, to be passed to compiled functions as an argument.

    Two of them share what is compiled where their programs differ in captured values alone.

    Attributes:
        captured: The arrays and floating-point numbers that the function reads, tracers included.
        shared: Its program.
    """

    captured: Sequence[Array | np.ndarray]
    shared: _Shared = static_field()

    def prepared(self) -> "Traced":
        """The same function, of which what no argument changes is computed here, and once."""
        first, rest = ahead(self.shared.program, len(self.captured))
        found = as_function(first)(*self.captured)
        return Traced([*found, *self.captured], _Shared(rest, self.shared.out_tree))

    @property
    def shapes(self) -> PyTree:
        """Shapes and dtypes of the results, at the arguments that it was traced at."""
        return jax.tree.unflatten(self.shared.out_tree, self.shared.program.out_avals)

    @property
    def work(self) -> float:
        """About how many elementary operations a call is."""
        return work(self.shared.program)

    @property
    def repeated_work(self) -> float:
        """The same without what no argument changes."""
        return work(ahead(self.shared.program, len(self.captured))[1])

    def over(
        self, function: Callable[..., PyTree], together: int | None = None
    ) -> Callable[..., PyTree]:
        """A function that calls this one, of many points: of all, or so many, together if it may.

        LAPACK divides a batch among the threads of the pool that it runs on itself, and waits:
        where as many calls wait as there are threads, they do for ever. So matrices are factorized
        one after the other.
        """
        if jax.default_backend() == "cpu" and factorizes(self.shared.program):
            together = 1
        if together is None:
            return jax.vmap(function)
        size = together if together > 1 else None
        return lambda *points: jax.lax.map(lambda one: function(*one), points, batch_size=size)

    def __call__(self, *args: PyTree) -> PyTree:
        """The function's results."""
        leaves = jax.tree.leaves(args)
        found = as_function(self.shared.program)(*self.captured, *leaves)
        # A number of the program's text comes back as it stands there.
        return jax.tree.unflatten(self.shared.out_tree, map(jnp.asarray, found))


def traced(
    function: Callable[..., PyTree], *examples: PyTree, kept: Callable[[float], bool] = _none
) -> Traced:
    """The function at arguments of the shapes and dtypes of the examples.

    Whatever the function reads now is what counts, also where an earlier trace read another value.
    A Python number is data where the function's own equations read it, and a part of the program
    inside of loops and of compiled functions that it calls. So are numbers for which ``kept``.
    """
    # A function that jax has not met, so that no earlier trace stands in for this one.
    program, shapes = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*examples)
    out_tree = jax.tree.structure(shapes)
    outline = _Outline(kept=kept)
    key = (outline.of(program, lift=True), jax.tree.structure(examples), out_tree)
    found = _found(seen, key, lambda: _Shared(_lifted(program, outline), out_tree))
    return Traced(tuple(outline.captured), found)


# Programs without what they captured, which are what they are seen as.
_opened: collections.OrderedDict[_Key, OpenProgram] = collections.OrderedDict()


def shared(program: Program) -> OpenProgram:
    """What computes the same, whatever it captured: one object for all of them."""
    found = bare(program)
    return _found(_opened, _Outline().of(found), lambda: found)


def _found(programs: collections.OrderedDict[_Key, _T], key: _Key, make: Callable[[], _T]) -> _T:
    """What is kept under the key, and kept if it is new; the one used longest ago gives way."""
    if key not in programs:
        programs[key] = make()
    programs.move_to_end(key)
    while len(programs) > _MOST_PROGRAMS:
        programs.popitem(last=False)
    return programs[key]


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


class _Outline:
    """What two programs must agree in to share what is compiled, and in what they may differ.

    Attributes:
        captured: The values that they may differ in, in the order of the walk.
        orders: Of derivatives that tell functions with rules of their own apart.
        kept: Whether they may not differ in a number.
    """

    def __init__(self, orders: int = _ORDERS, kept: Callable[[float], bool] = _none) -> None:
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
        differential = _differential(lambda *operands: again(program, equation, operands))
        try:
            found = jax.make_jaxpr(differential)(*(atom.aval for atom in equation.invars))
        except Exception as error:  # whatever a function raises that has no such derivative
            return _Same(error)  # which nothing equals: it compiles anew
        return *own, _Outline(self.orders - 1).of(found)


def _inlined(equation: Equation) -> ClosedProgram | None:
    """The program of a call that holds arrays of its own, which must become operands too."""
    program = plain_call(equation)
    if program is None or own_rules(equation):
        return None
    inside = any(_inlined(e) is not None for e in opened(program).eqns)
    return program if inside or constants(program) else None


def _lifted(program: ClosedProgram, outline: _Outline) -> ClosedProgram:
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


def _differential(function: Callable[..., Sequence[Array]]) -> Callable[..., list[Array]]:
    """Cotangents of the floating-point operands, for results that all weigh one."""

    def differential(*operands: Array) -> list[Array]:
        floating = [i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.inexact)]

        def of(*moving: Array) -> list[Array]:
            full = list(operands)
            for i, x in zip(floating, moving, strict=True):
                full[i] = x
            found = function(*full)
            return [x for x in found if jnp.issubdtype(x.dtype, jnp.inexact)]

        results, pullback = jax.vjp(of, *(operands[i] for i in floating))
        return list(pullback([jnp.ones_like(x) for x in results]))

    return differential
