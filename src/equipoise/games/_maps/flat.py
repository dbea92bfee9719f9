"""Maps as arguments of compiled functions, in the flat form that all tools see; their orbits."""

from collections.abc import Callable
from typing import TypeAlias

import jax
from jax.flatten_util import ravel_pytree

from equipoise._check import same_structure, type_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree

Map: TypeAlias = Callable[[PyTree], PyTree]
# More steps in all take longer than to compile the map's numbers in.
LONG = 10**8


def known_map(
    fn: Callable[..., PyTree], start: PyTree, *parameters: PyTree, is_long: bool = False
) -> Traced:
    """The map, checked: what it closes over is data, its Python numbers only in short runs."""
    if not callable(fn):
        raise type_error("fn", "must be a function z -> z", fn)
    found = traced(fn, start, *parameters, kept=lambda number: is_long)
    same_structure("fn(start)", jax.eval_shape(found, start, *parameters), start, "start")
    return found


def flat_step(
    fn: Callable[..., PyTree], start: PyTree
) -> tuple[Callable[..., Array], Array, Callable[[Array], PyTree]]:
    """The map on flat vectors, the flat start, and the way back to the user's structure."""
    flat, unravel = ravel_pytree(start)

    def step(z: Array, *parameters: PyTree) -> Array:
        return ravel_pytree(fn(unravel(z), *parameters))[0].astype(z.dtype)

    return step, flat, unravel


def count(tree: PyTree) -> int:
    """How many numbers a pytree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def advance(step: Callable[[Array], Array], z: Array, num_steps: int) -> Array:
    """The state after some steps."""
    return jax.lax.scan(lambda z, _: (step(z), None), z, None, length=num_steps)[0]


def orbit(step: Callable[[Array], Array], z: Array, num_steps: int) -> Array:
    """The next ``num_steps`` states, without the start."""

    def both(z: Array, _: None) -> tuple[Array, Array]:
        z = step(z)
        return z, z

    return jax.lax.scan(both, z, None, length=num_steps)[1]
