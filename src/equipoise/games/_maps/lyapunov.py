"""Lyapunov exponents of any map."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_tree, positive_integer, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, Bool, Float, Int, PyTree, result
from equipoise.games._maps.flat import Map, count, flat_step, known_map

# Blocks of the orbit whose means give the standard error.
_BLOCKS = 20


@result
class LyapunovExponents:
    """Growth rates of small differences along an orbit.

    Attributes:
        values: λ, per step in natural logarithms, largest first up to their standard errors.
        standard_error: Standard error of each value, from the means of 20 blocks; infinite where
            unknown.
        num_steps: Steps that were measured; fewer than asked for where the orbit overflowed.
        diverged: Whether the orbit or its tangents overflowed.
    """

    values: Float[Array, " num"]
    standard_error: Float[Array, " num"]
    num_steps: Int[Array, ""]
    diverged: Bool[Array, ""]


@at("games.lyapunov_exponents")
def lyapunov_exponents(
    fn: Map,
    start: PyTree,
    *,
    num_steps: int = 10_000,
    num_transient: int = 1_000,
    num_exponents: int | None = None,
) -> LyapunovExponents:
    r"""Growth rates of small differences along an orbit, by QR of its tangents.

    .. math::

        Df(z_t)\, Q_t = Q_{t+1} R_{t+1}, \qquad
        \lambda_i = \frac{1}{T} \sum_{t=1}^{T} \log \lvert (R_t)_{ii} \rvert

    Positive means chaos, zero a neutral direction (quasi-periodic orbits, bifurcations), negative a
    direction that contracts. Tangents are pushed by forward derivatives; Df is never formed.

    Args:
        fn: f, a differentiable map z -> z.
        start: z₀, a pytree of real arrays with n numbers in all.
        num_steps: T, the steps that are measured.
        num_transient: Steps before the measurement, in which the tangents align as well.
        num_exponents: How many of the largest exponents. Default: n.

    Returns:
        :class:`LyapunovExponents`. A direction that is lost altogether (a superstable cycle) has
        the exponent −∞. An orbit that overflows is measured up to there; if that is within the
        transient, the values are NaN. The exponents belong to *this* orbit: one that lands on an
        unstable cycle has the cycle's, as does the logistic map with r = 4 from 1/2: ln 4.

    Raises:
        TypeError: If ``fn`` is not callable, or ``start`` is not real and floating-point.
        ValueError: If ``fn`` changes the structure or shape of its argument, or
            ``num_exponents`` exceeds n.

    Cost: T + ``num_transient`` steps, each with ``num_exponents`` forward derivatives and one QR.

    Examples:
        >>> logistic = lambda x: 4.0 * x * (1 - x)
        >>> found = games.lyapunov_exponents(logistic, 0.3)
        >>> print(f"{found.values[0]:.3f}, ln 2 = {np.log(2):.3f}")
        0.693, ln 2 = 0.693

    References:
        :cite:t:`benettin1980`
    """
    num_steps = positive_integer("num_steps", num_steps)
    num_transient = positive_integer("num_transient", num_transient, minimum=0)
    start = floating_tree("start", start)
    fn, n = known_map(fn, start), count(start)
    k = n if num_exponents is None else positive_integer("num_exponents", num_exponents)
    if k > n:
        raise value_error("num_exponents", f"must be at most {n}, the numbers in `start`", k)
    return _lyapunov_exponents(fn, start, num_steps, num_transient, k)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _lyapunov_exponents(
    fn: Traced, start: PyTree, num_steps: int, num_transient: int, k: int
) -> LyapunovExponents:
    step, z, _ = flat_step(fn, start)

    def one(
        carry: tuple[Array, Array, Array], _: None
    ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        z, q, alive = carry
        image, push = jax.linearize(step, z)
        pushed = jax.vmap(push, in_axes=1, out_axes=1)(q)
        alive = alive & jnp.all(jnp.isfinite(image)) & jnp.all(jnp.isfinite(pushed))
        # A dead orbit stands still at its last finite state, so that nothing turns into NaN.
        q, lengths = _orthonormal(jnp.where(alive, pushed, q))
        return (jnp.where(alive, image, z), q, alive), (jnp.log(lengths), alive)

    carry = (z, jnp.eye(z.size, k, dtype=z.dtype), jnp.all(jnp.isfinite(z)))
    carry, _ = jax.lax.scan(one, carry, None, length=num_transient)
    (_, _, alive), (growth, measured) = jax.lax.scan(one, carry, None, length=num_steps)
    count = jnp.sum(measured, dtype=jnp.int32)
    total = jnp.sum(jnp.where(measured[:, None], growth, 0), axis=0)
    values = total / count.astype(z.dtype)
    return LyapunovExponents(
        values=values,
        standard_error=jnp.where(alive & jnp.isfinite(values), _standard_error(growth), jnp.inf),
        num_steps=count,
        diverged=~alive,
    )


def _orthonormal(tangents: Array) -> tuple[Array, Array]:
    """QR: orthonormal columns, and the absolute diagonal of R."""
    if tangents.shape[1] > 1:
        q, r = jnp.linalg.qr(tangents)
        return q, jnp.abs(jnp.diagonal(r))
    # One column needs no call of LAPACK in every step; a lost one starts again on the first axis.
    square = jnp.sum(tangents**2)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    fresh = jnp.zeros_like(tangents).at[0].set(1)
    return jnp.where(length > 0, tangents / jnp.where(length > 0, length, 1), fresh), length[None]


def _standard_error(samples: Array) -> Array:
    """Of the mean of a correlated sequence, from the spread of means of long blocks."""
    length = len(samples) // _BLOCKS
    if length == 0:
        return jnp.full(samples.shape[1:], jnp.inf, samples.dtype)
    blocks = samples[-_BLOCKS * length :].reshape(_BLOCKS, length, -1)
    means = jnp.mean(jnp.where(jnp.isfinite(blocks), blocks, 0), axis=1)
    # A constant sequence has no spread; the root of zero would have no gradient.
    return jnp.std(jax.lax.stop_gradient(means), axis=0, ddof=1) / _BLOCKS**0.5
