"""The leaves of an optimizer's state: those that move apart from the others, and together again."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PyTree

# A gradient whose square is nothing beside any ε of an optimizer, yet no float32 zero: at 0 itself
# norms have no derivative.
NEARLY_ZERO = 1e-17


def split(state: PyTree, moves: Sequence[bool]) -> tuple[list[Array], list[Array]]:
    """The leaves of a state that move, and the others."""
    leaves = jax.tree.leaves(state)
    moving = [leaf for leaf, m in zip(leaves, moves, strict=True) if m]
    return moving, [leaf for leaf, m in zip(leaves, moves, strict=True) if not m]


def joined(
    moving: Sequence[Array], others: Sequence[Array], moves: Sequence[bool], like: PyTree
) -> PyTree:
    """The state of which these are the two parts."""
    a, b = iter(moving), iter(others)
    return jax.tree.unflatten(jax.tree.structure(like), [next(a if m else b) for m in moves])


def is_float(leaf: Array) -> bool:
    """Whether it is an array of real numbers."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def is_whole(leaf: Array) -> bool:
    """Whether it counts, or is a flag; keys of random numbers do neither."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.integer)) or leaf.dtype == bool


def wide(dtype: np.dtype) -> np.dtype:
    """The dtype, float32 at least."""
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def lifted(leaf: Array) -> Array:
    """The leaf with its zeros a hair above zero, where roots have derivatives."""
    if not is_float(leaf):
        return leaf
    least = jnp.asarray(100 * NEARLY_ZERO**2, leaf.dtype)
    return jnp.where(jnp.abs(leaf) < least, least, leaf)
