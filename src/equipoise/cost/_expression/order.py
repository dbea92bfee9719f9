"""Which of two polynomials is larger whatever the sizes, and which of several may be largest."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from equipoise._check import value_error
from equipoise.cost._expression.polynomial import Atom, Base, Monomial, Number, Polynomial
from equipoise.cost._expression.printing import TEXT, write

_P = TypeVar("_P", bound=Polynomial)
# Sizes at which a claim about all sizes is tried before it is given up as undecided.
_TRIALS = (1, 2, 3, 5, 17, 257, 2**20)


@functools.lru_cache(maxsize=2**16)
def is_nonnegative(polynomial: Polynomial) -> bool:
    """Whether the polynomial can be shown to be at least 0 for all sizes."""
    return all(c > 0 and _is_nonnegative(m) for m, c in _shifted(polynomial).items())


@functools.lru_cache(maxsize=2**16)
def _shifted(polynomial: Polynomial) -> dict[Monomial, Number]:
    """The terms after each size n is replaced by 1 + n, with n now at least 0.

    A polynomial is nonnegative if no coefficient is then negative: enough for costs, whose
    differences are sums of products of sizes. Being linear, it also compares many at once.
    """
    terms: dict[Monomial, Number] = {}
    for monomial, coefficient in polynomial.coefficients.items():
        for part, times in _expanded(monomial):
            terms[part] = terms.get(part, 0) + coefficient * times
    return {monomial: c for monomial, c in terms.items() if c}


@functools.cache
def _expanded(monomial: Monomial) -> list[tuple[Monomial, int]]:
    """A product of powers of 1 + n, multiplied out."""
    parts: list[tuple[Monomial, int]] = [((), 1)]
    for base, power in monomial:
        if isinstance(base, str) and power > 0:
            choices = [(power - k, math.comb(power, k)) for k in range(power + 1)]
        else:
            choices = [(power, 1)]
        parts = [
            ((*part, (base, k)) if k else part, a * b) for part, a in parts for k, b in choices
        ]
    return parts


@functools.cache
def _is_nonnegative(monomial: Monomial) -> bool:
    return all(_factor_is_nonnegative(base, power) for base, power in monomial)


def _factor_is_nonnegative(base: Base, power: int) -> bool:
    if isinstance(base, str) or power % 2 == 0:
        return True
    parts = [is_nonnegative(argument) for argument in base.arguments]
    match base.function:
        case "ceil_log2":
            return True
        case "mod":
            return parts[1]
        case "max":
            return any(parts)
        case _:
            return all(parts)


def decide(difference: Polynomial, *, strict: bool) -> bool:
    """Whether the difference is positive (or not negative) for all sizes."""
    # One at least, where positive is meant, and more wherever the sizes are.
    if is_nonnegative(difference) and (not strict or _shifted(difference).get((), 0) >= 1):
        return True
    names = sorted(difference.names)
    trials = _TRIALS if len(names) <= 4 else _TRIALS[:1]
    for sizes in itertools.product(trials, repeat=len(names)):
        value = difference.at(dict(zip(names, sizes, strict=True)))
        if value < 0 or (strict and value == 0):
            return False
    raise value_error(
        "comparison",
        "must be decidable for all sizes",
        f"the sign of {write(difference, TEXT)}",
        "Compare numbers instead: evaluate both at the sizes you mean, or use cost.crossover.",
    )


def frontier(polynomials: Iterable[_P]) -> tuple[_P, ...]:
    """Those that no other is known to reach or exceed for all sizes."""
    distinct = list(dict.fromkeys(polynomials))
    if len(distinct) < 2:
        return tuple(distinct)
    shifted = [_shifted(polynomial) for polynomial in distinct]
    columns = list(dict.fromkeys(monomial for terms in shifted for monomial in terms))
    table = np.array([[terms.get(m, 0) for m in columns] for terms in shifted], dtype=object)
    # Where the sign of a column is open, one row covers another only if both agree in it.
    opposed = [-table[:, k] for k, m in enumerate(columns) if not _is_nonnegative(m)]
    table = np.column_stack([table, *opposed])
    if all(isinstance(entry, int) and abs(entry) < 2**62 for entry in table.flat):
        table = table.astype(np.int64)
    kept: list[int] = []
    for row in np.argsort(-table.sum(axis=1), kind="stable"):
        if not kept or not (table[kept] >= table[row]).all(axis=1).any():
            kept.append(int(row))
    rest = [distinct[row] for row in sorted(kept)]
    # Logarithms are columns of their own above; here the larger covers the smaller.
    logs = any(isinstance(b, Atom) and b.function == "ceil_log2" for p in rest for b in _bases(p))
    if not logs:
        return tuple(rest)
    covered = [any(_covers(b, a) for b in rest if b is not a) for a in rest]
    return tuple(a for a, is_covered in zip(rest, covered, strict=True) if not is_covered)


def _bases(polynomial: Polynomial) -> Iterator[Base]:
    return (base for monomial in polynomial.coefficients for base, _ in monomial)


def _covers(large: Polynomial, small: Polynomial) -> bool:
    """Whether one reaches another for all sizes; logarithms grow with what they are of."""
    difference = _difference(large, small)
    for low in [m for m, c in difference.items() if c < 0 and _log_of(m) is not None]:
        for high in [m for m, c in difference.items() if c > 0 and _log_of(m) is not None]:
            argument, other = _log_of(high), _log_of(low)
            if argument is None or other is None or difference[low] >= 0:
                continue
            if is_nonnegative(Polynomial(_difference(argument, other))):
                moved = min(difference[high], -difference[low])
                difference[high], difference[low] = (
                    difference[high] - moved,
                    difference[low] + moved,
                )
    return is_nonnegative(Polynomial({m: c for m, c in difference.items() if c}))


def _difference(a: Polynomial, b: Polynomial) -> dict[Monomial, Number]:
    monomials = {**a.coefficients, **b.coefficients}
    found = {m: a.coefficients.get(m, 0) - b.coefficients.get(m, 0) for m in monomials}
    return {m: c for m, c in found.items() if c}


def _log_of(monomial: Monomial) -> Polynomial | None:
    """The argument, where a term is a multiple of one rounded logarithm."""
    match monomial:
        case ((Atom(function="ceil_log2", arguments=(argument,)), 1),):
            return argument
    return None
