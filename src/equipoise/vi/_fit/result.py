"""What a fit returns, and the draws to use."""

import enum
import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer, random_key, type_error
from equipoise._types import Array, PRNGKeyArray, PyTree, aligned, result, static_field
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.draws import affine, independent
from equipoise.vi._families.family import Family, Params
from equipoise.vi._stages.escalate import Stage
from equipoise.vi._weights.diagnose import Diagnostics
from equipoise.vi._weights.verdict import Verdict
from equipoise.vi._weights.weighted import Weighted


class Source(enum.StrEnum):
    """Where :func:`posterior_draws` draws from; equal to its name as a string.

    ``VARIATIONAL``: q itself is drawn from. ``LINEAR_RESPONSE``: a normal with the mean of q and
    the covariance that the response of its mean to the target gives. ``IMPORTANCE_RESAMPLED``: the
    weighted draws that the verdict of the fit was made on are drawn from again. So are those of the
    stages that come after. ``CONDITIONAL``: a few coordinates are drawn from a mixture, and all
    others from the normal that they leave. ``ANNEALED``: particles that were moved and weighed on
    the way from q to p. ``FLOW``: a flow that was trained from a normal like those particles.
    """

    VARIATIONAL = "variational"
    LINEAR_RESPONSE = "linear response"
    IMPORTANCE_RESAMPLED = "importance resampled"
    CONDITIONAL = "conditional"
    ANNEALED = "annealed"
    FLOW = "flow"


@result
class Fit:
    """A fitted approximation, and whether to believe it.

    Attributes:
        family: The :class:`Family` of q.
        params: Its fitted parameters.
        elbo: The evidence lower bound there with its standard error, from fresh draws; or, in
            float64 near a normal, by a sparse grid: then nothing is drawn, its standard error is
            0, and ``elbo.error_bound`` is the difference to a smaller grid.
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
        source: Which draws :func:`posterior_draws` gives, a :class:`Source`: ``"variational"``,
            ``"linear response"`` or ``"importance resampled"``, or one of a later stage.
        verdict: The :class:`Verdict` whose sentence ``reason`` is.
        stages: What was tried or left out, from cheap to expensive: pairs of a source and its
            reason.
        evaluations: How often the log density was evaluated at a point, with its gradient or
            without, in all of the fit; each direction of a second derivative counts as one more.
    """

    family: Family
    params: Params
    elbo: Estimate
    diagnostics: Diagnostics
    draw_diagnostics: Diagnostics
    converged: Array
    trusted: Array
    history: Array
    state: PyTree
    weighted: Weighted
    linear_response: PyTree
    reason: str = static_field()
    source: Source = static_field()
    verdict: Verdict = static_field()
    stages: tuple[Stage, ...] = static_field()
    evaluations: int = static_field()

    def __str__(self) -> str:
        """What was fitted, how far it got, and whether it may be used."""
        draws = self.draw_diagnostics
        rows = [
            ["  family", self.family],
            ["  params", self.params],
            ["  elbo", self.elbo],
            ["  steps", self.history.shape[0]],
            ["  evaluations", f"{self.evaluations:,}"],
            ["  converged", self.converged],
            ["  khat of q", self.diagnostics.khat],
            ["  draws", self.source],
            ["  effective draws", draws.effective_sample_size],
            ["  log evidence", Estimate(draws.log_evidence, draws.log_evidence_error)],
            ["  trusted", self.trusted],
            ["  reason", self.reason],
            *(
                ["  tried", f"{x.source}. {x.reason}"]
                for x in self.stages
                if x.source != self.source
            ),
        ]
        return f"Fit\n{aligned(rows)}"


def check_fit(fit: Fit) -> None:
    """Raises where something else comes, such as a family or its params."""
    if not isinstance(fit, Fit):
        raise type_error("fit", "must be a Fit", fit, "Give what vi.fit returned.")


@at("vi.posterior_draws")
def posterior_draws(fit: Fit, key: PRNGKeyArray, num_samples: int) -> PyTree:
    r"""Best draws of the posterior that a fit can give.

    .. math::

        z_i = \tilde z_{c_i}, \qquad P(c_i = j) = w_j \propto p(\tilde z_j) / q(\tilde z_j)

    ``fit.source`` says where they come from. ``"importance resampled"``, ``"conditional"``,
    ``"annealed"`` and ``"flow"``: from the weighted draws
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
        TypeError: If ``fit`` is none, or ``key`` is no key.

    Cost: O(d · ``num_samples``); the log density is not evaluated.

    Examples:
        >>> fit = vi.fit(lambda z: -0.5 * jnp.sum(z**2), jnp.zeros(2), jax.random.key(0))
        >>> draws = vi.posterior_draws(fit, jax.random.key(1), 1000)
        >>> print(draws.shape, fit.source)
        (1000, 2) variational

    References:
        :cite:t:`vehtari2024`; :cite:t:`giordano2018`.
    """
    check_fit(fit)
    random_key("key", key)
    positive_integer("num_samples", num_samples)
    if fit.source is Source.VARIATIONAL:
        return _drawn(fit.family, fit.params, key, num_samples)
    if fit.source is Source.LINEAR_RESPONSE:
        return _around(fit.family, fit.params, fit.linear_response, key, num_samples)
    return _resampled(fit.family, fit.weighted, key, num_samples)


@functools.partial(jax.jit, static_argnames=("family", "num_samples"))
def _drawn(family: Family, params: Params, key: PRNGKeyArray, num_samples: int) -> PyTree:
    return family.sample(params, key, num_samples)


@functools.partial(jax.jit, static_argnames=("family", "num_samples"))
def _around(
    family: Family, params: Params, factor: Array, key: PRNGKeyArray, num_samples: int
) -> PyTree:
    """Draws of the normal with the mean of q and that factor of its covariance."""
    noise = independent(key, num_samples, factor.shape[0], factor.dtype)
    mean = family.moments(params)[0].astype(factor.dtype)
    return jax.vmap(family.unravel)(affine(mean, factor, noise))


@functools.partial(jax.jit, static_argnames=("family", "num_samples"))
def _resampled(family: Family, weighted: Weighted, key: PRNGKeyArray, num_samples: int) -> PyTree:
    """Weighted draws, each as often as its weight says, up to one."""
    key_level, key_order = jax.random.split(key)
    dtype = weighted.log_weights.dtype
    levels = jnp.arange(num_samples, dtype=dtype) + jax.random.uniform(key_level, (), dtype)
    total = jnp.cumsum(jnp.exp(weighted.log_weights))
    index = jnp.searchsorted(total / total[-1], levels / num_samples)
    index = jnp.minimum(index, total.shape[0] - 1)
    index = jax.random.permutation(key_order, index)
    return jax.vmap(family.unravel)(weighted.draws[index])
