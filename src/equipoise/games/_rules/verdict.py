"""What can be said of play, in words that travel through compiled programs as integers."""

import enum
from typing import Self

import jax
import numpy as np

from equipoise._types import Array


class Word(enum.IntEnum):
    """A number that arrays can hold, with its word and a sentence that says what it means."""

    sentence: str

    def __new__(cls, value: int, sentence: str = "") -> Self:
        """A member from its number and its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    @property
    def word(self) -> str:
        """The name as it is printed in tables."""
        return self.name.lower().replace("_", " ")

    @classmethod
    def said(cls, number: int | Array) -> str:
        """The word and the sentence of a known number; the type or range of any other."""
        if isinstance(number, jax.core.Tracer):
            return str(number.aval)
        if np.ndim(number):
            words = [cls(i).word for i in np.unique(np.asarray(number))]
            return f"array of shape {np.shape(number)}: {', '.join(words) or 'empty'}"
        member = cls(int(number))
        return f"{member.word}: {member.sentence}"


class Verdict(Word):
    """Whether play comes to rest, from the spectrum of the update or from a run.

    The members are integers: compare arrays of verdicts with them, as in
    ``swept.verdict == games.CONVERGES``. Each has a ``word`` and a ``sentence``.

    Attributes:
        CONVERGES: Play comes to rest; the integer −1.
        NEUTRAL: Play neither comes to rest nor leaves; the integer 0.
        DIVERGES: Play leaves; the integer 1.
        UNDEFINED: Something on the way is no number, so nothing can be said; the integer 2.
    """

    CONVERGES = -1, "Play comes to rest."
    NEUTRAL = 0, "Play neither comes to rest nor leaves, as far as rounding lets it be told."
    DIVERGES = 1, "Play leaves."
    UNDEFINED = 2, "Nothing can be said, because something on the way is no number."


#: Verdict: play comes to rest.
CONVERGES = Verdict.CONVERGES
#: Verdict: play neither comes to rest nor leaves.
NEUTRAL = Verdict.NEUTRAL
#: Verdict: play leaves.
DIVERGES = Verdict.DIVERGES
#: Verdict: nothing can be said, because something on the way is no number.
UNDEFINED = Verdict.UNDEFINED
