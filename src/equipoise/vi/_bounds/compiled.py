"""A function that is made anew at each call, as one program that is compiled once."""

from collections.abc import Callable

import jax

from equipoise._jax.traced import Traced, traced
from equipoise._types import PyTree


def compiled(function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """The function's results, by a program that all functions of the same equations share.

    What the function closes over travels as an argument, so other values compile nothing.
    """
    return _run(traced(function, *args), *args)


@jax.jit
def _run(function: Traced, *args: PyTree) -> PyTree:
    return function(*args)
