"""Where in the user's code the work of an equation is asked for."""

from collections.abc import Sequence
from typing import NamedTuple

from equipoise._jax.meshes.collectives import Collective, collective
from equipoise._jax.programs import Equation, Program, aval, is_array
from equipoise._jax.source import Frame, frames, is_library, scopes, written_in_library
from equipoise.cost._count.work import Work, either, total
from equipoise.cost._expression.expression import Expression

_NOWHERE = Frame("", "", 0)


class Place(NamedTuple):
    """What the work of an equation is counted under.

    Attributes:
        user: The innermost line of the user's own files.
        library: The innermost line of any file but JAX's.
        scope: The named scopes, outermost first.
        primitive: The operation.
        dtype: Of its first result.
        collective: What devices send each other, and the axes of the mesh along which they do.
    """

    user: Frame
    library: Frame
    scope: tuple[str, ...]
    primitive: str
    dtype: str
    collective: Collective | None = None


TOP = Place(_NOWHERE, _NOWHERE, (), "", "")
Parts = dict[Place, Work]


class _Surroundings(NamedTuple):
    """The equation that holds a program, and whether its lines stand for those of the program."""

    holder: Place
    opaque: bool


def around(holder: Place, program: Program) -> _Surroundings:
    """What surrounds the equations of a program that an equation at this place holds."""
    return _Surroundings(holder, written_in_library(program) and holder is not TOP)


def place_of(equation: Equation, surroundings: _Surroundings) -> Place:
    """The place of an equation of a program with these surroundings."""
    holder, opaque = surroundings
    user, library = holder.user, holder.library
    if not opaque:
        lines = frames(equation)
        user = next((line for line in lines if not is_library(line.file)), user)
        library = next(iter(lines), library)
    arrays = [aval(v) for v in equation.outvars if is_array(v)]
    dtype = str(arrays[0].dtype) if arrays else ""
    scope, name = holder.scope + scopes(equation), equation.primitive.name
    return Place(user, library, scope, name, dtype, collective(equation))


def together(*several: Parts) -> Parts:
    """The parts of programs that run one after the other."""
    joined: Parts = {}
    for parts in several:
        for place, work in parts.items():
            joined[place] = joined[place].then(work) if place in joined else work
    return joined


def repeated(parts: Parts, times: Expression) -> Parts:
    """The parts of a program that runs so often."""
    return {place: work.repeated(times) for place, work in parts.items()}


def one_of(alternatives: Sequence[Parts], place: Place) -> Parts:
    """The parts of the alternative that is largest in each measure, or all of it at one place."""
    totals = [total(parts.values()) for parts in alternatives]
    most = either(totals)
    for parts, work in zip(alternatives, totals, strict=True):
        if work == most:
            return parts
    return {place: most}
