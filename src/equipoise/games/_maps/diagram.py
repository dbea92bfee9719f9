"""The picture of a map's orbits over a parameter."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_tree, positive_integer, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, Int, PyTree, result
from equipoise.games._maps.flat import LONG, advance, flat_step, known_map, orbit
from equipoise.games._maps.orbits import chosen_tolerance, first_return


@result
class OrbitDiagram:
    """States that an orbit visits after its transient, for each value of a parameter.

    Attributes:
        parameters: The parameter's values, on the leading axis.
        states: Structure of the start; leaves have leading axes (parameters, states). NaN where
            the orbit has overflowed.
        periods: The length of the cycle at each parameter, 0 if none was found among the states.
    """

    parameters: PyTree
    states: PyTree
    periods: Int[Array, " parameters"]


@at("games.orbit_diagram")
def orbit_diagram(
    fn: Callable[[PyTree, PyTree], PyTree],
    start: PyTree,
    parameters: PyTree,
    *,
    num_transient: int = 1_000,
    num_states: int = 128,
    tolerance: float | None = None,
) -> OrbitDiagram:
    r"""Where a map settles, for each value of a parameter.

    .. math::

        \bigl\{ f_\eta^{t}(z_0) : N < t \le N + M \bigr\} \quad \text{for each } \eta

    Args:
        fn: f, a map (z, η) -> z.
        start: z₀, a pytree of real arrays; every parameter starts there.
        parameters: η, one leading axis on every leaf.
        num_transient: N, the steps that are left out.
        num_states: M, the states that are kept.
        tolerance: Tolerance of the period, as in :func:`period`.

    Returns:
        :class:`OrbitDiagram`. Cycles up to length M − 1 are recognized.

    Raises:
        TypeError: If ``fn`` is not callable, or ``start`` is not real and floating-point.
        ValueError: If ``fn`` changes the structure or shape of its argument, or ``parameters`` has
            no leading axis.

    Cost: N + M steps for each parameter, all parameters at once; memory of M states for each.

    Examples:
        >>> descent = lambda x, eta: x - eta * (x**2 - x)  # on the loss x³/3 − x²/2
        >>> print(games.orbit_diagram(descent, 0.3, jnp.array([1.5, 2.2, 2.5])).periods)
        [1 2 4]

    References:
        :cite:t:`may1976`
    """
    num_transient = positive_integer("num_transient", num_transient, minimum=0)
    num_states = positive_integer("num_states", num_states)
    parameters = floating_tree("parameters", parameters)
    leaves = jax.tree.leaves(parameters)
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if None in lengths or len(lengths) != 1:
        shapes = [list(leaf.shape) for leaf in leaves]
        raise value_error("parameters", "must have one common leading axis", str(shapes))
    start = floating_tree("start", start)
    one = jax.eval_shape(lambda p: jax.tree.map(lambda leaf: leaf.sum(0), p), parameters)
    is_long = leaves[0].shape[0] * (num_transient + num_states) > LONG
    fn = known_map(fn, start, one, is_long=is_long)
    tolerance = chosen_tolerance(tolerance, start)
    return _orbit_diagram(fn, start, parameters, tolerance, (num_transient, num_states))


@functools.partial(jax.jit, static_argnums=4)
def _orbit_diagram(
    fn: Traced, start: PyTree, parameters: PyTree, tolerance: Array, counts: tuple[int, int]
) -> OrbitDiagram:
    num_transient, num_states = counts
    step, z, unravel = flat_step(fn, start)

    def settle(parameter: PyTree) -> tuple[PyTree, Array]:
        states = orbit(
            lambda z: step(z, parameter),
            advance(lambda z: step(z, parameter), z, num_transient),
            num_states,
        )
        ahead = (
            first_return(states[-2::-1], states[-1], tolerance) if num_states > 1 else jnp.int32(0)
        )
        states = jnp.where(jnp.isfinite(states), states, jnp.nan)
        return jax.vmap(unravel)(states), ahead

    states, periods = jax.vmap(settle)(parameters)
    return OrbitDiagram(parameters, states, periods)
