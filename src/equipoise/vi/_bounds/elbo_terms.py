"""The two terms of the ELBO apart, and the plain functions that weigh them."""

import functools
from typing import TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, floating_array, positive_integer, type_error, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, PRNGKeyArray, Scalar, result
from equipoise.vi._bounds.density import LogDensity, density_of, dtype_of
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._bounds.kl import kl_divergence
from equipoise.vi._bounds.sampling import Sampling, check_sampling, draw, estimate
from equipoise.vi._families.family import Family, Params, completed

_Prior: TypeAlias = LogDensity | tuple[Family, Params]


@result
class ElboTerms:
    """Reconstruction and divergence of a bound, each with its standard error.

    Attributes:
        reconstruction: Expected log-likelihood, times the likelihood scale.
        kl: Divergence from the prior; its standard error is 0 where it has a closed form.
        elbo: reconstruction − kl, whose standard error counts that both use the same draws.
    """

    reconstruction: Estimate
    kl: Estimate
    elbo: Estimate


@at("vi.elbo_terms")
def elbo_terms(
    log_likelihood: LogDensity,
    prior: _Prior,
    family: Family,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    gradient: str = "closed_form_entropy",
    draws: str = "iid",
    replications: int = 4,
    likelihood_scale: float | Scalar = 1.0,
) -> ElboTerms:
    r"""Reconstruction and divergence from the prior, each with its error.

    .. math::

        \operatorname{ELBO} =
        \underbrace{c\, \mathbb{E}_q[\log p(x \mid z)]}_{\text{reconstruction}}
        - \underbrace{\operatorname{KL}(q(z) \,\|\, p(z))}_{\text{kl}}

    Args:
        log_likelihood: log p(x | z), a function of one position that returns one number.
        prior: p(z): its log density, normalized, as a function of one position, for a sampled
            divergence; or a pair ``(family, params)``, for a closed one where both are normal and
            a sampled one where they are not.
        family: The :class:`Family` of q.
        params: Params of q.
        key: Randomness of the draws.
        num_samples: Number of draws.
        gradient: The gradient estimator, as in :func:`elbo`.
        draws: ``"iid"``, ``"antithetic"`` or ``"quasi_random"``, as in :func:`elbo`.
        replications: Number of independent lattices of quasi-random draws.
        likelihood_scale: c, the size of the data divided by that of a minibatch: with it the
            reconstruction of a random minibatch is unbiased for that of all data.

    Returns:
        An :class:`ElboTerms`. For β ≠ 1 use ``reconstruction.value - beta * kl.value``, and
        :func:`free_bits` on ``kl.value`` for a floor.

    Raises:
        TypeError: If ``prior`` is neither a function nor a pair.
        ValueError: If ``log_likelihood`` or ``prior`` does not return one number, and as
            :func:`elbo`.

    Cost: ``num_samples`` evaluations of ``log_likelihood``, and of ``prior`` where it is sampled.

    Examples:
        >>> family = vi.mean_field(0.0)
        >>> posterior = family.init(position=8.0, scale=0.2**0.5)
        >>> log_likelihood = lambda z: -0.5 * (10 - z) ** 2 / 0.25 - 0.5 * jnp.log(jnp.pi / 2)
        >>> terms = vi.elbo_terms(
        ...     log_likelihood, (family, family.init()), family, posterior, jax.random.key(0),
        ...     num_samples=64, draws="quasi_random",
        ... )
        >>> print(terms.kl)
        32.4047 ± 0

    References:
        :cite:t:`kingma2014`, equation 3.
    """
    options = Sampling(num_samples, gradient, draws, replications)
    family = completed(family)
    check_sampling(family, options)
    densities = [density_of("log_likelihood", log_likelihood, family)]
    other, other_params = None, None
    if _is_pair(prior) and _both_normal(family, prior[0]):
        other, other_params = prior
    else:
        densities.append(density_of("prior", _log_prior(prior), family))
    scale = likelihood_scale if hasattr(likelihood_scale, "dtype") else np.asarray(likelihood_scale)
    found: ElboTerms = _terms(
        tuple(densities), params, other_params, scale, key, family, other, options
    )
    return found


