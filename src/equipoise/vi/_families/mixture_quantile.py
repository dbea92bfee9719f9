"""The quantile function of a mixture of normals, with derivatives."""

import jax
import jax.numpy as jnp

from equipoise._types import Array, Scalar

_MAX_STEPS = 100
_Search = tuple[Array, Array, Array, Array, Array]  # bracket, point, last step, count


def mixture_quantile(log_weights: Array, mean: Array, log_scale: Array, noise: Scalar) -> Scalar:
    r"""The number z at which the mixture's distribution function is that of ``noise``.

    .. math:: \sum_k w_k \Phi\left(\frac{z - m_k}{e^{\ell_k}}\right) = \Phi(\varepsilon)

    Logarithms of the smaller tail are compared, so both tails keep their relative precision.
    Derivatives are exact up to the third.
    """
    # Above the median, mirror: the lower tail is then the small one.
    sign = jnp.where(noise > 0, -1, 1).astype(noise.dtype)
    mirrored = log_weights, sign * mean, log_scale, sign * noise
    z = _search(*jax.lax.stop_gradient(mirrored))
    # A Newton step at the root stays there, and doubles the order of the derivatives it carries.
    for _ in range(2):
        moved = z - _newton_step(z, *mirrored)
        z = jax.lax.stop_gradient(z - moved) + moved
    return sign * z


def _newton_step(
    z: Scalar, log_weights: Array, mean: Array, log_scale: Array, noise: Scalar
) -> Scalar:
    """(log F(z) − log Φ(ε)) divided by its slope."""
    standard = (z - mean) * jnp.exp(-log_scale)
    log_cdf = jax.nn.logsumexp(log_weights + jax.scipy.special.log_ndtr(standard))
    terms = log_weights + jax.scipy.stats.norm.logpdf(standard) - log_scale
    slope = jnp.exp(jax.nn.logsumexp(terms) - log_cdf)
    # Between components so far apart that no density is left, any z will do.
    slope = jnp.maximum(slope, jnp.finfo(slope.dtype).tiny)  # type: ignore[no-untyped-call]
    return (log_cdf - jax.scipy.special.log_ndtr(noise)) / slope


def _search(log_weights: Array, mean: Array, log_scale: Array, noise: Scalar) -> Scalar:
    """Newton steps; bisections where those leave the bracket or shrink too slowly."""
    ends = mean + jnp.exp(log_scale) * noise
    low, high = jnp.min(ends), jnp.max(ends)
    tolerance = 4 * jnp.finfo(noise.dtype).eps  # type: ignore[no-untyped-call]

    def unfinished(state: _Search) -> Array:
        _, _, z, step, count = state
        return (jnp.abs(step) > tolerance * (1 + jnp.abs(z))) & (count < _MAX_STEPS)

    def update(state: _Search) -> _Search:
        low, high, z, step, count = state
        newton_step = _newton_step(z, log_weights, mean, log_scale, noise)
        newton = z - newton_step
        low, high = jnp.where(newton_step < 0, z, low), jnp.where(newton_step < 0, high, z)
        good = (newton >= low) & (newton <= high) & (jnp.abs(newton_step) < 0.5 * jnp.abs(step))
        new = jnp.where(good, newton, 0.5 * (low + high))
        return low, high, new, new - z, count + 1

    state = low, high, 0.5 * (low + high), high - low, jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(unfinished, update, state)[2]
