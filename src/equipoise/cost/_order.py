"""Which of two expressions is larger whatever the sizes; the largest of several."""

import functools
import itertools
from collections.abc import Iterable

from equipoise import _check
from equipoise.cost._atoms import Atom
from equipoise.cost._expression import ZERO, Expression, apply, from_terms

# Sizes at which a claim about all sizes is tried before it is given up as undecided.
TRIALS = (1, 2, 3, 5, 17, 257, 2**20)


@functools.lru_cache(maxsize=2**16)
def is_nonnegative(expression: Expression) -> bool:
    """Whether the expression can be shown to be at least 0 for all sizes (each at least 1).

    Replacing each size n by 1 + n shows it when no coefficient is then negative; enough for costs,
    whose differences are sums of products of sizes.
    """
    coefficients = expression._terms
    if all(c > 0 for c in coefficients.values()):
        return all(_factor_is_nonnegative(b, p) for m in coefficients for b, p in m)
    if any(p < 0 for m in coefficients for b, p in m):
        return False
    names = {base for monomial in coefficients for base, _ in monomial if isinstance(base, str)}
    # At least one positive term must be as large as each negative one for large sizes.
    shifted = ZERO
    for monomial, coefficient in coefficients.items():
        term = Expression(coefficient)
        for base, power in monomial:
            plain = from_terms({((base, 1),): 1})
            term = term * (plain + 1 if base in names else plain) ** power
        shifted = shifted + term
    terms = shifted._terms
    return all(c > 0 for c in terms.values()) and all(
        _factor_is_nonnegative(b, p) for m in terms for b, p in m
    )


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
    kept: list[Expression] = []
    for new in dict.fromkeys(expressions):
        if any(is_nonnegative(old - new) for old in kept):
            continue
        kept = [old for old in kept if not is_nonnegative(new - old)]
        kept.append(new)
    return tuple(kept)


def largest(expressions: Iterable[Expression]) -> Expression:
    """The maximum, written with as few expressions as can be shown to suffice; 0 for none."""
    kept = frontier(expressions)
    return apply("max", *kept) if kept else ZERO
