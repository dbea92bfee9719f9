"""The flat form in which all tools for maps see a map, and its orbits."""

from collections.abc import Callable

import jax
from jax.flatten_util import ravel_pytree

from equipoise._check import floating_tree, same_structure, type_error
from equipoise._types import Array, PyTree


def flat_step(
    fn: Callable[..., PyTree], start: PyTree, *parameters: PyTree
) -> tuple[Callable[..., Array], Array, Callable[[Array], PyTree]]:
    """The map on flat vectors, the flat start, and the way back to the user's structure."""
    if not callable(fn):
        raise type_error("fn", "must be a function z -> z", fn)
    start = floating_tree("start", start)
    same_structure("fn(start)", jax.eval_shape(fn, start, *parameters), start, "start")
    flat, unravel = ravel_pytree(start)
    flat = jax.lax.convert_element_type(flat, flat.dtype)  # no longer weakly typed

    def step(z: Array, *parameters: PyTree) -> Array:
        return ravel_pytree(fn(unravel(z), *parameters))[0].astype(z.dtype)

    return step, flat, unravel


def advance(step: Callable[[Array], Array], z: Array, num_steps: int) -> Array:
    """The state after some steps."""
    return jax.lax.scan(lambda z, _: (step(z), None), z, None, length=num_steps)[0]


def orbit(step: Callable[[Array], Array], z: Array, num_steps: int) -> Array:
    """The next ``num_steps`` states, without the start."""

    def both(z: Array, _: None) -> tuple[Array, Array]:
        z = step(z)
        return z, z

    return jax.lax.scan(both, z, None, length=num_steps)[1]