@functools.partial(jax.jit, static_argnames=("family", "other", "options"))
def _terms(
    densities: tuple[Traced, ...],
    params: Params,
    other_params: Params,
    scale: Array,
    key: PRNGKeyArray,
    family: Family,
    other: Family | None,
    options: Sampling,
) -> ElboTerms:
    log_p, *log_prior = densities
    z = draw(family, params, key, options)
    reconstruction = z.credited(scale.astype(dtype_of(params)) * z.each(log_p))
    if other is not None:
        kl = kl_divergence(family, params, other, other_params)
        divergence, of_divergence = kl, Estimate(kl, jnp.zeros_like(kl))
    else:
        divergence = z.credited(-z.entropy - z.each(*log_prior))
        of_divergence = estimate(divergence)
    whole = estimate(reconstruction - divergence)
    return ElboTerms(estimate(reconstruction), of_divergence, whole)


def _both_normal(family: Family, other: Family) -> bool:
    """Whether the divergence has a closed form."""
    normal = family.moments is not None and other.moments is not None
    return normal and family.positions == other.positions


def _is_pair(prior: _Prior) -> TypeGuard[tuple[Family, Params]]:
    return isinstance(prior, tuple) and len(prior) == 2 and isinstance(prior[0], Family)


def _log_prior(prior: _Prior) -> LogDensity:
    if _is_pair(prior):
        return functools.partial(prior[0].log_prob, prior[1])
    if not callable(prior):
        raise type_error("prior", "must be a log density or a pair (family, params)", prior)
    return prior


@at("vi.free_bits")
def free_bits(kl: Array, minimum: float | Array) -> Array:
    r"""Divergence with a floor, below which it costs nothing and has no gradient.

    .. math::

        \sum_i \max(\mathrm{kl}_i, \lambda)

    Args:
        kl: Divergences in nats, one for each group of latents; any shape.
        minimum: λ, in nats, for each group.

    Returns:
        The sum over groups. Where kl_i = λ exactly, half of its gradient passes.

    Raises:
        TypeError: If ``kl`` is not floating-point.

    Cost: one comparison for each group.

    Examples:
        >>> print(vi.free_bits(jnp.array([0.1, 2.0]), 0.5))
        2.5

    References:
        :cite:t:`kingma2016`, section C.8.
    """
    kl = floating_array("kl", kl)
    return jnp.sum(jnp.maximum(kl, jnp.asarray(minimum, kl.dtype)))


@at("vi.cyclical_weight")
def cyclical_weight(
    step: int | Array, *, period: int, ramp: float = 0.5, maximum: float = 1.0
) -> Scalar:
    r"""Weight β of the divergence that rises from 0 again and again.

    .. math::

        \beta(t) = \beta_{\max} \min\!\left(\frac{t \bmod T}{r\,T}, 1\right)

    Args:
        step: t, the number of steps taken; a scalar.
        period: T, steps from one start to the next. For a single ramp take more than all steps.
        ramp: r, the part of a period in which the weight rises.
        maximum: β_max, the weight after the ramp.

    Returns:
        The weight, a scalar: 0 at the start of a period. A function of ``step`` alone, so it can
        be passed wherever ``optax`` takes a schedule.

    Raises:
        ValueError: If ``period`` is below 1 or ``ramp`` not in (0, 1].

    Cost: a few operations.

    Examples:
        >>> print(vi.cyclical_weight(25, period=100), vi.cyclical_weight(175, period=100))
        0.5 1.0

    References:
        :cite:t:`fu2019`.
    """
    positive_integer("period", period)
    if not 0 < ramp <= 1:
        raise value_error("ramp", "must be in (0, 1]", ramp)
    phase = jnp.remainder(jnp.asarray(step), period) / period
    return maximum * jnp.minimum(phase / ramp, 1.0)
