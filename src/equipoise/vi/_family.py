"""What every family offers, and how a distribution of a flat vector becomes one of a pytree."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check_old import describe, positive_integer, type_error, value_error
from equipoise._types import Array, PyTree, Scalar, result, static_field
from equipoise.vi._draws import independent
from equipoise.vi._support import REAL, Support, match


@result
class Family:
    """A set of distributions of one position, a pytree, indexed by ``params``.

    Positions live on their support; *flat* vectors live on all of R^dimension, and ``unravel``
    maps one onto the other. Every function takes one position or one vector; use ``jax.vmap``
    for more. A family of your own needs ``sample`` and ``log_prob`` alone; it then has no
    pathwise gradient. There are no leaves: a family passes through ``jit`` as it is.

    Attributes:
        name: What the family is called in messages.
        init: ``init(key=None, *, position=None, scale=1.0)`` gives params centered at ``position``
            (default: where the flat vector is 0) with standard deviation ``scale``, a number or
            one for each flat coordinate, in flat units.
        sample: ``sample(params, key, num_samples)`` gives positions with a leading axis.
        log_prob: ``log_prob(params, position)``, exact; −inf outside the support.
        entropy: ``entropy(params)`` where it has a closed form; raises ValueError where not.
        dimension: Number of flat coordinates.
        noise_size: Number of standard normal variates that make one draw.
        transform: ``transform(params, noise)`` maps ``noise_size`` standard normal variates to a
            position, differentiably; None when the family has no such map.
        transform_flat: The same, up to the flat vector.
        log_prob_flat: Log density of the flat vector.
        entropy_term: ``entropy_term(params, noise)``, whose mean over the noise is the entropy of
            the flat vector; constant in the noise where the entropy is closed.
        ravel: From a position to its flat vector.
        unravel: From a flat vector to its position.
        log_volume: Log of the volume factor of ``unravel`` at a flat vector, 0 without supports.
        flat_entropy: Entropy of the flat vector where it is closed, otherwise None.
        moments: For families that are normal in the flat vector, ``moments(params)`` gives its
            mean and a factor S of its covariance S Sᵀ, a vector where S is diagonal; else None.
        positions: Structure, shapes and supports of a position.
    """

    name: str = static_field()
    init: Callable[..., Any] = static_field()
    sample: Callable[..., Any] = static_field()
    log_prob: Callable[..., Any] = static_field()
    entropy: Any = static_field(default=None)
    dimension: Any = static_field(default=None)
    noise_size: Any = static_field(default=None)
    transform: Any = static_field(default=None)
    transform_flat: Any = static_field(default=None)
    log_prob_flat: Any = static_field(default=None)
    entropy_term: Any = static_field(default=None)
    ravel: Any = static_field(default=None)
    unravel: Any = static_field(default=None)
    log_volume: Any = static_field(default=None)
    flat_entropy: Any = static_field(default=None)
    moments: Any = static_field(default=None)
    positions: Any = static_field(default=None)

    def __str__(self) -> str:
        return f"{self.name}, {self.dimension} coordinates"


class Layout(NamedTuple):
    """The shapes and supports of a position; hashable, so equal examples give the same family."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
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
    def dtype(self) -> Any:
        """The widest dtype of the leaves, that of the flat vector."""
        widest = self.dtypes[0]
        with jax.numpy_dtype_promotion("standard"):
            for dtype in self.dtypes[1:]:
                widest = jnp.promote_types(widest, dtype)
        return available(widest)


def available(dtype: Any) -> Any:
    """The dtype, or float32 in place of float64 where that is switched off."""
    narrow = dtype == np.float64 and not jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return jnp.dtype(np.float32 if narrow else dtype)


def layout(where: str, example: Any, support: Any) -> Layout:
    """Structure, shapes and dtypes of the example, whose leaves must be floating-point."""
    paths, structure = jax.tree_util.tree_flatten_with_path(example)
    if not paths:
        raise value_error(where, "example", "must have at least one array leaf", "an empty pytree")
    leaves = []
    for path, leaf in paths:
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            name = "example" + jax.tree_util.keystr(path)
            raise type_error(
                where,
                name,
                "must be floating-point",
                describe(array),
                "Densities are of real numbers; sum a discrete variable out of the log density.",
            )
        leaves.append(array)
    return Layout(
        structure,
        tuple(tuple(leaf.shape) for leaf in leaves),
        tuple(jnp.dtype(leaf.dtype) for leaf in leaves),
        match(where, jax.tree.unflatten(structure, leaves), support),
    )


