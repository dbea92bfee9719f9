"""The largest and the smallest of several expressions, written as shortly as can be shown."""

from collections.abc import Iterable

from equipoise.cost._expression.expression import ZERO, Expression, apply, from_terms
from equipoise.cost._expression.order import frontier, is_nonnegative


def largest(expressions: Iterable[Expression]) -> Expression:
    """The maximum, written with as few expressions as can be shown to suffice; 0 for none."""
    kept = frontier(expressions)
    if len(kept) < 2:
        return kept[0] if kept else ZERO
    shared = from_terms(
        {
            monomial: min(expression.coefficients.get(monomial, 0) for expression in kept)
            for monomial in kept[0].coefficients
            if all(expression.coefficients.get(monomial, 0) > 0 for expression in kept)
        }
    )
    return shared + apply("max", *(expression - shared for expression in kept))


def smaller(a: Expression, b: Expression) -> Expression:
    """The minimum of two expressions."""
    if is_nonnegative(b - a):
        return a
    return b if is_nonnegative(a - b) else apply("min", a, b)


def at_least_zero(a: Expression) -> Expression:
    """The expression where it is positive, otherwise 0."""
    return a if is_nonnegative(a) else apply("max", ZERO, a)
