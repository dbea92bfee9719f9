"""The sizes at which one cost overtakes another."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from equipoise._check import at, type_error, value_error
from equipoise._types import static_result
from equipoise.cost._expression.expression import Expression, as_expression
from equipoise.cost._expression.polynomial import Number
from equipoise.cost._kinds import Larger

# Expressions that round are tried at each size up to the first, and at so many doublings of it.
_EVERY_SIZE, _NUM_DOUBLINGS = 4096, 51


@static_result
class Crossover:
    """The sizes at which the order of two costs changes.

    Attributes:
        name: The size that grows.
        exists: Whether the order ever changes.
        size: The size from which on the cost that was smaller before is larger for good: the last
            of ``crossings``. None if there is none.
        root: The real number, between ``size`` − 1 and ``size``, at which the costs are equal.
        larger: The larger of the two in the end, a :class:`Larger`: ``"a"``, ``"b"``, or
            ``"neither"`` if they are equal.
        crossings: Each size at which the order is the opposite of what it was before.
    """

    name: str
    exists: bool
    size: int | None
    root: float | None
    larger: Larger
    crossings: tuple[int, ...]


@at("cost.crossover")
def crossover(
    a: Expression | Number, b: Expression | Number, name: str, /, **sizes: int
) -> Crossover:
    r"""Where one cost overtakes another as one size grows, or that it never does.

    .. math::

        n^* = \min \{ n : \operatorname{sign}(a(m) - b(m)) = s \ne 0
              \ \mathrm{for\ all}\ m \ge n \}, \qquad n \in \{1, 2, \dots\}

    Args:
        a: A cost, such as ``analyze(...).flops``.
        b: The cost to compare it with.
        name: The size that grows from 1.
        sizes: All other sizes that occur in a or b, whatever their names.

    Returns:
        :class:`Crossover`. Costs that are equal everywhere, or never change order, have
        ``exists=False`` and ``size=None``. Polynomials are solved exactly. Expressions that round
        or take maxima are compared at every size up to 4096, and beyond it at doublings up to
        2⁶², between which one change of order at most is found.

    Raises:
        ValueError: If a size is missing or not positive, or ``name`` is given a size as well.
        TypeError: If a size is no integer, or a or b is no expression.

    Cost: O(k²·log n) evaluations for a polynomial of degree k; 4096 otherwise.

    Examples:
        >>> attention = cost.analyze(lambda x: (x @ x.T) @ x, "f32[n,d]").flops
        >>> rnn = cost.analyze(lambda w, x: x @ w, "f32[d,d]", "f32[n,d]").flops
        >>> print(cost.crossover(attention, rnn, "n", d=512))
        Crossover
          name       n
          exists     True
          size       257
          root       256
          larger     a
          crossings  257

    References:
        The comparison of layers in :cite:t:`vaswani2017`, section 4.
    """
    for argument, value in (("a", a), ("b", b)):
        if not isinstance(value, (Expression, int, Fraction)):
            raise type_error(argument, "must be an expression or a number", value)
    if name in sizes:
        raise value_error(
            name, "must be left open, as the size that grows", f"{name}={sizes[name]}"
        )
    difference = as_expression(a) - as_expression(b)
    difference.evaluate(**sizes, **{name: 1})
    of_one = difference.substitute(**sizes)

    def of(size: Number) -> Number:
        return of_one.at({name: size})

    polynomial = _coefficients(of_one, name)
    if polynomial is None:
        doublings = (_EVERY_SIZE * 2**k for k in range(_NUM_DOUBLINGS))
        points = [*range(1, _EVERY_SIZE), *doublings]
    else:
        points = _monotone_points(polynomial)
    crossings = _changes(of, points)
    last = next((sign for p in reversed(points) if (sign := _sign(of(p)))), 0)
    return Crossover(
        name=name,
        exists=bool(crossings),
        size=crossings[-1] if crossings else None,
        root=_root(of, crossings[-1]) if crossings else None,
        larger=(Larger.NEITHER, Larger.A, Larger.B)[last],
        crossings=tuple(crossings),
    )


def _sign(value: Number) -> int:
    return (value > 0) - (value < 0)


def _coefficients(expression: Expression, name: str) -> list[Number] | None:
    """The polynomial's coefficients by power, or None for any other expression."""
    powers = {monomial: dict(monomial) for monomial, _ in expression.terms}
    if any(set(p) - {name} or p.get(name, 0) < 0 for p in powers.values()):
        return None
    top = max((p.get(name, 0) for p in powers.values()), default=0)
    coefficients: list[Number] = [0] * (top + 1)
    for monomial, coefficient in expression.terms:
        coefficients[powers[monomial].get(name, 0)] = coefficient
    return coefficients


def _monotone_points(coefficients: Sequence[Number]) -> list[int]:
    """Integers from 1 to beyond every root, between which the polynomial is monotone.

    The polynomial rises at n where its difference f(n+1) − f(n) is positive; that difference has
    a lower degree, so its changes of sign are found in the same way.
    """
    top = coefficients[-1]
    if len(coefficients) == 1 or not top:
        return [1]
    bound = 2 + math.ceil(max(abs(Fraction(c) / top) for c in coefficients))
    difference = [
        sum(coefficients[k] * math.comb(k, i) for k in range(i + 1, len(coefficients)))
        for i in range(len(coefficients) - 1)
    ]
    turns = _changes(lambda n: _horner(difference, n), _monotone_points(difference))
    return sorted({1, *turns, bound})


def _horner(coefficients: Sequence[Number], point: Number) -> Number:
    value: Number = 0
    for coefficient in reversed(coefficients):
        value = value * point + coefficient
    return value


def _changes(of: Callable[[Number], Number], points: Sequence[int]) -> list[int]:
    """The integers at which the sign is the opposite of the last that was not zero."""
    found: list[int] = []
    sign = 0
    for low, high in itertools.pairwise([points[0], *points]):
        new = _sign(of(high))
        if new and sign and new != sign:
            span = range(low, high + 1)
            found.append(
                span[bisect.bisect_left(span, new * new, key=lambda n: _sign(of(n)) * new)]
            )
        sign = new or sign
    return found


def _root(of: Callable[[Number], Number], size: int) -> float:
    """The real zero between two integers, where the expression has values between them."""
    low, high = Fraction(size - 1), Fraction(size)
    rising = _sign(of(high))
    for _ in range(60):
        middle = (low + high) / 2
        if _sign(of(middle)) == rising:
            high = middle
        else:
            low = middle
    return float(high)
