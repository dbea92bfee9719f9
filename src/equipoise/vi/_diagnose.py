"""Measurements of an approximation, and the verdict they lead to."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from equipoise._check_old import positive_integer
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._draws import independent
from equipoise.vi._family import Family, check_params
from equipoise.vi._fit_result import Diagnostics
from equipoise.vi._fit_target import flat_log_density
from equipoise.vi._psis import threshold
from equipoise.vi._terms import checked_density, dtype_of
from equipoise.vi._weighted import Weighted, evaluate, moments, weigh

MIN_DRAWS = 100  # fewer leave no tail to fit
MIN_EFFECTIVE = 400.0  # Vehtari et al. 2021, section 4
MAX_MEAN_ERROR = 0.05  # of an sd: five of these stay within a quarter of an sd
MAX_SD_ERROR = 0.025  # relative: four of these stay within a tenth


@jax.jit
def summarize(weighted: Weighted) -> Diagnostics:
    """The measurements of weighted draws against the same draws with equal weights."""
    n = weighted.draws.shape[0]
    dtype = weighted.log_weights.dtype
    plain = moments(weighted.draws, jnp.full(n, -jnp.log(float(n)), dtype))
    exact = moments(weighted.draws, weighted.log_weights)
    return Diagnostics(
        khat=weighted.khat,
        threshold=jnp.asarray(threshold(n), dtype),
        effective_sample_size=weighted.effective_sample_size,
        num_draws=jnp.asarray(n),
        mean_shift=jnp.max(jnp.abs(exact.mean - plain.mean) / exact.sd),
        sd_shift=jnp.max(jnp.abs(plain.sd / exact.sd - 1)),
        mean_error=jnp.max(exact.mean_error / exact.sd),
        sd_error=jnp.max(exact.sd_error / exact.sd),
        log_evidence=jax.scipy.special.logsumexp(weighted.log_ratios) - jnp.log(float(n)),
    )


def draw(family: Family, params: Any, key: PRNGKeyArray, num_samples: int) -> tuple[Array, Array]:
    """Flat draws of q, one a row, and their log densities."""
    if family.transform_flat is None:
        positions = family.sample(params, key, num_samples)
        draws = jax.vmap(family.ravel)(positions)
        log_q = jax.vmap(lambda z: family.log_prob(params, z))(positions)
        return draws, log_q + jax.vmap(family.log_volume)(draws)
    noise = independent(key, num_samples, family.noise_size, dtype_of(params))
    draws = jax.vmap(lambda e: family.transform_flat(params, e))(noise)
    return draws, jax.vmap(lambda z: family.log_prob_flat(params, z))(draws)


def diagnose(
    log_density: Callable[[PyTree], Scalar],
    family: Family,
    params: Any,
    key: PRNGKeyArray,
    *,
    num_samples: int = 8192,
) -> Diagnostics:
    r"""Importance weights of an approximation, and what they say about it.

    .. math::

        r_i = \frac{p(z_i)}{q(z_i)}, \qquad \text{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2},
        \qquad \hat k \le \min\Bigl(1 - \frac{1}{\log_{10} S},\ 0.7\Bigr)

    The largest ratios r are replaced by quantiles of a generalized Pareto fitted to them, whose
    shape is k̂; the result are the weights w. A q that is too wide has a small k̂, so the effective
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
        ValueError: If ``num_samples`` is below 100, or ``log_density`` does not return one number.

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
    positive_integer("vi.diagnose", "num_samples", num_samples, minimum=MIN_DRAWS)
    check_params("vi.diagnose", family.init, params)
    dtype = dtype_of(params)
    density = checked_density("vi.diagnose", "log_density", log_density, dtype)
    log_p = flat_log_density(density, family)
    draws, log_q = draw(family, params, key, num_samples)
    found: Diagnostics = summarize(weigh(draws, evaluate(log_p, draws), log_q))
    return found


def verdict(found: Diagnostics) -> tuple[bool, str]:
    """Whether weighted draws may be used, and one sentence that says why."""
    checks = [
        (
            found.khat <= found.threshold,
            f"the Pareto shape of the importance weights is {found.khat:.2f}, "
            f"above {found.threshold:.2f}",
        ),
        (
            found.effective_sample_size >= MIN_EFFECTIVE,
            f"the draws are worth {found.effective_sample_size:.0f}, "
            f"fewer than {MIN_EFFECTIVE:.0f}",
        ),
        (
            found.mean_error <= MAX_MEAN_ERROR,
            f"a mean has a standard error of {found.mean_error:.3f} sd, above {MAX_MEAN_ERROR}",
        ),
        (
            found.sd_error <= MAX_SD_ERROR,
            f"an sd has a relative standard error of {found.sd_error:.3f}, above {MAX_SD_ERROR}",
        ),
    ]
    # A nan compares false, so it fails.
    failed = [text for passed, text in checks if not bool(passed)]
    if failed:
        return False, f"Not trusted: {failed[0]}."
    return True, (
        f"Trusted: k̂ is {found.khat:.2f} (limit {found.threshold:.2f}) and the draws are worth "
        f"{found.effective_sample_size:.0f} independent ones."
    )