def check_params(where: str, init: Callable[..., Any], params: Any) -> None:
    """Raises where the params do not have the structure and shapes that ``init`` gives."""
    expected = jax.eval_shape(lambda: init(jax.random.key(0)))

    def outline(tree: Any) -> str:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
        return f"{jax.tree.structure(tree)} with shapes {shapes}"

    if outline(params) != outline(expected):
        raise value_error(
            where,
            "params",
            f"must look like those of family.init, {outline(expected)}",
            outline(params),
            "Several params go through jax.vmap.",
        )


class Core(NamedTuple):
    """A family of flat vectors; the functions are as in :class:`Family`."""

    name: str
    dimension: int
    noise_size: int
    init: Callable[..., Any]
    transform: Callable[[Any, Array], Array]
    log_prob: Callable[[Any, Array], Scalar]
    entropy_term: Callable[[Any, Array], Scalar]
    entropy: Callable[[Any], Scalar] | None = None
    moments: Callable[[Any], tuple[Array, Array]] | None = None


def assemble(core: Core, shape: Layout) -> Family:
    """The family of positions whose flat vectors have the distribution ``core``."""
    where, d = f"vi.{core.name}", core.dimension
    flat_shapes, supports = shape.flat_shapes, shape.supports
    splits = np.cumsum([math.prod(s) for s in flat_shapes])[:-1].tolist()

    def free(flat: Array) -> list[Array]:
        parts = jnp.split(flat, splits)
        return [part.reshape(s) for part, s in zip(parts, flat_shapes, strict=True)]

    def unravel(flat: Array) -> PyTree:
        leaves = [
            support.forward(u).astype(available(dtype))
            for support, u, dtype in zip(supports, free(flat), shape.dtypes, strict=True)
        ]
        return jax.tree.unflatten(shape.structure, leaves)

    def checked(position: PyTree) -> list[Array]:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(position)]
        if jax.tree.structure(position) != shape.structure or (
            [leaf.shape for leaf in leaves] != list(shape.shapes)
        ):
            raise value_error(
                where,
                "position",
                f"must look like the example, {shape.structure} with shapes {shape.shapes}",
                f"{jax.tree.structure(position)} with shapes {[leaf.shape for leaf in leaves]}",
                "Several positions go through jax.vmap.",
            )
        return [leaf.astype(shape.dtype) for leaf in leaves]

    def join(leaves: list[Array]) -> Array:
        return jnp.concatenate(
            [support.inverse(x).ravel() for support, x in zip(supports, leaves, strict=True)]
        )

    def ravel(position: PyTree) -> Array:
        return join(checked(position))

    def log_volume(flat: Array) -> Scalar:
        terms = [support.log_volume(u) for support, u in zip(supports, free(flat), strict=True)]
        return sum(terms, start=jnp.zeros((), flat.dtype))

    def init(key: Any = None, *, position: PyTree = None, scale: Any = 1.0) -> Any:
        center = jnp.zeros(d, shape.dtype) if position is None else ravel(position)
        return core.init(key, center, jnp.asarray(scale, shape.dtype))

    def transform(params: Any, noise: Array) -> PyTree:
        return unravel(core.transform(params, noise))

    def sample(params: Any, key: Any, num_samples: int) -> PyTree:
        check_params(where, init, params)
        positive_integer(where, "num_samples", num_samples)
        noise = independent(key, num_samples, core.noise_size, shape.dtype)
        return jax.vmap(transform, in_axes=(None, 0))(params, noise)

    def log_prob(params: Any, position: PyTree) -> Scalar:
        check_params(where, init, params)
        leaves = checked(position)
        inside = jnp.stack([s.contains(x) for s, x in zip(supports, leaves, strict=True)]).all()
        # The inverse outside its set is nan, which would reach the gradient through `where`.
        anywhere = [
            s.forward(u) for s, u in zip(supports, free(jnp.zeros(d, shape.dtype)), strict=True)
        ]
        safe = [jnp.where(inside, x, y) for x, y in zip(leaves, anywhere, strict=True)]
        flat = join(safe)
        return jnp.where(inside, core.log_prob(params, flat) - log_volume(flat), -jnp.inf)

    def entropy(params: Any) -> Scalar:
        bent = [s.name for s in supports if s is not REAL]
        if core.entropy is None or bent:
            raise value_error(
                where,
                "entropy",
                "must have a closed form",
                f"{core.name} on {', '.join(bent)}" if bent else core.name,
                "Estimate it: vi.elbo of a log density that is 0 everywhere is the entropy.",
            )
        return core.entropy(params)

    return Family(
        name=core.name,
        init=init,
        sample=sample,
        log_prob=log_prob,
        entropy=entropy,
        dimension=d,
        noise_size=core.noise_size,
        transform=transform,
        transform_flat=core.transform,
        log_prob_flat=core.log_prob,
        entropy_term=core.entropy_term,
        ravel=ravel,
        unravel=unravel,
        log_volume=log_volume,
        flat_entropy=core.entropy,
        moments=core.moments,
        positions=shape,
    )
