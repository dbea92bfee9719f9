"""Polynomials as text and as LaTeX, by one walk with two styles."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction

from equipoise.cost._expression.polynomial import Base, Monomial, Number, Polynomial, Power


@dataclasses.dataclass(frozen=True)
class _Style:
    """How products, powers, fractions and functions are written."""

    times: str
    power: Callable[[str, int], str]
    fraction: Callable[[str, str], str]
    name: Callable[[str], str]
    functions: dict[str, Callable[..., str]]


def _call(name: str) -> Callable[..., str]:
    return lambda *arguments: f"{name}({', '.join(arguments)})"


def _latex_name(name: str) -> str:
    head, _, tail = name.partition("_")
    head = head if len(head) == 1 else rf"\mathrm{{{head}}}"
    return rf"{head}_{{\mathrm{{{tail.replace('_', ',')}}}}}" if tail else head


TEXT = _Style(
    times="*",
    power=lambda base, power: f"{base}^{power}",
    fraction=lambda top, bottom: f"{top}/{bottom}",
    name=str,
    functions={
        "floordiv": _call("floordiv"),
        "mod": _call("mod"),
        "max": _call("max"),
        "min": _call("min"),
        "ceil_log2": _call("ceil_log2"),
        "sum": lambda a: f"({a})",
    },
)

_SHOWN = 4  # of what a maximum is taken of, where it is folded


def _folded(name: str) -> Callable[..., str]:
    def write_all(*arguments: str) -> str:
        hidden = len(arguments) - _SHOWN
        more = [f"… {hidden} more"] if hidden > 0 else []
        return _call(name)(*arguments[:_SHOWN], *more)

    return write_all


_FOLDED = dataclasses.replace(
    TEXT, functions=TEXT.functions | {name: _folded(name) for name in ("max", "min")}
)

LATEX = _Style(
    times=r" \, ",
    power=lambda base, power: f"{base}^{{{power}}}",
    fraction=lambda top, bottom: rf"\frac{{{top}}}{{{bottom}}}",
    name=_latex_name,
    functions={
        "floordiv": lambda a, b: rf"\left\lfloor \frac{{{a}}}{{{b}}} \right\rfloor",
        "mod": lambda a, b: rf"\left({a} \bmod {b}\right)",
        "max": lambda *a: rf"\max\left({', '.join(a)}\right)",
        "min": lambda *a: rf"\min\left({', '.join(a)}\right)",
        "ceil_log2": lambda a: rf"\left\lceil \log_2 \left({a}\right) \right\rceil",
        "sum": lambda a: rf"\left({a}\right)",
    },
)


def base_order(item: Power) -> tuple[bool, str]:
    """Names before atoms, each in the order of the alphabet."""
    base = item[0]
    return (not isinstance(base, str), _write_base(base, TEXT))


def in_order(polynomial: Polynomial) -> tuple[tuple[Monomial, Number], ...]:
    """The terms: higher total degree first, then by the names."""
    return tuple(sorted(polynomial.coefficients.items(), key=lambda term: _order(term[0])))


def _order(monomial: Monomial) -> tuple[int, list[tuple[tuple[bool, str], int]]]:
    powers = [(base_order(item), -item[1]) for item in monomial]
    return -sum(power for _, power in monomial), powers


def write(polynomial: Polynomial, style: _Style) -> str:
    """A sum of terms."""
    written = ""
    for monomial, coefficient in in_order(polynomial):
        sign = "-" if coefficient < 0 else "+"
        size = _term(monomial, abs(Fraction(coefficient)), style)
        written += f" {sign} {size}" if written else f"-{size}" if sign == "-" else size
    return written or "0"


def folded(value: object) -> str:
    """A value as text, of an expression's long maxima only the beginning."""
    return write(value, _FOLDED) if isinstance(value, Polynomial) else str(value)


def _write_base(base: Base, style: _Style) -> str:
    """A name or an atom."""
    if isinstance(base, str):
        return style.name(base)
    return style.functions[base.function](*(write(a, style) for a in base.arguments))


def _term(monomial: Monomial, coefficient: Fraction, style: _Style) -> str:
    top = [str(coefficient.numerator)] if coefficient.numerator != 1 else []
    bottom = [str(coefficient.denominator)] if coefficient.denominator != 1 else []
    for base, power in monomial:
        text = _write_base(base, style)
        side = top if power > 0 else bottom
        side.append(text if abs(power) == 1 else style.power(text, abs(power)))
    above = style.times.join(top) or "1"
    if not bottom:
        return above
    below = style.times.join(bottom)
    if style is not LATEX and len(bottom) > 1:
        below = f"({below})"
    return style.fraction(above, below)
