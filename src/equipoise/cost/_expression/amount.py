"""Amounts of memory as people write them, and the sizes that stay within them."""

import re
from collections.abc import Callable
from fractions import Fraction

from equipoise._check import type_error, value_error

_FORM = "Write a number of bytes, or an amount such as '80 GB' (10⁹ bytes) or '16 GiB' (2³⁰ bytes)."
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGTP]?)(i?)B\s*")
_LARGEST = 2**62
_PREFIXES = ("", "K", "M", "G", "T", "P")


def amount(argument: str, value: int | str | Fraction) -> int | Fraction:
    """A bound as a number; of a text, the bytes that it means."""
    if isinstance(value, str):
        found = _TEXT.fullmatch(value)
        if found is None or (found[3] and not found[2]):
            raise value_error(argument, "must be an amount of memory", repr(value), _FORM)
        base = 1024 if found[3] else 1000
        return int(Fraction(found[1]) * base ** _PREFIXES.index(found[2].upper()))
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        raise type_error(argument, "must be a number or an amount of memory", value, _FORM)
    return value if isinstance(value, int) else Fraction(value)


def in_bytes(value: int | Fraction) -> str:
    """Bytes in the decimal unit that suits them."""
    size, unit = float(value), 0
    while abs(size) >= 1000 and unit + 1 < len(_PREFIXES):
        size, unit = size / 1000, unit + 1
    return f"{size:.4g} {_PREFIXES[unit].replace('K', 'k')}B"


def last_within(value: Callable[[int], int | Fraction], bound: int | Fraction) -> int:
    """The last size before a growing value exceeds the bound; 0 if the first one does."""
    low, high = 0, 1
    while value(high) <= bound:
        if high >= _LARGEST:
            raise value_error("name", "must be a size that the expression grows with", "no growth")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if value(middle) <= bound else (low, middle)
    return low
