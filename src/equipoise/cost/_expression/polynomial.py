"""What an expression holds: coefficients times products of powers of sizes and of atoms.

A *base* is the name of a size or an :class:`Atom`: a rounded quotient, a remainder, the largest or
smallest of several polynomials, a rounded logarithm, or a sum that stands in a denominator.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

Number: TypeAlias = int | Fraction


@dataclasses.dataclass(frozen=True)
class Atom:
    """A function of polynomials that is none itself."""

    function: str
    arguments: tuple["Polynomial", ...]

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.function, self.arguments))

    def __hash__(self) -> int:
        return self._hash

    def at(self, sizes: Mapping[str, Number]) -> Number:
        """The value at some sizes."""
        return FUNCTIONS[self.function](*(argument.at(sizes) for argument in self.arguments))


Base: TypeAlias = str | Atom
Power: TypeAlias = tuple[Base, int]
Monomial: TypeAlias = tuple[Power, ...]


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


class Polynomial:
    """Coefficients, none of them zero, of products of powers; immutable and hashable.

    ``scope`` holds names that are known beside those that occur, and is no part of the value.
    """

    __slots__ = ("_hash", "coefficients", "scope")
    coefficients: Mapping[Monomial, Number]
    scope: frozenset[str]
    _hash: int | None

    def __init__(
        self, coefficients: Mapping[Monomial, Number], scope: frozenset[str] = frozenset()
    ) -> None:
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "_hash", None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Expression is immutable")

    @property
    def names(self) -> frozenset[str]:
        """The sizes that the expression depends on."""
        found: set[str] = set()
        for monomial in self.coefficients:
            for base, _ in monomial:
                if isinstance(base, str):
                    found.add(base)
                else:
                    found = found.union(*(argument.names for argument in base.arguments))
        return frozenset(found)

    @property
    def constant(self) -> Number | None:
        """The number, where no size occurs; otherwise None."""
        if not self.coefficients:
            return 0
        return self.coefficients.get(()) if len(self.coefficients) == 1 else None

    def at(self, sizes: Mapping[str, Number]) -> Number:
        """The value at sizes that may be any numbers and are not checked."""
        total: Number = 0
        for monomial, coefficient in self.coefficients.items():
            for base, power in monomial:
                value = sizes[base] if isinstance(base, str) else base.at(sizes)
                coefficient = coefficient * Fraction(value) ** power
            total = total + coefficient
        return int(total) if Fraction(total).denominator == 1 else total

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash(frozenset(self.coefficients.items())))
        return self._hash  # type: ignore[return-value]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Polynomial):
            return self.coefficients == other.coefficients
        return self.constant == other if isinstance(other, Number) else NotImplemented


def degree(monomial: Monomial, names: Sequence[str]) -> int:
    """Total degree of a product in the names."""
    return sum(power * _base_degree(base, names) for base, power in monomial)


def _base_degree(base: Base, names: Sequence[str]) -> int:
    if isinstance(base, str):
        return int(base in names)
    degrees = [
        max((degree(monomial, names) for monomial in argument.coefficients), default=0)
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
