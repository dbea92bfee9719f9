"""A function as data: its program, shared by all that compute alike, and what it closed over.

``jax.jit`` knows a function by its identity: a closure made anew compiles anew, one whose globals
changed does not, and the arrays that it captured are constants, which XLA folds. Here a function is
traced at each call, which takes a few milliseconds and misses no change. What it captured, arrays
and Python numbers alike, becomes operands; the rest is looked up among the programs seen before.
"""

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.evaluation import as_function
from equipoise._jax.programs import ClosedProgram, OpenProgram, Program, bare
from equipoise._jax.tracing.ahead import ahead
from equipoise._jax.tracing.outline import Outline, lifted, none
from equipoise._jax.tracing.work import factorizes, work
from equipoise._types import Array, PyTree, record, static_field

_Key: TypeAlias = Hashable
_T = TypeVar("_T")
_MOST_PROGRAMS = 1024


class _Shared:
    """A program whose captured values are its first operands; equal to itself alone."""

    def __init__(self, program: ClosedProgram, in_tree: PyTree, out_tree: PyTree) -> None:
        self.program, self.in_tree, self.out_tree = program, in_tree, out_tree
        self.gradients: dict[tuple[int, ...], _Shared] = {}


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
        return Traced(
            [*found, *self.captured], _Shared(rest, self.shared.in_tree, self.shared.out_tree)
        )

    @property
    def shapes(self) -> PyTree:
        """Shapes and dtypes of the results, at the arguments that it was traced at."""
        return jax.tree.unflatten(self.shared.out_tree, self.shared.program.out_avals)

    @property
    def work(self) -> float:
        """About how many elementary operations a call is."""
        return work(self.shared.program)

    def gradient(self, argnums: tuple[int, ...]) -> "Traced":
        """Of its one number, by some of its arguments; derived once for all of the same program."""
        shared = self.shared
        if argnums not in shared.gradients:
            avals = shared.program.in_avals[len(self.captured) :]

            def gradients(captured: Sequence[Array], *args: PyTree) -> PyTree:
                return jax.grad(Traced(captured, shared), argnums)(*args)

            args = jax.tree.unflatten(shared.in_tree, avals)
            captured = shared.program.in_avals[: len(self.captured)]
            program, shapes = jax.make_jaxpr(gradients, return_shape=True)(captured, *args)
            out_tree = jax.tree.structure(shapes)
            shared.gradients[argnums] = _Shared(program, shared.in_tree, out_tree)
        return Traced(self.captured, shared.gradients[argnums])

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
    function: Callable[..., PyTree], *examples: PyTree, kept: Callable[[float], bool] = none
) -> Traced:
    """The function at arguments of the shapes and dtypes of the examples.

    Whatever the function reads now is what counts, also where an earlier trace read another value.
    A Python number is data where the function's own equations read it, and a part of the program
    inside of loops and of compiled functions that it calls. So are numbers for which ``kept``.
    """
    # A function that jax has not met, so that no earlier trace stands in for this one.
    program, shapes = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*examples)
    out_tree = jax.tree.structure(shapes)
    outline = Outline(kept=kept)
    in_tree = jax.tree.structure(examples)
    key = (outline.of(program, lift=True), in_tree, out_tree)
    found = _found(seen, key, lambda: _Shared(lifted(program, outline), in_tree, out_tree))
    return Traced(tuple(outline.captured), found)


# Programs without what they captured, which are what they are seen as.
_opened: collections.OrderedDict[_Key, OpenProgram] = collections.OrderedDict()


def shared(program: Program) -> OpenProgram:
    """What computes the same, whatever it captured: one object for all of them."""
    found = bare(program)
    return _found(_opened, Outline().of(found), lambda: found)


def _found(programs: collections.OrderedDict[_Key, _T], key: _Key, make: Callable[[], _T]) -> _T:
    """What is kept under the key, and kept if it is new; the one used longest ago gives way."""
    if key not in programs:
        programs[key] = make()
    programs.move_to_end(key)
    while len(programs) > _MOST_PROGRAMS:
        programs.popitem(last=False)
    return programs[key]
