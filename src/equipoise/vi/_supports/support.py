"""A support is a smooth one-to-one map of R^n onto the set where a leaf lives."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import value_error
from equipoise._types import Array, PyTree


class Support(NamedTuple):
    """A map of free numbers onto a set, with its log-determinant; on one leaf.

    A support of your own is these six fields; make it once, since two supports are equal when
    their functions are.

    Attributes:
        name: What it is called in messages.
        flat_shape: From the shape of the leaf to that of its free numbers; raises ValueError with
            what the support needs where the shape does not fit.
        forward: From the free numbers to the leaf.
        inverse: From the leaf to the free numbers.
        log_volume: Log of the volume factor of ``forward`` at the free numbers, summed over all.
        contains: Whether a leaf lies in the set, up to rounding; one boolean.
    """

    name: str
    flat_shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    log_volume: Callable[[Array], Array]
    contains: Callable[[Array], Array]


def same_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The free numbers of a support that acts entry by entry."""
    return shape


REAL = Support(
    "real",
    same_shape,
    lambda u: u,
    lambda x: x,
    lambda u: jnp.zeros((), u.dtype),
    lambda x: jnp.all(jnp.isfinite(x)),
)


def match(example: PyTree, support: PyTree | Support | None) -> tuple[Support, ...]:
    """One support for each leaf of the example, in the order of its leaves."""
    paths, structure = jax.tree_util.tree_flatten_with_path(example)
    if support is None or isinstance(support, Support):
        supports = [support or REAL] * len(paths)
    else:
        supports, given = jax.tree.flatten(support, is_leaf=lambda s: isinstance(s, Support))
        if given != structure:  # type: ignore[operator]
            raise value_error(
                "support",
                f"must be one support or have the structure of `example`, {structure}",
                str(given),
                "Leaves without bounds are vi.real().",
            )
    for (path, leaf), one in zip(paths, supports, strict=True):
        name = jax.tree_util.keystr(path)
        if not isinstance(one, Support):
            raise value_error(f"support{name}", "must be a support", one, "Call it: vi.positive().")
        try:
            one.flat_shape(jnp.shape(leaf))
        except ValueError as error:
            raise value_error(
                f"example{name}", f"must fit vi.{one.name}: {error}", str(jnp.shape(leaf))
            ) from None
    return tuple(supports)
