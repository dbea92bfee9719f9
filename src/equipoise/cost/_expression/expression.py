"""Exact expressions in named sizes: the arithmetic of polynomials over the rationals and atoms."""

import functools
from collections.abc import Mapping
from fractions import Fraction

from equipoise._check import at, positive_integer, value_error
from equipoise.cost._expression.amount import amount, last_within
from equipoise.cost._expression.order import decide
from equipoise.cost._expression.polynomial import (
    FUNCTIONS,
    Atom,
    Monomial,
    Number,
    Polynomial,
    degree,
)
from equipoise.cost._expression.printing import LATEX, TEXT, base_order, in_order, write

_NAME = "must be the name of a size, such as 'n' or 'width', or a number"


class Expression(Polynomial):
    """An exact cost as a function of named sizes, which are positive integers.

    Supports ``+ - * / // % **`` with numbers and other expressions. ``==`` holds when both are the
    same expression in normal form; ``<``, ``<=``, ``>`` and ``>=`` mean *for all sizes*, and raise
    ``ValueError`` where that can be neither shown nor refuted.
    """

    __slots__ = ()

    def __init__(self, value: "int | Fraction | str | Expression" = 0) -> None:
        scope: frozenset[str] = frozenset()
        if isinstance(value, Expression):
            coefficients, scope = value.coefficients, value.scope
        elif isinstance(value, str):
            if not value.isidentifier():
                with at("cost.Expression"):
                    raise value_error("value", _NAME, repr(value))
            coefficients = {((value, 1),): 1}
        else:
            coefficients = {(): value} if value else {}
        super().__init__(coefficients, scope)

    def __reduce__(self) -> tuple[object, ...]:
        return (from_terms, (dict(self.coefficients), self.scope))

    @property
    def terms(self) -> tuple[tuple[Monomial, Number], ...]:
        """Terms as (monomial, coefficient), in the order in which they are printed."""
        return in_order(self)

    @at("cost.Expression.evaluate")
    def evaluate(self, /, **sizes: int) -> Number:
        """The value at the given sizes: an integer, or an exact fraction after a division.

        Sizes that do not occur are ignored, so that one set of sizes serves a whole table.
        Raises ``ValueError`` for a size that is missing or not positive (names that start with
        ``trips`` may be 0) and ``TypeError`` for one that is no integer.
        """
        missing = sorted(self.names - set(sizes))
        if missing:
            raise value_error(
                missing[0],
                "must be given a size",
                f"sizes for {', '.join(sizes) or 'nothing'}",
                f"Call evaluate({', '.join(f'{name}=...' for name in sorted(self.names))}).",
            )
        for name, value in sizes.items():
            minimum = 0 if name.startswith("trips") else 1
            positive_integer(name, value, minimum=minimum)
        return self.at({name: int(value) for name, value in sizes.items()})

    def substitute(self, /, **sizes: "int | Expression") -> "Expression":
        """The expression with some sizes replaced by numbers or other expressions."""
        return _substitute(self, {name: as_expression(value) for name, value in sizes.items()})

    @at("cost.Expression.degree")
    def degree(self, name: str) -> int:
        """The power of one size that bounds the growth when all others are fixed.

        A rounded logarithm has degree 0, and so has anything bounded, and every number. Raises
        ``ValueError`` for a name that is no size of the expression, nor of the function that it was
        counted for.
        """
        self._known(name)
        return max((degree(monomial, (name,)) for monomial in self.coefficients), default=0)

    def leading(self, *names: str) -> "Expression":
        """The terms of the highest total degree in the named sizes (in all, if none is named)."""
        names = names or tuple(self.names)
        degrees = {monomial: degree(monomial, names) for monomial in self.coefficients}
        top = max(degrees.values(), default=0)
        kept = {m: c for m, c in self.coefficients.items() if degrees[m] == top}
        return from_terms(kept, self.scope)

    @at("cost.Expression.largest")
    def largest(self, name: str, /, *, at_most: int | str, **sizes: int) -> int:
        """The largest size up to which the expression stays within a bound.

        ``at_most`` is a number, or an amount of memory such as ``"80 GB"`` or ``"16 GiB"``; all
        other sizes are given by name. 0 where not even a size of 1 stays within it. An expression
        that never falls as the size grows is solved exactly, by bisection; one that falls here and
        there, as remainders do, is within the bound at the result, but may be so later again.
        Raises ``ValueError`` where the expression does not grow with the size, or another size is
        missing.
        """
        bound = amount("at_most", at_most)
        self._known(name)
        return last_within(lambda n: self.evaluate(**{**sizes, name: n}), bound)

    def _known(self, name: str) -> None:
        known = self.names | self.scope
        if known and name not in known:
            expected = f"must be one of the sizes {', '.join(sorted(known))}"
            raise value_error("name", expected, repr(name))

    def latex(self) -> str:
        """LaTeX source, without the dollar signs."""
        return write(self, LATEX)

    def __str__(self) -> str:
        return write(self, TEXT)

    def __repr__(self) -> str:
        return f"Expression({self})"

    def __add__(self, other: "Expression | Number") -> "Expression":
        if not isinstance(other, (Expression, int, Fraction)):
            return NotImplemented
        return self._plus(as_expression(other), 1)

    def __sub__(self, other: "Expression | Number") -> "Expression":
        if not isinstance(other, (Expression, int, Fraction)):
            return NotImplemented
        return self._plus(as_expression(other), -1)

    def _plus(self, other: "Expression", sign: int) -> "Expression":
        terms = dict(self.coefficients)
        for monomial, coefficient in other.coefficients.items():
            total = terms.get(monomial, 0) + sign * coefficient
            if total:
                terms[monomial] = total
            else:
                del terms[monomial]
        return from_terms(terms, self.scope | other.scope)

    def __neg__(self) -> "Expression":
        return ZERO - self

    def __rsub__(self, other: "Expression | Number") -> "Expression":
        return -self + other

    def __mul__(self, other: "Expression | Number") -> "Expression":
        if not isinstance(other, (Expression, int, Fraction)):
            return NotImplemented
        terms: dict[Monomial, Number] = {}
        other = as_expression(other)
        for left, a in self.coefficients.items():
            for right, b in other.coefficients.items():
                product = _times(left, right)
                terms[product] = terms.get(product, 0) + a * b
        scope = self.scope | other.scope
        return from_terms({monomial: c for monomial, c in terms.items() if c}, scope)

    def __pow__(self, power: int) -> "Expression":
        if power < 0:
            return 1 / self**-power
        return functools.reduce(lambda a, b: a * b, [self] * power, ONE)

    def __truediv__(self, other: "Expression | Number") -> "Expression":
        return self * _reciprocal(as_expression(other))

    def __rtruediv__(self, other: "Expression | Number") -> "Expression":
        return as_expression(other) / self

    def __floordiv__(self, other: "Expression | Number") -> "Expression":
        return apply("floordiv", self, as_expression(other))

    def __rfloordiv__(self, other: "Expression | Number") -> "Expression":
        return as_expression(other) // self

    def __mod__(self, other: "Expression | Number") -> "Expression":
        return apply("mod", self, as_expression(other))

    def __rmod__(self, other: "Expression | Number") -> "Expression":
        return as_expression(other) % self

    __radd__ = __add__
    __rmul__ = __mul__

    @at("cost.Expression")
    def __le__(self, other: "Expression | Number") -> bool:

        return decide(as_expression(other) - self, strict=False)

    @at("cost.Expression")
    def __lt__(self, other: "Expression | Number") -> bool:

        return decide(as_expression(other) - self, strict=True)

    def __ge__(self, other: "Expression | Number") -> bool:
        return as_expression(other) <= self

    def __gt__(self, other: "Expression | Number") -> bool:
        return as_expression(other) < self


