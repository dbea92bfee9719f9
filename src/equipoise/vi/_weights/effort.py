"""How often a fit evaluates its log density, whoever does it."""

import contextlib
import contextvars
from collections.abc import Iterator


class _Effort:
    """Evaluations so far."""

    def __init__(self) -> None:
        self.evaluations = 0


_effort: contextvars.ContextVar[_Effort] = contextvars.ContextVar("effort", default=_Effort())  # noqa: B039


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Counts from 0 inside; decorates a function, or opens a block."""
    token = _effort.set(_Effort())
    try:
        yield
    finally:
        _effort.reset(token)


def evaluated(number: int) -> None:
    """Adds points at which the log density was evaluated, each with a gradient or without.

    Each direction of a second derivative counts as one more.
    """
    _effort.get().evaluations += number


def spent() -> int:
    """Evaluations since the count began."""
    return _effort.get().evaluations
