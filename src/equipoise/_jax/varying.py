"""Over which axes of a mesh an array varies inside of ``jax.shard_map``."""

from collections.abc import Sequence

import jax
from jax import lax

from equipoise._types import Array, PyTree


def _axes(x: Array) -> frozenset[str]:
    kind: PyTree = jax.typeof(x)
    # What is called ``vma`` in older versions is one part of the newer ``mat``.
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma


def alike(arrays: Sequence[Array]) -> list[Array]:
    """The arrays, each varying over all axes that one of them varies over.

    Where one did not, its cotangents are summed over the axis.
    """
    union = frozenset[str]().union(*map(_axes, arrays))
    cast: PyTree = lax.pcast
    return [
        cast(x, tuple(sorted(union - _axes(x))), to="varying") if union - _axes(x) else x
        for x in arrays
    ]
