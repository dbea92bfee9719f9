"""A value that is found when it is first asked for, as it would have been found at once."""

import functools
from collections.abc import Callable
from typing import Generic, TypeVar

import jax

from equipoise._types import PyTree

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Later(Generic[_T_co]):
    """What a function returns, under the precision and promotion of the moment it was given.

    A derivative takes longer to trace than all else that is counted, and few ask for that of a
    whole training step.
    """

    def __init__(self, find: Callable[[], _T_co]) -> None:
        config: PyTree = jax.config
        self._find = find
        self._config = config.jax_enable_x64, config.jax_numpy_dtype_promotion

    @functools.cached_property
    def found(self) -> _T_co:
        """The value."""
        precision, promotion = self._config
        with jax.enable_x64(precision), jax.numpy_dtype_promotion(promotion):
            return self._find()

    def __reduce__(self) -> tuple[object, ...]:
        return (known, (self.found,))


def known(value: _T) -> Later[_T]:
    """A value that was found with something else."""
    return Later(lambda: value)
