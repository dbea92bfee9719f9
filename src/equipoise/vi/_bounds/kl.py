"""Kullback-Leibler divergences in closed form."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, value_error
from equipoise._types import Array, Scalar
from equipoise.vi._families.family import Family, Params, check_family


@at("vi.kl_divergence")
def kl_divergence(family: Family, params: Params, other: Family, other_params: Params) -> Scalar:
    r"""Kullback–Leibler divergence between two normals, in closed form.

    .. math::

        \operatorname{KL}(q \,\|\, p) = \tfrac12 \bigl( \operatorname{tr} \Sigma_p^{-1} \Sigma_q
        + (m_q - m_p)^\top \Sigma_p^{-1} (m_q - m_p) - d + \log |\Sigma_p| - \log |\Sigma_q| \bigr)

    Any two families that are normal in the flat coordinates will do, such as mean-field and
    full-rank; on equal supports the divergence of positions is that of the flat vectors.

    Args:
        family: The family of q.
        params: Params of q.
        other: The family of p, of the same example and supports.
        other_params: Params of p.

    Returns:
        The divergence in nats, at least 0 up to rounding, and 0 where q = p.

    Raises:
        ValueError: If either family is not normal, or their examples or supports differ.

    Cost: O(d) for two mean-field normals, otherwise O(d³).

    Examples:
        >>> family = vi.mean_field(0.0)
        >>> q = family.init(position=1.0, scale=2.0)
        >>> print(f"{vi.kl_divergence(family, q, family, family.init()):.6f}")
        1.306853

    References:
        :cite:t:`kingma2014`, appendix B.
    """
    for name, one in (("family", family), ("other", other)):
        check_family(name, one)
        if one.moments is None:
            raise value_error(
                name,
                "must be normal, for a closed form",
                one.name,
                "Sample it: vi.elbo with log_density = other.log_prob is -KL.",
            )
    if family.positions != other.positions:
        raise value_error(
            "other",
            f"must have the example and supports of `family`, {family.positions}",
            str(other.positions),
        )
    found: Scalar = _divergence(params, other_params, family, other)
    return found


@functools.partial(jax.jit, static_argnames=("family", "other"))
def _divergence(params: Params, other_params: Params, family: Family, other: Family) -> Scalar:
    mean, scale = family.moments(params)
    other_mean, other_scale = other.moments(other_params)
    log_volume_ratio = other.flat_entropy(other_params) - family.flat_entropy(params)
    if scale.ndim == other_scale.ndim == 1:
        whitened = scale / other_scale
        shift = (mean - other_mean) / other_scale
    else:
        factor = _lower(other_scale)
        whitened = _solve(factor, _square(scale))
        shift = _solve(factor, (mean - other_mean)[:, None])
    total = jnp.sum(whitened**2) + jnp.sum(shift**2)
    return 0.5 * (total - mean.shape[0]) + log_volume_ratio


def _square(scale: Array) -> Array:
    return jnp.diag(scale) if scale.ndim == 1 else scale


def _lower(scale: Array) -> Array:
    """A lower triangular factor of the covariance S Sᵀ."""
    if scale.ndim == 1:
        return jnp.diag(scale)
    return jnp.linalg.qr(scale.T, mode="r").T


def _solve(factor: Array, right: Array) -> Array:
    return jax.scipy.linalg.solve_triangular(factor, right, lower=True)
