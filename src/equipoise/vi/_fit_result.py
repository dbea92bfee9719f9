"""What a fit returns, and the draws to use."""

from typing import Any

import jax
import jax.numpy as jnp

from equipoise._check_old import positive_integer
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, aligned, result, static_field
from equipoise.vi._estimate import Estimate
from equipoise.vi._family import Family
from equipoise.vi._fit_start import affine
from equipoise.vi._weighted import Weighted


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


@result
class Fit:
    """A fitted approximation, and whether to believe it.

    Attributes:
        family: The :class:`Family` of q.
        params: Its fitted parameters.
        elbo: The evidence lower bound there with its standard error, from fresh draws; or, in
            float64 near a normal, by a sparse grid, with the difference to a smaller one.
        diagnostics: :class:`Diagnostics` of q.
        draw_diagnostics: :class:`Diagnostics` of the weighted draws that
            :func:`posterior_draws` uses, which an adapted proposal may have made.
        converged: Whether the criterion of convergence was met.
        trusted: Whether the draws of :func:`posterior_draws` may be used; false whenever a check
            fails or cannot be made.
        history: ELBO after each step, on the fit's own draws.
        state: What :func:`fit` continues from.
        weighted: The weighted draws, in flat coordinates.
        linear_response: Factor of the linear-response covariance of a mean-field normal, else None.
        reason: One sentence that says why it is trusted or not.
        source: Which draws :func:`posterior_draws` gives: ``"variational"``,
            ``"linear response"`` or ``"importance resampled"``.
    """

    family: Family
    params: Any
    elbo: Estimate
    diagnostics: Diagnostics
    draw_diagnostics: Diagnostics
    converged: Array
    trusted: Array
    history: Array
    state: Any
    weighted: Weighted
    linear_response: Any
    reason: str = static_field()
    source: str = static_field()

    def __str__(self) -> str:
        """What was fitted, how far it got, and whether it may be used."""
        draws = self.draw_diagnostics
        rows = [
            ["  family", self.family],
            ["  params", self.params],
            ["  elbo", self.elbo],
            ["  steps", self.history.shape[0]],
            ["  converged", self.converged],
            ["  khat of q", self.diagnostics.khat],
            ["  draws", self.source],
            ["  effective draws", draws.effective_sample_size],
            ["  log evidence", draws.log_evidence],
            ["  trusted", self.trusted],
            ["  reason", self.reason],
        ]
        return f"Fit\n{aligned(rows)}"


def posterior_draws(fit: Fit, key: PRNGKeyArray, num_samples: int) -> PyTree:
    r"""Best draws of the posterior that a fit can give.

    .. math::

        z_i = \tilde z_{c_i}, \qquad P(c_i = j) = w_j \propto p(\tilde z_j) / q(\tilde z_j)

    ``fit.source`` says where they come from. ``"importance resampled"``: from the weighted draws
    :math:`\tilde z` that the verdict of the fit was made on, smoothed weights w, systematically.
    ``"linear response"``: a normal with the mean of q and the linear-response covariance.
    ``"variational"``: q itself.

    Args:
        fit: What :func:`fit` returned.
        key: Randomness of the draws.
        num_samples: Number of draws.

    Returns:
        Positions with a leading axis of length ``num_samples``, in random order. Resampled
        positions repeat when there are more of them than effective draws.

    Raises:
        ValueError: If ``num_samples`` is below 1.

    Cost: O(d · ``num_samples``); the log density is not evaluated.

    Examples:
        >>> fit = vi.fit(lambda z: -0.5 * jnp.sum(z**2), jnp.zeros(2), jax.random.key(0))
        >>> draws = vi.posterior_draws(fit, jax.random.key(1), 1000)
        >>> print(draws.shape, fit.source)
        (1000, 2) variational

    References:
        :cite:t:`vehtari2024`; :cite:t:`giordano2018`.
    """
    positive_integer("vi.posterior_draws", "num_samples", num_samples)
    if fit.source == "variational":
        return fit.family.sample(fit.params, key, num_samples)
    if fit.source == "linear response":
        noise = jax.random.normal(key, (num_samples, fit.linear_response.shape[0]))
        flat = affine(
            fit.params["mean"], fit.linear_response, noise.astype(fit.linear_response.dtype)
        )
        return jax.vmap(fit.family.unravel)(flat)
    key_level, key_order = jax.random.split(key)
    dtype = fit.weighted.log_weights.dtype
    levels = jnp.arange(num_samples, dtype=dtype) + jax.random.uniform(key_level, (), dtype)
    total = jnp.cumsum(jnp.exp(fit.weighted.log_weights))
    index = jnp.searchsorted(total / total[-1], levels / num_samples)
    index = jnp.minimum(index, total.shape[0] - 1)
    index = jax.random.permutation(key_order, index)
    return jax.vmap(fit.family.unravel)(fit.weighted.draws[index])
