"""Where the orbit of a map goes: its period and its rotation."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from equipoise._check import at, floating_tree, positive_integer, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, Int, PyTree, Scalar
from equipoise.games._maps.flat import Map, advance, count, flat_step, known_map, orbit


def chosen_tolerance(tolerance: float | None, start: PyTree) -> float:
    """By default √ε: half of the digits, since an attracting cycle is met to all of them."""
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(start)))
    eps = float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    return math.sqrt(eps) if tolerance is None else tolerance


def close(points: Array, reference: Array, tolerance: float | Array) -> Array:
    """Whether points (..., n) are the reference (n), relative to its largest number or 1."""
    reference = jnp.expand_dims(reference, tuple(range(points.ndim - reference.ndim)))
    scale = jnp.maximum(1, jnp.max(jnp.abs(reference), axis=-1))
    return jnp.max(jnp.abs(points - reference), axis=-1) <= tolerance * scale


def first_return(orbit: Array, reference: Array, tolerance: float | Array) -> Array:
    """The period of an orbit (states, n) that goes on from the reference; 0 for none.

    A return is judged against the extent of the orbit: a slow approach is no cycle of length two
    only because it flips from side to side.
    """
    distances = jnp.max(jnp.abs(orbit - reference[None]), axis=-1)
    extent = jnp.max(distances)
    back = distances <= tolerance * extent
    at_rest = extent <= tolerance * jnp.maximum(1, jnp.max(jnp.abs(reference)))
    ahead = jnp.where(jnp.any(back), jnp.argmax(back) + 1, 0)
    return jnp.where(at_rest, 1, ahead).astype(jnp.int32)


@at("games.period")
def period(
    fn: Map,
    start: PyTree,
    *,
    max_period: int = 64,
    num_transient: int = 1_000,
    tolerance: float | None = None,
) -> Int[Array, ""]:
    r"""The length of the cycle that an orbit has settled on; 0 when there is none.

    .. math::

        \min \Bigl\{ p : \lVert f^p(z) - z \rVert_\infty
        \le \tau \max_{q \le P} \lVert f^q(z) - z \rVert_\infty \Bigr\},
        \qquad z = f^N(z_0)

    or 1 where the orbit is at rest, to τ relative to the larger of 1 and its largest coordinate.

    Args:
        fn: f, a map z -> z.
        start: z₀, a pytree of real arrays.
        max_period: P, the longest cycle that is looked for.
        num_transient: N, steps before the cycle is looked for.
        tolerance: τ. Default: the root of the machine epsilon of ``start``.

    Returns:
        The period, 1 for a fixed point. 0 for an orbit that overflows, for a longer cycle or none,
        and for one that has not settled after N steps.

    Raises:
        TypeError: If ``fn`` is not callable, or ``start`` is not real and floating-point.
        ValueError: If ``fn`` changes the structure or shape of its argument, or a number of steps
            is out of range.

    Cost: N + P steps; memory of P states.

    Examples:
        >>> [int(games.period(lambda x: r * x * (1 - x), 0.3)) for r in (2.5, 3.2, 3.5, 3.7)]
        [1, 2, 4, 0]

    References:
        :cite:t:`may1976`
    """
    max_period = positive_integer("max_period", max_period)
    num_transient = positive_integer("num_transient", num_transient, minimum=0)
    start = floating_tree("start", start)
    tolerance = chosen_tolerance(tolerance, start)
    return _period(known_map(fn, start), start, tolerance, max_period, num_transient)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _period(
    fn: Traced, start: PyTree, tolerance: Array, max_period: int, num_transient: int
) -> Array:
    step, z, _ = flat_step(fn, start)
    z = advance(step, z, num_transient)
    return first_return(orbit(step, z, max_period), z, tolerance)


@at("games.rotation_number")
def rotation_number(
    fn: Map,
    start: PyTree,
    *,
    center: PyTree | None = None,
    num_steps: int = 10_000,
    num_transient: int = 0,
) -> Scalar:
    r"""Mean turn of an orbit per step, in full turns.

    .. math::

        \rho = \frac{1}{2\pi} \sum_t w_t\, \angle(z_t - c,\; z_{t+1} - c), \qquad
        w_t \propto \exp\Bigl(-\frac{1}{s (1 - s)}\Bigr), \quad s = \frac{t + 1}{T + 1}

    The smooth weights make the error fall faster than any power of T on a quasi-periodic orbit. A
    map of one number is taken as the lift of a circle map with period 1: ρ is its mean advance.

    Args:
        fn: f, a map z -> z of two numbers (or one, the lift of a circle map).
        start: z₀, a pytree of real arrays that holds one or two numbers.
        center: c, about which the turn is counted, with the structure of ``start``. Default: 0.
        num_steps: T, the number of steps.
        num_transient: Steps before the count.

    Returns:
        ρ, counter-clockwise positive. In the plane it is within half a turn of 0, except that an
        orbit around half a turn may come out on either side. p/q is a resonance p:q. Steps from the
        center itself and after an overflow do not count; an orbit without any has ρ = 0.

    Raises:
        TypeError: If ``fn`` is not callable, or ``start`` is not real and floating-point.
        ValueError: If ``start`` does not hold one or two numbers, ``fn`` changes its shape, or
            ``center`` is not like it.

    Cost: T + ``num_transient`` steps; memory of T states.

    Examples:
        >>> def alternating_play(z):  # of the payoff p·q with step size 1: six steps a turn
        ...     p, q = z
        ...     p = p - q
        ...     return p, q + p
        >>> print(f"{games.rotation_number(alternating_play, (1.0, 1.0)):.6f}")
        0.166667

    References:
        :cite:t:`das2017`
    """
    num_steps = positive_integer("num_steps", num_steps)
    num_transient = positive_integer("num_transient", num_transient, minimum=0)
    start = floating_tree("start", start)
    fn, size = known_map(fn, start), count(start)
    if size > 2:
        raise value_error(
            "start",
            "must hold one number (a lift) or two (the plane)",
            f"{size} numbers",
            "Rotation is not defined in more dimensions; look at the angle of an eigenvalue.",
        )
    if center is not None:
        center = floating_tree("center", center)
        if count(center) != size:
            numbers = f"{count(center)} numbers"
            raise value_error("center", f"must hold {size} numbers like `start`", numbers)
    return _rotation_number(fn, start, center, num_steps, num_transient)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _rotation_number(
    fn: Traced, start: PyTree, center: PyTree | None, num_steps: int, num_transient: int
) -> Array:
    step, z, _ = flat_step(fn, start)
    c = jnp.zeros_like(z) if center is None else ravel_pytree(center)[0].astype(z.dtype)
    z = advance(step, z, num_transient)
    states = jnp.concatenate([z[None], orbit(step, z, num_steps)]) - c[None]
    finite = jnp.all(jnp.isfinite(states), axis=1)
    if z.size == 1:
        states = jnp.where(finite[:, None], states, 0)
        turns, valid = states[1:, 0] - states[:-1, 0], finite[1:]
    else:
        turns, valid = _turns(states, finite)
    count = jnp.cumsum(valid, dtype=jnp.int32)
    s = jnp.where(valid, count.astype(z.dtype) / (count[-1] + 1).astype(z.dtype), 0.5)
    weights = jnp.where(valid, jnp.exp(-1 / (s * (1 - s))), 0)
    total = jnp.sum(weights)
    return jnp.sum(weights * turns) / jnp.where(total > 0, total, 1)


def _turns(states: Array, finite: Array) -> tuple[Array, Array]:
    """Angles between consecutive states in turns, and which of them are defined."""
    size = jnp.max(jnp.abs(jnp.where(finite[:, None], states, 0)), axis=1, keepdims=True)
    # Within the range whose reciprocals are no subnormal numbers, which are flushed to zero.
    limits = jnp.finfo(states.dtype)  # type: ignore[no-untyped-call]
    defined = finite & (size[:, 0] >= limits.tiny) & (size[:, 0] <= limits.max / 8)
    # Scaled before it is squared, and never a root of zero.
    scaled = jnp.where(defined[:, None], states / jnp.where(size > 0, size, 1), 1)
    unit = scaled / jnp.sqrt(jnp.sum(scaled**2, axis=1, keepdims=True))
    a, b = unit[:-1], unit[1:]
    valid = defined[:-1] & defined[1:]
    sine = jnp.where(valid, a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], 0)
    cosine = jnp.where(valid, jnp.sum(a * b, axis=1), 1)
    # Around their circular mean, turns do not wrap: those of a circle map differ by less than one.
    mean = jnp.arctan2(jnp.sum(sine), jnp.sum(cosine))
    rest = jnp.arctan2(
        sine * jnp.cos(mean) - cosine * jnp.sin(mean),
        cosine * jnp.cos(mean) + sine * jnp.sin(mean),
    )
    return jnp.where(valid, mean + rest, 0) / (2 * jnp.pi), valid
