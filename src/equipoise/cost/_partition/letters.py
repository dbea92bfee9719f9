"""Letters for the axes of arrays, as an einsum writes them."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from equipoise._jax.programs import Atom, Size, aval, is_array

Letters: TypeAlias = list[int | None]  # of each axis of an array


class Factors(NamedTuple):
    """The letters of the axes of operands and results."""

    operands: list[Letters]
    results: list[Letters]


def shape_of(atom: Atom) -> tuple[Size, ...]:
    """The sizes of an operand or result; none of a token."""
    return aval(atom).shape if is_array(atom) else ()


def unlettered(atom: Atom) -> Letters:
    """No letter for any axis."""
    return [None] * len(shape_of(atom))


def letters_of(several: Sequence[Letters]) -> set[int]:
    """The letters that occur."""
    return {letter for letters in several for letter in letters if letter is not None}
