"""Measurements of an approximation by the importance weights of its draws."""

import functools
import math
from collections.abc import Callable

import jax

from equipoise._check import at, positive_integer, random_key, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, result
from equipoise.vi._bounds.density import density_of, dtype_of, flat_log_density
from equipoise.vi._families.draws import independent
from equipoise.vi._families.family import Family, Params, check_params, completed
from equipoise.vi._weights.psis import log_sum, threshold
from equipoise.vi._weights.weighted import Weighted, moments, weigh

MIN_DRAWS = 100  # fewer leave no tail to fit
_CHUNK = 512  # points evaluated together, so that memory does not grow with the number of draws


@result
class Diagnostics:
    """Measurements that decide whether an approximation may be used.

    Shifts and errors are of the worst coordinate of the flat vector, in units of its sd.

    Attributes:
        khat: Shape of the Pareto tail of the importance weights p/q; below ``threshold`` the
            moments of the reweighted draws can be trusted.
        threshold: Largest trustworthy k̂ for this number of draws.
        effective_sample_size: 1/Σ w² for the weights w of the draws.
        num_draws: Number of draws of q that were weighed.
        mean_shift: How far reweighting moves a mean.
        sd_shift: Relative change of an sd by reweighting.
        mean_error: Monte Carlo standard error of a reweighted mean.
        sd_error: Relative Monte Carlo standard error of a reweighted sd.
        log_evidence: Log of the mean importance weight, an estimate of log ∫ p.
        log_evidence_error: Standard error of ``log_evidence``.
    """

    khat: Scalar
    threshold: Scalar
    effective_sample_size: Scalar
    num_draws: Array
    mean_shift: Scalar
    sd_shift: Scalar
    mean_error: Scalar
    sd_error: Scalar
    log_evidence: Scalar
    log_evidence_error: Scalar


def summarize(weighted: Weighted) -> Diagnostics:
    """The measurements of weighted draws against the same draws with equal weights."""
    xp = weighted.draws.__array_namespace__()
    n = weighted.draws.shape[0]
    dtype = weighted.log_weights.dtype
    plain = moments(weighted.draws, xp.full(n, -math.log(n), dtype=dtype))
    exact = moments(weighted.draws, weighted.log_weights)
    return Diagnostics(
        khat=weighted.khat,
        threshold=xp.asarray(threshold(n), dtype=dtype),
        effective_sample_size=weighted.effective_sample_size,
        num_draws=xp.asarray(n),
        mean_shift=xp.max(xp.abs(exact.mean - plain.mean) / exact.sd),
        sd_shift=xp.max(xp.abs(plain.sd / exact.sd - 1)),
        mean_error=xp.max(exact.mean_error / exact.sd),
        sd_error=xp.max(exact.sd_error / exact.sd),
        log_evidence=log_sum(weighted.log_ratios) - math.log(n),
        log_evidence_error=xp.sqrt(xp.maximum(1 / weighted.effective_sample_size - 1 / n, 0)),
    )


def flat_draws(
    family: Family, params: Params, variates: Array, num_samples: int
) -> tuple[Array, Array]:
    """Flat draws of q, one per row, and their log densities.

    The variates are standard normal ones, one row per draw, or a key where draws have no path.
    """
    if family.transform_flat is None:
        positions = family.sample(params, variates, num_samples)
        draws = jax.vmap(family.ravel)(positions)
        log_q = jax.vmap(family.log_prob, (None, 0))(params, positions)
        return draws, log_q + jax.vmap(family.log_volume)(draws)
    draws = jax.vmap(family.transform_flat, (None, 0))(params, variates)
    return draws, jax.vmap(family.log_prob_flat, (None, 0))(params, draws)


@at("vi.diagnose")
def diagnose(
    log_density: Callable[[PyTree], Scalar],
    family: Family,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_samples: int = 8192,
) -> Diagnostics:
    r"""Importance weights of an approximation, and what they say about it.

    .. math::

        r_i = \frac{p(z_i)}{q(z_i)}, \qquad \text{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2},
        \qquad \hat k \le \min\Bigl(1 - \frac{1}{\log_{10} S},\ 0.7\Bigr)

    The largest ratios r are replaced by quantiles of a generalized Pareto fitted to them, whose
    shape is k̂; this gives the weights w. A q that is too wide has a small k̂, so the effective
    sample size and the shift of the reweighted moments are reported beside it.

    Args:
        log_density: log p, a function of one position.
        family: The :class:`Family` of q.
        params: Its parameters.
        key: Randomness of the draws.
        num_samples: Number S of draws, at least 100.

    Returns:
        :class:`Diagnostics`. Where every ratio is infinite or nan, k̂ is inf.

    Raises:
        ValueError: If ``num_samples`` is below 100, ``log_density`` does not return one number, or
            positions are discrete.

    Cost: ``num_samples`` evaluations of ``log_density``.

    Examples:
        >>> family = vi.mean_field(jnp.zeros(2))
        >>> log_density = lambda z: -0.5 * jnp.sum(z**2)
        >>> found = vi.diagnose(log_density, family, family.init(scale=1.5), jax.random.key(0))
        >>> print(f"{found.khat < 0.7}, {found.sd_shift:.1f}")
        True, 0.5

    References:
        :cite:t:`vehtari2024`, section 3; :cite:t:`yao2018`.
    """
    positive_integer("num_samples", num_samples, minimum=MIN_DRAWS)
    random_key("key", key)
    family = completed(family)
    if family.positions is None:
        raise value_error(
            "family",
            "must have floating-point positions, whose moments are measured",
            family.name,
            "vi.elbo with gradient='score_function' takes discrete ones.",
        )
    density = density_of("log_density", log_density, family)
    found: Diagnostics = _measured(density, params, key, family, num_samples)
    return found


@functools.partial(jax.jit, static_argnames=("family", "num_samples"))
def _measured(
    density: Traced, params: Params, key: PRNGKeyArray, family: Family, num_samples: int
) -> Diagnostics:
    check_params(family, params)
    log_p = flat_log_density(density, family.positions)
    variates = key
    if family.transform_flat is not None:
        variates = independent(key, num_samples, family.noise_size, dtype_of(params))
    draws, log_q = flat_draws(family, params, variates, num_samples)
    values = density.over(log_p, together=min(_CHUNK, num_samples))(draws)
    return summarize(weigh(draws, values, log_q))
