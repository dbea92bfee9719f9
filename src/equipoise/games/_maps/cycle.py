"""A cycle of a map, stable or not, to rounding, with its multipliers."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_tree, positive_integer
from equipoise._jax.traced import Traced
from equipoise._types import Array, Bool, PyTree, Scalar, Shaped, result
from equipoise.games._maps.flat import Map, advance, flat_step, known_map, orbit


@result
class Cycle:
    """States that a map visits in turn forever, and how their neighbors move.

    Attributes:
        states: z₀ … z_{p−1} on a new leading axis of each leaf.
        multipliers: Complex eigenvalues of D(f^p)(z₀), largest modulus first; all inside the unit
            circle where the cycle attracts, one at −1 where its period doubles, at 1 in a fold.
        residual: ‖f^p(z₀) − z₀‖∞.
        converged: Whether Newton's method met its tolerance.
    """

    states: PyTree
    multipliers: Shaped[Array, " n"]
    residual: Scalar
    converged: Bool[Array, ""]


@at("games.cycle")
def cycle(fn: Map, start: PyTree, *, period: int = 1, max_steps: int = 20) -> Cycle:
    r"""The cycle near a start by Newton's method, whether or not it attracts.

    .. math::

        f^p(z) = z, \qquad \mu_i = \operatorname{eig}_i D(f^p)(z)

    Args:
        fn: f, a differentiable map z -> z.
        start: z₀, a pytree of n real numbers near the cycle: an orbit that has settled, or the
            cycle at a nearby parameter.
        period: p. A cycle whose length divides p counts as well.
        max_steps: The number of Newton steps; those after convergence change nothing.

    Returns:
        :class:`Cycle`, differentiable once by whatever ``fn`` closes over. Where Newton's method
        fails, ``converged`` is false and the rest is where it stood, NaN included.

    Raises:
        TypeError: If ``fn`` is not callable, or ``start`` is not real and floating-point.
        ValueError: If ``fn`` changes the structure or shape of its argument, or ``period`` < 1.

    Cost: a Newton step takes p·n forward derivatives and one n×n solve; the multipliers O(n³).

    Examples:
        >>> logistic = lambda x: 3.4 * x * (1 - x)
        >>> found = games.cycle(logistic, 0.45, period=2)
        >>> print(found.states.round(4), found.multipliers.real.round(4))
        [0.452  0.8422] [-0.76]

    References:
        :cite:t:`may1976`
    """
    period = positive_integer("period", period)
    max_steps = positive_integer("max_steps", max_steps)
    start = floating_tree("start", start)
    return _cycle(known_map(fn, start), start, period, max_steps)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _cycle(fn: Traced, start: PyTree, period: int, max_steps: int) -> Cycle:
    step, z, unravel = flat_step(fn, start)

    def gap(z: Array) -> Array:
        return advance(step, z, period) - z

    def newton(z: Array) -> Array:
        return z - jnp.linalg.solve(jax.jacfwd(gap)(z), gap(z))

    def small(z: Array) -> Array:
        # Rounding of p steps; a Newton step cannot be asked for more.
        noise = 8 * period * float(jnp.finfo(z.dtype).eps)  # type: ignore[no-untyped-call]
        return jnp.max(jnp.abs(gap(z))) <= noise * jnp.maximum(1, jnp.max(jnp.abs(z)))

    # A loop of fixed length can be differentiated in reverse, a while loop cannot.
    z = jax.lax.fori_loop(0, max_steps, lambda _, z: jnp.where(small(z), z, newton(z)), z)
    converged = small(z)
    # One more step from a constant carries the derivative by the parameters of f.
    z = jnp.where(converged, newton(jax.lax.stop_gradient(z)), z)
    multipliers = jnp.linalg.eigvals(jax.jacfwd(lambda z: advance(step, z, period))(z))
    states = jnp.concatenate([z[None], orbit(step, z, period - 1)])
    return Cycle(
        states=jax.vmap(unravel)(states),
        multipliers=multipliers[jnp.argsort(-jnp.abs(multipliers))],
        residual=jnp.max(jnp.abs(gap(z))),
        converged=converged,
    )
