"""Which attractor each start of a grid ends up on."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._check import at, floating_array, floating_tree, positive_integer, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, Float, Int, PyTree, aligned, result
from equipoise.games._maps.flat import LONG, Map, flat_step, known_map, orbit
from equipoise.games._maps.orbits import chosen_tolerance, close

# Grid points that run together: few enough to stay in cache, many enough to fill vectors.
_BATCH = 4096


@result
class Basins:
    """The fate of each start on a grid.

    Attributes:
        labels: For each grid point −1 if it escaped, i ≥ 1 if it settled on attractor i, and 0
            if it stayed bounded without settling on a listed cycle (slow, quasi-periodic, chaotic).
        attractors: One state of each attractor, on a leading axis; NaN where there are fewer.
        fractions: Share of the grid of each label −1, 0, 1, 2, …
        num_attractors: How many fixed points and cycles were found.
    """

    labels: Int[Array, "*grid"]
    attractors: PyTree
    fractions: Float[Array, " labels"]
    num_attractors: Int[Array, ""]

    def __str__(self) -> str:
        """The share of the grid and a state for each label that occurs."""
        if isinstance(self.labels, jax.core.Tracer) or self.num_attractors.ndim:
            return f"Basins of shape {self.labels.shape}"
        names = ["escapes", "bounded", *(f"attractor {i + 1}" for i in range(self.num_attractors))]
        states = jax.vmap(lambda state: ravel_pytree(state)[0])(self.attractors)
        rows = []
        for i, name in enumerate(names):
            numbers = ", ".join(f"{number:.4g}" for number in states[i - 2][:6]) if i > 1 else ""
            if self.fractions[i] > 0:
                rows.append([f"  {name}", f"{float(self.fractions[i]):.2%}", numbers])
        grid = "×".join(map(str, self.labels.shape))
        return f"Basins on {grid} starts\n{aligned(rows)}"


@at("games.basins")
def basins(
    fn: Map,
    axes: Sequence[Float[Array, " points"]],
    *,
    embed: Callable[..., PyTree] | None = None,
    num_steps: int = 1_000,
    max_period: int = 16,
    max_attractors: int = 8,
    bound: float = 1e6,
    tolerance: float | None = None,
) -> Basins:
    r"""Which attractor each start of a grid settles on, or that it escapes.

    .. math::

        B_i = \bigl\{ z_0 : \lim_{t \to \infty} \operatorname{dist}(f^t(z_0), A_i) = 0 \bigr\}

    Attractors A are found, not given: fixed points and cycles up to ``max_period``, numbered in the
    order in which the grid meets them, the last axis fastest.

    Args:
        fn: f, a map z -> z.
        axes: Coordinates of the grid, one vector per axis.
        embed: From one number per axis to a start z₀. Default: the vector of these numbers.
        num_steps: Steps before the cycle is looked for.
        max_period: The longest cycle that is looked for.
        max_attractors: The most that are numbered; starts that settle on others have label 0.
        bound: A start escapes when a coordinate exceeds this in absolute value, or overflows.
        tolerance: τ, relative distance at which two states are the same. A start has settled when
            its cycle returns within τ^{3/2}. Default: the root of the machine epsilon.

    Returns:
        :class:`Basins`; ``labels`` has one axis for each of ``axes``.

    Raises:
        TypeError: If ``fn`` is not callable, or ``axes`` is not real and floating-point.
        ValueError: If ``axes`` is empty or not of vectors, or ``fn`` changes the structure or shape
            of its argument.

    Cost: ``num_steps`` + (1 + ``max_attractors``)·``max_period`` steps for each point of the grid;
    memory of a few states for each.

    Examples:
        >>> descent = lambda x: x - 0.5 * (x**3 - x)  # on the double well (x² − 1)²/4
        >>> found = games.basins(descent, [jnp.linspace(-1.5, 1.5, 6)], embed=lambda x: x)
        >>> print(found.labels, found.attractors[:2])
        [1 1 1 2 2 2] [-1.  1.]

    References:
        :cite:t:`datseris2022`
    """
    num_steps = positive_integer("num_steps", num_steps, minimum=0)
    max_period = positive_integer("max_period", max_period)
    max_attractors = positive_integer("max_attractors", max_attractors)
    if len(axes) == 0:
        raise value_error("axes", "must hold at least one vector", "none")
    vectors = [floating_array(f"axes[{i}]", axis) for i, axis in enumerate(axes)]
    for i, axis in enumerate(vectors):
        if axis.ndim != 1 or axis.size == 0:
            raise value_error(f"axes[{i}]", "must be a vector with a point", axis)
    numbers = [np.zeros((), axis.dtype) for axis in vectors]
    is_long = math.prod(axis.size for axis in vectors) * num_steps > LONG
    embed = traced(_stack if embed is None else embed, *numbers)
    start = jax.eval_shape(lambda *x: floating_tree("embed(...)", embed(*x)), *numbers)
    fn = known_map(fn, start, is_long=is_long)
    limits = _Limits(bound, chosen_tolerance(tolerance, start))
    return _basins(fn, embed, vectors, limits, (num_steps, max_period, max_attractors))


class _Limits(NamedTuple):
    """Where a start has escaped, and how near to each other two states are the same."""

    bound: float | Array
    tau: float | Array


@functools.partial(jax.jit, static_argnums=4)
def _basins(
    fn: Traced,
    embed: Traced,
    vectors: Sequence[Array],
    limits: _Limits,
    counts: tuple[int, int, int],
) -> Basins:
    num_steps, max_period, max_attractors = counts
    bound, tau = limits
    step, _, unravel = flat_step(fn, embed(*(axis[0] for axis in vectors)))

    def bounded(z: Array) -> Array:
        return jnp.all(jnp.abs(z) <= bound)  # false for NaN

    def guarded(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        z, inside = carry
        image = step(z)
        inside = inside & bounded(image)
        return jnp.where(inside, image, z), inside

    def settle(index: Array) -> tuple[Array, Array, Array]:
        numbers = [
            axis[i] for axis, i in zip(vectors, jnp.unravel_index(index, shape), strict=True)
        ]
        z = ravel_pytree(embed(*numbers))[0]
        z, inside = jax.lax.scan(
            lambda carry, _: (guarded(carry), None), (z, bounded(z)), None, length=num_steps
        )[0]
        back = close(orbit(step, z, max_period), z, tau**1.5)
        return z, inside, inside & jnp.any(back)

    shape = tuple(axis.size for axis in vectors)
    z, inside, settled = jax.lax.map(settle, jnp.arange(math.prod(shape)), batch_size=_BATCH)

    def number(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        labels, leaders, count = carry
        free = settled & (labels == 0)
        first = jnp.argmax(free)
        cycle = orbit(step, z[first], max_period)

        def nearer(near: Array, state: Array) -> tuple[Array, None]:
            return near | close(z, state, tau), None

        near = jax.lax.scan(nearer, jnp.zeros_like(settled), cycle)[0]
        found = jnp.any(free)
        labels = jnp.where(free & near & found, i + 1, labels)
        leaders = leaders.at[i].set(jnp.where(found, z[first], jnp.nan))
        return labels, leaders, count + found.astype(jnp.int32)

    carry = (
        jnp.where(inside, 0, -1).astype(jnp.int32),
        jnp.zeros((max_attractors, z.shape[1]), z.dtype),
        jnp.int32(0),
    )
    labels, leaders, count = jax.lax.fori_loop(0, max_attractors, number, carry)
    return Basins(
        labels=labels.reshape(shape),
        attractors=jax.vmap(unravel)(leaders),
        fractions=jnp.bincount(labels + 1, length=max_attractors + 2).astype(z.dtype) / labels.size,
        num_attractors=count,
    )


def _stack(*numbers: Array) -> Array:
    return jnp.stack(numbers)
