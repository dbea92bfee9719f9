"""The words that results answer with, each with the sentence that it stands for."""

import enum


class _Word(enum.StrEnum):
    """A string that knows its sentence."""

    sentence: str

    def __new__(cls, word: str, sentence: str) -> "_Word":
        made = str.__new__(cls, word)
        made._value_, made.sentence = word, sentence
        return made


class Larger(_Word):
    """Which of two costs is larger in the end; equal to the string of that name.

    ``sentence`` says it in words.
    """

    A = "a", "The first cost is larger from some size on."
    B = "b", "The second cost is larger from some size on."
    NEITHER = "neither", "Both costs are equal from some size on."


class Pattern(_Word):
    """How output positions read input positions; equal to the string of that name.

    ``sentence`` says it in words.
    """

    NONE = "none", "No output position reads any input position."
    IDENTITY = "identity", "Every position reads itself alone."
    LOWER_TRIANGULAR = "lower triangular", "Every position reads itself and all before it."
    UPPER_TRIANGULAR = "upper triangular", "Every position reads itself and all after it."
    BANDED = "banded", "Every position reads those at all of a range of offsets."
    DILATED = "dilated", "Every position reads those at a set of offsets that is no range."
    ALL_TO_ALL = "all-to-all", "Every position reads every position."
    OTHER = "other", "What a position reads is no matter of offsets alone."
