"""The functions of expressions that are no polynomials: values and degrees."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from equipoise.cost._expression import Expression

Number: TypeAlias = int | Fraction


@dataclasses.dataclass(frozen=True)
class Atom:
    """A function of expressions that is no polynomial."""

    function: str
    arguments: tuple["Expression", ...]

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.function, self.arguments))

    def __hash__(self) -> int:
        return self._hash


Base: TypeAlias = str | Atom
Monomial: TypeAlias = tuple[tuple[Base, int], ...]


def _ceil_log2(value: Number) -> int:
    """The least k with 2ᵏ ≥ value."""
    return max(0, -(-value.numerator // value.denominator) - 1).bit_length()


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": lambda *a: max(a),
    "min": lambda *a: min(a),
    "ceil_log2": _ceil_log2,
    "sum": lambda a: a,
}


def evaluate(atom: Atom, sizes: Mapping[str, Number]) -> Number:
    """The value of an atom."""
    return FUNCTIONS[atom.function](*(argument.at(sizes) for argument in atom.arguments))


def degree(monomial: Monomial, names: Sequence[str]) -> int:
    """Total degree of a product in the names."""
    return sum(power * _base_degree(base, names) for base, power in monomial)


def _base_degree(base: Base, names: Sequence[str]) -> int:
    if isinstance(base, str):
        return int(base in names)
    degrees = [
        max((degree(monomial, names) for monomial in argument._terms), default=0)
        for argument in base.arguments
    ]
    match base.function:
        case "floordiv":
            return max(0, degrees[0] - degrees[1])
        case "mod" | "min":
            return min(degrees) if base.function == "min" else degrees[1]
        case "ceil_log2":
            return 0
        case _:
            return max(degrees)
