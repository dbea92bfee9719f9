"""Modules as arguments: what they hold beside arrays is closed over, and left out of results."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from equipoise._types import PyTree

_CONTAINERS = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)


def closed_over(
    fn: Callable[..., PyTree], args: tuple[PyTree, ...]
) -> tuple[Callable[..., PyTree], tuple[PyTree, ...]]:
    """A function of the arrays alone, and the arguments with None for all else in modules."""
    fixed, given = _divided(args)
    if not jax.tree.leaves(fixed):
        return fn, args

    def of_arrays(*arrays: PyTree) -> PyTree:
        whole = jax.tree.map(
            lambda a, b: b if a is None else a, fixed, arrays, is_leaf=lambda leaf: leaf is None
        )
        return _divided(fn(*whole))[1]

    return of_arrays, given


def _divided(tree: PyTree) -> tuple[PyTree, PyTree]:
    """What is fixed, and what is not: two trees, with None where the other has a leaf."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    fixed = [_is_fixed(path, leaf) for path, leaf in leaves]
    pairs = [(x, None) if f else (None, x) for (_, x), f in zip(leaves, fixed, strict=True)]
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    return jax.tree.unflatten(structure, first), jax.tree.unflatten(structure, second)


def _is_fixed(path: Sequence[Any], leaf: object) -> bool:
    """Whether a leaf is an attribute that is no array, nor the text of a shape."""
    if all(isinstance(key, _CONTAINERS) for key in path):
        return False
    if isinstance(leaf, str):
        return "[" not in leaf
    return np.isscalar(leaf) or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))
