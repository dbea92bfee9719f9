"""What a family offers, and what the library adds to one that a user makes of three functions."""

import dataclasses
import enum
import functools
import inspect
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from equipoise._check import type_error, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, record, static_field
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._supports.support import Support

Params: TypeAlias = PyTree
_Init: TypeAlias = Callable[..., Params]
Moments: TypeAlias = Callable[[Params], tuple[Array, Array]]
_FromMoments: TypeAlias = Callable[[Array, Array], Params]
InitAtModes: TypeAlias = Callable[[PRNGKeyArray, Array, Array], Params]


ABSENT: PyTree = None  # of what not every family has


class Natural(enum.Enum):
    """Which precision matrices a family of normals that takes natural-gradient steps can have."""

    FULL = "any"
    DIAGONAL = "diagonal ones"


@record
class Family:
    """A set of distributions of one position, a pytree, indexed by ``params``.

    A family of your own needs the first four fields. The next five say what else it can do; a fit
    does without those that are not given, or an error names what is missing. The library fills in
    the rest, which no user needs to give. Make a family once: two are equal when their functions
    are.

    Positions live on their support; *flat* vectors live on all of R^dimension, and ``unravel``
    maps one onto the other. Every function takes one position or one vector; use ``jax.vmap``
    for more. There are no leaves: a family passes through ``jit`` as it is.

    Attributes:
        name: What the family is called in messages.
        init: ``init(key)`` gives params. One that also takes ``position=`` and ``scale=`` centers
            q at the position, with that standard deviation, a number or one for each flat
            coordinate, in flat units; ours do. A fit then starts at the best local normal, and
            otherwise at ``init(key)``.
        sample: ``sample(params, key, num_samples)`` gives positions with a leading axis.
        log_prob: ``log_prob(params, position)``, exact; −inf outside the support.
        transform: ``transform(params, noise)`` maps ``noise_size`` standard normal variates to a
            position with the distribution of ``sample``, differentiably; None when the family has
            no such map. Gradients are then those of the score function.
        noise_size: Number of standard normal variates that make one draw. Default: dimension.
        entropy: ``entropy(params)`` where it has a closed form; ours raise ValueError where not.
        support: Where positions live: one support for all leaves, or a tuple with one for each, in
            the order of ``jax.tree.leaves``. Default: all reals.
        takes_factor: Whether the ``scale`` of ``init`` may be a lower triangular factor of the
            covariance.
        dimension: Number of flat coordinates.
        positions: Structure, shapes and supports of a position.
        ravel: From a position to its flat vector.
        unravel: From a flat vector to its position.
        log_volume: Log of the volume factor of ``unravel`` at a flat vector, 0 without supports.
        transform_flat: ``transform`` up to the flat vector.
        log_prob_flat: Log density of the flat vector.
        entropy_term: ``entropy_term(params, noise)``, whose mean over the noise is the entropy of
            the flat vector; constant in the noise where the entropy is closed.
        flat_entropy: Entropy of the flat vector where it is closed, otherwise None.
        moments: For families that are normal in the flat vector, ``moments(params)`` gives its
            mean and a factor S of its covariance S Sᵀ, a vector where S is diagonal; else None.
        from_moments: The params of the normal with such a mean and factor, where a fit takes
            natural-gradient steps; else None.
        natural: Which precisions those steps go through, or None.
        init_at_modes: ``init_at_modes(key, means, sds)`` gives params that cover several normals,
            one per row, of flat vectors; None where there is one center.
        placed: Whether ``init`` takes a position and a scale.
        recipe: A function and its arguments that make the same family, for pickle; else None.
    """

    name: str = static_field()
    init: _Init = static_field()
    sample: Callable[[Params, PRNGKeyArray, int], PyTree] = static_field()
    log_prob: Callable[[Params, PyTree], Scalar] = static_field()
    # What else the family can.
    transform: Callable[[Params, Array], PyTree] | None = static_field(default=None)
    noise_size: int = static_field(default=None)
    entropy: Callable[[Params], Scalar] | None = static_field(default=None)
    support: Support | tuple[Support, ...] | None = static_field(default=None)
    takes_factor: bool = static_field(default=False)
    # What the library fills in. `None` says that there is no such thing, or not yet.
    dimension: int = static_field(default=None)
    positions: Layout = static_field(default=None)
    ravel: Callable[[PyTree], Array] = static_field(default=None)
    unravel: Callable[[Array], PyTree] = static_field(default=None)
    log_volume: Callable[[Array], Scalar] = static_field(default=None)
    transform_flat: Callable[[Params, Array], Array] = static_field(default=None)
    log_prob_flat: Callable[[Params, Array], Scalar] = static_field(default=None)
    entropy_term: Callable[[Params, Array], Scalar] = static_field(default=None)
    flat_entropy: Callable[[Params], Scalar] = static_field(default=None)
    moments: Moments = static_field(default=None)
    from_moments: _FromMoments = static_field(default=None)
    natural: Natural | None = static_field(default=None)
    init_at_modes: InitAtModes | None = static_field(default=None)
    placed: bool = static_field(default=False)
    recipe: tuple[Callable[..., "Family"], tuple[PyTree, ...]] | None = static_field(default=None)

    def __reduce__(self) -> tuple[Callable[..., "Family"], tuple[PyTree, ...]]:
        # Closures fit into no file: unless the family was changed since, it is made again.
        if self.recipe is not None and self.recipe[0](*self.recipe[1]) == self:
            return self.recipe
        return Family, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __str__(self) -> str:
        return self.name if self.dimension is None else f"{self.name}, {self.dimension} coordinates"

    __repr__ = __str__


