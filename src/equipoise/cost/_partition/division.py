"""How arrays are divided along the axes of a mesh, and with them the operation that they go through."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from equipoise._jax.meshes.local import Spec
from equipoise._jax.programs import Atom, Program, rank


class Operand(NamedTuple):
    """How an array comes, and whether it is the user who says so."""

    spec: Spec
    is_fixed: bool = False


Arrays: TypeAlias = Sequence[Operand]


class Layout(NamedTuple):
    """How the inputs and results of a program are divided, and all values in it."""

    inputs: tuple[Operand, ...]
    results: tuple[Operand, ...]
    specs: Mapping[Atom, Operand]


# Of a program whose inputs and results are divided so at least.
LayoutOf: TypeAlias = Callable[[Program, Arrays, Arrays], Layout]


class Held(NamedTuple):
    """A program that an operation holds, with how its inputs and results are divided."""

    program: Program
    inputs: Arrays
    results: Arrays


class Division(NamedTuple):
    """How an operation is divided: operands and results, and letters or the programs it holds."""

    operands: list[Operand]
    results: list[Operand]
    axes: Mapping[int, tuple[str, ...]] = {}
    inside: Sequence[Held] = ()


def whole(atom: Atom) -> Spec:
    """Not divided at all."""
    return ((),) * rank(atom)


def grown(before: Operand, wish: Operand) -> Operand:
    """The operand divided further as is wished, where it is free to."""
    if before.is_fixed or wish.is_fixed:
        return before if before.is_fixed else wish
    if before.spec == wish.spec:
        return before
    spec = list(before.spec)
    for i, axes in enumerate(wish.spec):
        others = {axis for j, own in enumerate(spec) if j != i for axis in own}
        longer = len(axes) > len(spec[i]) and axes[: len(spec[i])] == spec[i]
        if longer and not others.intersection(axes):
            spec[i] = axes
    return Operand(tuple(spec))
