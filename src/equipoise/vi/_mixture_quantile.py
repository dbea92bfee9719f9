"""The quantile function of a mixture of normals, differentiable to any order."""

from typing import Any

import jax
import jax.numpy as jnp

from equipoise._types import Array, Scalar

MAX_STEPS = 100


def _log_cdf(log_weights: Array, mean: Array, log_scale: Array, z: Scalar) -> Scalar:
    return jax.nn.logsumexp(
        log_weights + jax.scipy.special.log_ndtr((z - mean) * jnp.exp(-log_scale))
    )


def _log_density(log_weights: Array, mean: Array, log_scale: Array, z: Scalar) -> Scalar:
    noise = (z - mean) * jnp.exp(-log_scale)
    return jax.nn.logsumexp(log_weights + jax.scipy.stats.norm.logpdf(noise) - log_scale)


@jax.custom_jvp
def mixture_quantile(log_weights: Array, mean: Array, log_scale: Array, noise: Scalar) -> Scalar:
    r"""The number z at which the mixture's distribution function is that of ``noise``.

    .. math:: \sum_k w_k \Phi\left(\frac{z - m_k}{e^{\ell_k}}\right) = \Phi(\varepsilon)

    Logarithms of the smaller tail are compared, so both tails keep their relative precision.
    """
    # Above the median, mirror: the lower tail is then the small one.
    sign = jnp.where(noise > 0, -1, 1).astype(noise.dtype)
    mean, noise = sign * mean, sign * noise
    target = jax.scipy.special.log_ndtr(noise)
    ends = mean + jnp.exp(log_scale) * noise
    low, high = jnp.min(ends), jnp.max(ends)
    tolerance = 4 * jnp.finfo(noise.dtype).eps  # type: ignore[no-untyped-call]

    def unfinished(state: Any) -> Array:
        _, _, z, step, count = state
        going: Array = jnp.abs(step) > tolerance * (1 + jnp.abs(z))
        return going & (count < MAX_STEPS)

    def update(state: Any) -> Any:
        """A Newton step; a bisection where that leaves the bracket or shrinks too slowly."""
        low, high, z, step, count = state
        log_cdf = _log_cdf(log_weights, mean, log_scale, z)
        slope = jnp.exp(_log_density(log_weights, mean, log_scale, z) - log_cdf)
        below = log_cdf < target
        low, high = jnp.where(below, z, low), jnp.where(below, high, z)
        newton = z - (log_cdf - target) / slope
        good = (newton >= low) & (newton <= high) & (jnp.abs(newton - z) < 0.5 * jnp.abs(step))
        new = jnp.where(good, newton, 0.5 * (low + high))
        return low, high, new, new - z, count + 1

    start = 0.5 * (low + high)
    state = low, high, start, high - low, jnp.zeros((), jnp.int32)
    return sign * jax.lax.while_loop(unfinished, update, state)[2]


@mixture_quantile.defjvp
def _mixture_quantile_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Differentiates log F(z, θ) = log Φ(ε), on the side where both are small."""
    log_weights, mean, log_scale, noise = primals
    z = mixture_quantile(*primals)
    sign = jnp.where(noise > 0, -1, 1).astype(noise.dtype)

    def difference(log_weights: Array, mean: Array, log_scale: Array, noise: Array) -> Array:
        log_cdf = _log_cdf(log_weights, sign * mean, log_scale, sign * z)
        return log_cdf - jax.scipy.special.log_ndtr(sign * noise)

    _, change = jax.jvp(difference, primals, tangents)
    log_cdf = _log_cdf(log_weights, sign * mean, log_scale, sign * z)
    log_density = _log_density(log_weights, mean, log_scale, z)
    return z, -sign * change * jnp.exp(log_cdf - log_density)