def from_terms(terms: Mapping[Monomial, Number], scope: frozenset[str] = frozenset()) -> Expression:
    """The expression with these terms, which have no zero coefficient."""
    made = Expression.__new__(Expression)
    Polynomial.__init__(made, terms, scope)
    return made


def as_expression(value: Expression | Number) -> Expression:
    """The value as an expression."""
    return value if isinstance(value, Expression) else Expression(value)


ZERO, ONE = Expression(0), Expression(1)


def _substitute(polynomial: Polynomial, values: Mapping[str, Expression]) -> Expression:
    total = ZERO
    for monomial, coefficient in polynomial.coefficients.items():
        term = Expression(coefficient)
        for base, power in monomial:
            if isinstance(base, str):
                value = values.get(base, from_terms({((base, 1),): 1}))
            else:
                value = apply(base.function, *(_substitute(a, values) for a in base.arguments))
            term = term * value**power
        total = total + term
    return total


@functools.cache
def _times(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for base, power in right:
        powers[base] = powers.get(base, 0) + power
    return tuple(sorted(((b, p) for b, p in powers.items() if p), key=base_order))


def _reciprocal(value: Expression) -> Expression:
    if value == 0:
        raise ZeroDivisionError("an expression is divided by 0")
    if len(value.coefficients) > 1:
        value = from_terms({((Atom("sum", (value,)), 1),): 1})
    ((monomial, coefficient),) = value.coefficients.items()
    return from_terms(
        {tuple((base, -power) for base, power in monomial): Fraction(1) / coefficient}
    )


def apply(function: str, *arguments: Expression) -> Expression:
    """An atom of these arguments, or the simpler expression that it is equal to."""
    constants = [argument.constant for argument in arguments]
    if all(constant is not None for constant in constants):
        return Expression(FUNCTIONS[function](*constants))
    if function in ("max", "min"):
        arguments = tuple(sorted(dict.fromkeys(arguments), key=str))
        if len(arguments) == 1:
            return arguments[0]
    if function == "sum":
        return arguments[0]
    if function in ("floordiv", "mod"):
        whole, rest = _divide(*arguments)
        if rest == 0:
            return whole if function == "floordiv" else ZERO
        arguments = (rest, arguments[1])
        return (whole if function == "floordiv" else ZERO) + _atom(function, arguments)
    return _atom(function, arguments)


def _atom(function: str, arguments: tuple[Expression, ...]) -> Expression:
    constants = [argument.constant for argument in arguments]
    if all(constant is not None for constant in constants):
        return Expression(FUNCTIONS[function](*constants))
    return from_terms({((Atom(function, arguments), 1),): 1})


def _divide(numerator: Expression, divisor: Expression) -> tuple[Expression, Expression]:
    """The terms that the divisor divides with an integer coefficient, divided; and the rest."""
    whole, rest = ZERO, ZERO
    for monomial, coefficient in numerator.coefficients.items():
        term = from_terms({monomial: coefficient})
        quotient = term / divisor if len(divisor.coefficients) == 1 else None
        if quotient is not None and all(
            Fraction(c).denominator == 1 and all(p > 0 for _, p in m)
            for m, c in quotient.coefficients.items()
        ):
            whole = whole + quotient
        else:
            rest = rest + term
    return whole, rest
