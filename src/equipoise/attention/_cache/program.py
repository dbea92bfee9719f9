"""A function of arrays and options as one program, where it is called on values as elsewhere."""

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from equipoise._types import Array, PyTree
from equipoise.attention._kernel.mesh import portable

_F = TypeVar("_F", bound=Callable[..., PyTree])


def one_program(function: _F) -> _F:
    """The function compiled for its arrays; whatever else it is given is part of the program.

    Functions of scores and pairs go in as programs and the arrays that they captured, so one that
    computes as an earlier one is not compiled anew.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: PyTree, **options: PyTree) -> PyTree:
        arguments = signature.bind(*args, **options).arguments
        given = portable(arguments)
        leaves, structure = jax.tree.flatten(given)
        moving = [isinstance(x, (jax.Array, np.ndarray)) for x in leaves]
        fixed = tuple(None if moves else x for x, moves in zip(leaves, moving, strict=True))
        arrays = [x for x, moves in zip(leaves, moving, strict=True) if moves]
        return _run(function, structure, fixed, tuple(moving), arrays)

    return call  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), inline=True)
def _run(
    function: Callable[..., PyTree],
    structure: PyTree,
    fixed: tuple[PyTree, ...],
    moving: tuple[bool, ...],
    arrays: list[Array],
) -> PyTree:
    left = iter(arrays)
    leaves = [next(left) if moves else x for x, moves in zip(fixed, moving, strict=True)]
    return function(**jax.tree.unflatten(structure, leaves))
