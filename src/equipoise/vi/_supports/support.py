"""A support is a smooth one-to-one map of R^n onto the set where a leaf lives."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import value_error
from equipoise._types import Array, PyTree


class Support(NamedTuple):
    """A map of free numbers onto a set, with its log-determinant; on one leaf.

    A support of your own is the first six fields; make it once, since two supports are equal when
    their functions are.

    Attributes:
        name: What it is called in messages.
        flat_shape: From the shape of the leaf to that of its free numbers; raises ValueError with
            what the support needs where the shape does not fit.
        forward: From the free numbers to the leaf.
        inverse: From the leaf to the free numbers.
        log_volume: Log of the volume factor of ``forward`` at the free numbers, summed over all.
        contains: Whether a leaf lies in the set, up to rounding; one boolean.
        recipe: A function and its arguments that make the same support, for pickle; else None.
    """

    name: str
    flat_shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    log_volume: Callable[[Array], Array]
    contains: Callable[[Array], Array]
    recipe: PyTree = None

    def __repr__(self) -> str:
        """The name."""
        return f"Support {self.name}"

    def __reduce__(self) -> tuple[Callable[..., "Support"], tuple[PyTree, ...]]:
        # As of a family: unless it was changed, it is made again.
        if self.recipe is not None and self.recipe[0](*self.recipe[1]) == self:
            return self.recipe[0], self.recipe[1]
        return Support, tuple(self)


def same_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The free numbers of a support that acts entry by entry."""
    return shape


def _real() -> Support:
    return REAL


REAL = Support(
    "real",
    same_shape,
    lambda u: u,
    lambda x: x,
    lambda u: jnp.zeros((), u.dtype),
    lambda x: jnp.all(jnp.isfinite(x)),
    (_real, ()),
)


def match(example: PyTree, support: PyTree | Support | None) -> tuple[Support, ...]:
    """One support for each leaf of the example, in the order of its leaves.

    A support stands for all leaves below its place; leaves without one are real.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(example)
    given = jax.tree_util.tree_leaves_with_path(support, is_leaf=lambda s: isinstance(s, Support))
    found = [REAL] * len(leaves)
    for place, one in given:
        name = jax.tree_util.keystr(place)
        below = [i for i, (path, _) in enumerate(leaves) if path[: len(place)] == place]
        if not below:
            raise value_error(
                "support",
                f"must be one support or have the structure of `example`, {structure}, or a part",
                f"{one.name if isinstance(one, Support) else one} at {name}",
                "Leaves that are left out are real.",
            )
        if not isinstance(one, Support):
            raise value_error(f"support{name}", "must be a support", one, "Call it: vi.positive().")
        for i in below:
            found[i] = one
    for (path, leaf), one in zip(leaves, found, strict=True):
        try:
            one.flat_shape(jnp.shape(leaf))
        except ValueError as error:
            name = jax.tree_util.keystr(path)
            raise value_error(
                f"example{name}", f"must fit vi.{one.name}: {error}", str(jnp.shape(leaf))
            ) from None
    return tuple(found)
