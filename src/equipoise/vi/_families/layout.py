"""Shapes and supports of a position, and the maps between positions and flat vectors."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import describe, type_error, value_error
from equipoise._types import Array, Bool, PyTree, Scalar
from equipoise.vi._supports.support import Support, match


class Layout(NamedTuple):
    """The shapes and supports of a position; hashable, so equal examples give the same family."""

    structure: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]
    supports: tuple[Support, ...]

    @property
    def flat_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the free numbers of every leaf."""
        return [
            support.flat_shape(shape)
            for support, shape in zip(self.supports, self.shapes, strict=True)
        ]

    @property
    def size(self) -> int:
        """Number of flat coordinates."""
        return sum(math.prod(shape) for shape in self.flat_shapes)

    @property
    def dtype(self) -> np.dtype:
        """The widest dtype of the leaves, that of the flat vector."""
        widest = self.dtypes[0]
        with jax.numpy_dtype_promotion("standard"):
            for dtype in self.dtypes[1:]:
                widest = jnp.promote_types(widest, dtype)
        return _available(widest)

    @property
    def abstract(self) -> PyTree:
        """Shapes and dtypes of a position."""
        structure: Callable[..., PyTree] = jax.ShapeDtypeStruct  # it is left untyped
        pairs = zip(self.shapes, self.dtypes, strict=True)
        leaves = [structure(shape, _available(dtype)) for shape, dtype in pairs]
        return jax.tree.unflatten(self.structure, leaves)

    def unravel(self, flat: Array) -> PyTree:
        """The position of a flat vector."""
        return self.position(self.free(flat))

    def position(self, parts: list[Array]) -> PyTree:
        """The position of the free numbers of every leaf."""
        leaves = [
            support.forward(u).astype(_available(dtype))
            for support, u, dtype in zip(self.supports, parts, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def ravel(self, position: PyTree) -> Array:
        """The flat vector of a position."""
        return self.join(self.leaves(position))

    def path(self, index: int) -> str:
        """Where in the example a flat coordinate is, as in ``['theta'][3]``.

        Where a support has fewer free numbers than entries, the coordinate is one of them.
        """
        ends = np.cumsum([math.prod(shape) for shape in self.flat_shapes])
        leaf = int(np.searchsorted(ends, index, side="right"))
        shape = self.flat_shapes[leaf]
        within = np.unravel_index(index - int(ends[leaf]) + math.prod(shape), shape)
        name = self._leaf_names[leaf]
        if shape != self.shapes[leaf]:
            return f"free number {_listed(within)} of {name}"
        return _entry(name, within)

    @property
    def names(self) -> tuple[str, ...]:
        """Where in the example each of its numbers is, in the order of its leaves."""
        pairs = zip(self._leaf_names, self.shapes, strict=True)
        return tuple(_entry(name, at) for name, shape in pairs for at in np.ndindex(shape))

    @property
    def _leaf_names(self) -> list[str]:
        tree = jax.tree.unflatten(self.structure, range(self.structure.num_leaves))
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        return [jax.tree_util.keystr(path) or "position" for path in paths]

    def log_volume(self, flat: Array) -> Scalar:
        """Log of the volume factor of ``unravel``."""
        return self.volume(self.free(flat))

    def volume(self, parts: list[Array]) -> Scalar:
        """The same of the free numbers of every leaf."""
        pairs = zip(self.supports, parts, strict=True)
        return sum((support.log_volume(u) for support, u in pairs), jnp.zeros((), self.dtype))

    def free(self, flat: Array) -> list[Array]:
        """The free numbers of every leaf."""
        sizes = [math.prod(shape) for shape in self.flat_shapes]
        parts = jnp.split(flat, np.cumsum(sizes)[:-1].tolist())
        return [part.reshape(s) for part, s in zip(parts, self.flat_shapes, strict=True)]

    def join(self, leaves: list[Array]) -> Array:
        """The flat vector of the leaves of a position."""
        pairs = zip(self.supports, leaves, strict=True)
        return jnp.concatenate([support.inverse(x).ravel() for support, x in pairs])

    def leaves(self, position: PyTree) -> list[Array]:
        """The leaves of a position that looks like the example, in the dtype of flat vectors."""
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(position)]
        shapes = [leaf.shape for leaf in leaves]
        if jax.tree.structure(position) != self.structure or shapes != list(self.shapes):
            raise value_error(
                "position",
                f"must look like the example, {self.structure} with shapes {self.shapes}",
                f"{jax.tree.structure(position)} with shapes {shapes}",
                "Several positions go through jax.vmap.",
            )
        return [leaf.astype(self.dtype) for leaf in leaves]

    def inside(self, position: PyTree) -> tuple[Bool[Array, ""], Array]:
        """Whether a position lies on its support; and its flat vector, that of 0 where not."""
        leaves = self.leaves(position)
        contained = [s.contains(x) for s, x in zip(self.supports, leaves, strict=True)]
        inside = jnp.stack(contained).all()
        # The inverse outside its set is nan, which would reach the gradient through `where`.
        free = self.free(jnp.zeros(self.size, self.dtype))
        anywhere = [s.forward(u) for s, u in zip(self.supports, free, strict=True)]
        safe = [jnp.where(inside, x, y) for x, y in zip(leaves, anywhere, strict=True)]
        return inside, self.join(safe)


def _listed(within: Sequence[int | np.integer]) -> str:
    return ", ".join(map(str, within))


def _entry(name: str, within: Sequence[int | np.integer]) -> str:
    return f"{name}[{_listed(within)}]" if within else name


def layout(example: PyTree, support: PyTree | Support | None) -> Layout:
    """Structure, shapes and dtypes of the example, whose leaves must be floating-point."""
    paths, structure = jax.tree_util.tree_flatten_with_path(example)
    if not paths:
        raise value_error("example", "must have at least one array leaf", "an empty pytree")
    leaves = []
    for path, leaf in paths:
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise type_error(
                "example" + jax.tree_util.keystr(path),
                "must be floating-point",
                describe(array),
                "Densities are of real numbers; sum a discrete variable out of the log density.",
            )
        leaves.append(array)
    return Layout(
        structure,
        tuple(tuple(leaf.shape) for leaf in leaves),
        tuple(jnp.dtype(leaf.dtype) for leaf in leaves),
        match(jax.tree.unflatten(structure, leaves), support),
    )


def _available(dtype: np.dtype) -> np.dtype:
    """The dtype, or float32 in place of float64 where that is switched off."""
    narrow = dtype == np.float64 and not jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return jnp.dtype(np.float32 if narrow else dtype)