# One program where it is called by itself; inside of a program it leaves no trace.
one_program = functools.partial(jax.jit, inline=True)


def check_params(family: Family, params: Params) -> None:
    """Raises where the params do not have the structure and shapes that ``init`` gives."""
    expected = jax.eval_shape(lambda: family.init(jax.random.key(0)))

    def outline(tree: PyTree) -> str:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
        return f"{jax.tree.structure(tree)} with shapes {shapes}"

    if outline(params) != outline(expected):
        raise value_error(
            "params",
            f"must look like those of family.init, {outline(expected)}",
            outline(params),
            "Several params go through jax.vmap.",
        )


def remembered(make: Callable[..., Family]) -> Callable[..., Family]:
    """Makes one family for equal arguments, which knows how it was made."""

    @functools.lru_cache(maxsize=256)
    @functools.wraps(make)
    def made(*arguments: PyTree) -> Family:
        return dataclasses.replace(make(*arguments), recipe=(made, arguments))

    return made


def check_family(argument: str, family: Family) -> None:
    """Raises where something else comes, such as the function that makes a family."""
    if not isinstance(family, Family):
        name = getattr(family, "__name__", "full_rank").replace("<lambda>", "full_rank")
        raise type_error(
            argument, "must be a Family", family, f"Make it of an example: vi.{name}(example)."
        )


def completed(family: Family) -> Family:
    """The family with what a user's own leaves to the library, in the flat space of its support.

    A family of discrete positions has no flat space, and stays as it is.
    """
    check_family("family", family)
    wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    return family if family.positions is not None else _completed(family, wide)


@remembered
def _completed(family: Family, wide: bool) -> Family:  # noqa: FBT001
    # `wide` is read by the cache alone: the dtype of draws depends on it.

    def draw() -> PyTree:
        key = jax.random.key(0)
        return family.sample(family.init(key), key, 1)

    drawn = jax.eval_shape(draw)
    example = jax.eval_shape(lambda drawn: jax.tree.map(lambda leaf: leaf[0], drawn), drawn)
    leaves, structure = jax.tree.flatten(example)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        return family
    support = family.support
    if isinstance(support, tuple) and not isinstance(support, Support):
        if len(support) != len(leaves):
            raise value_error("family.support", f"must have {len(leaves)} supports", len(support))
        support = jax.tree.unflatten(structure, support)
    shape = layout(example, support)
    transform: PyTree = family.transform
    entropy = family.entropy

    def log_prob_flat(params: Params, flat: Array) -> Scalar:
        return family.log_prob(params, shape.unravel(flat)) + shape.log_volume(flat)

    def transform_flat(params: Params, noise: Array) -> Array:
        return shape.ravel(transform(params, noise))

    def entropy_term(params: Params, noise: Array) -> Scalar:
        flat = transform_flat(params, noise)
        if entropy is None:
            return -log_prob_flat(params, flat)
        return entropy(params) - shape.log_volume(flat)

    path = transform is not None
    takes = inspect.signature(family.init).parameters
    return dataclasses.replace(
        family,
        noise_size=family.noise_size or shape.size,
        dimension=shape.size,
        positions=shape,
        ravel=one_program(shape.ravel),
        unravel=one_program(shape.unravel),
        log_volume=one_program(shape.log_volume),
        transform_flat=transform_flat if path else ABSENT,
        log_prob_flat=log_prob_flat,
        entropy_term=entropy_term if path else ABSENT,
        placed={"position", "scale"} <= set(takes),
    )
