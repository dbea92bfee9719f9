"""Which of two expressions is larger whatever the sizes; the largest of several."""

import functools
import itertools
import math
from collections.abc import Iterable

import numpy as np

from equipoise import _check_old as _check
from equipoise.cost._atoms import Atom, Monomial, Number
from equipoise.cost._expression import ZERO, Expression, apply, from_terms

# Sizes at which a claim about all sizes is tried before it is given up as undecided.
TRIALS = (1, 2, 3, 5, 17, 257, 2**20)


@functools.lru_cache(maxsize=2**16)
def is_nonnegative(expression: Expression) -> bool:
    """Whether the expression can be shown to be at least 0 for all sizes."""
    return all(c > 0 and _is_nonnegative(m) for m, c in _shifted(expression).items())


@functools.lru_cache(maxsize=2**16)
def _shifted(expression: Expression) -> dict[Monomial, Number]:
    """The terms after each size n is replaced by 1 + n, with n now at least 0.

    An expression is nonnegative if no coefficient is then negative: enough for costs, whose
    differences are sums of products of sizes. Being linear, it also compares many at once.
    """
    terms: dict[Monomial, Number] = {}
    for monomial, coefficient in expression._terms.items():
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


def _factor_is_nonnegative(base: str | Atom, power: int) -> bool:
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


def decide(difference: Expression, *, strict: bool) -> bool:
    """Whether the difference is positive (or not negative) for all sizes."""
    if is_nonnegative(difference - 1 if strict else difference):
        return True
    names = sorted(difference.names)
    trials = TRIALS if len(names) <= 4 else TRIALS[:1]
    for sizes in itertools.product(trials, repeat=len(names)):
        value = difference.at(dict(zip(names, sizes, strict=True)))
        if value < 0 or (strict and value == 0):
            return False
    raise _check.value_error(
        "cost.Expression",
        "comparison",
        "must be decidable for all sizes",
        f"the sign of {difference}",
        "Compare numbers instead: evaluate both at the sizes you mean, or use cost.crossover.",
    )


def frontier(expressions: Iterable[Expression]) -> tuple[Expression, ...]:
    """The expressions that no other is known to reach or exceed for all sizes."""
    distinct = list(dict.fromkeys(expressions))
    if len(distinct) < 2:
        return tuple(distinct)
    shifted = [_shifted(expression) for expression in distinct]
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
    return tuple(distinct[row] for row in sorted(kept))


def largest(expressions: Iterable[Expression]) -> Expression:
    """The maximum, written with as few expressions as can be shown to suffice; 0 for none."""
    kept = frontier(expressions)
    if len(kept) < 2:
        return kept[0] if kept else ZERO
    shared = from_terms(
        {
            monomial: min(expression._terms.get(monomial, 0) for expression in kept)
            for monomial in kept[0]._terms
            if all(expression._terms.get(monomial, 0) > 0 for expression in kept)
        }
    )
    return shared + apply("max", *(expression - shared for expression in kept))
