"""The evidence lower bound: value, standard error, and a choice of gradient estimators."""

import functools

import jax

from equipoise._check import at
from equipoise._jax.traced import Traced
from equipoise._types import PRNGKeyArray
from equipoise.vi._bounds.density import LogDensity, density_of
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._bounds.sampling import Sampling, check_sampling, draw, estimate
from equipoise.vi._families.family import Family, Params, completed


@at("vi.elbo")
def elbo(
    log_density: LogDensity,
    family: Family,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    gradient: str = "closed_form_entropy",
    draws: str = "iid",
    replications: int = 4,
) -> Estimate:
    r"""Evidence lower bound of a log density, with its standard error.

    .. math::

        \operatorname{ELBO}(\theta) = \mathbb{E}_{z \sim q_\theta}
        \bigl[\log p(z) - \log q_\theta(z)\bigr] \le \log \int p(z)\, dz

    Args:
        log_density: log p, a function of one position that returns one number; it need not be
            normalized. Positions have the structure and shapes of the family's example.
        family: The :class:`Family` of q.
        params: θ, as ``family.init`` returns them.
        key: Randomness of the draws.
        num_samples: Number of draws.
        gradient: How ``jax.grad`` of the value estimates the gradient of the bound.
            ``"closed_form_entropy"``: the exact gradient of this value, in which the part of the
            entropy that has a closed form is not sampled. ``"sticking_the_landing"``: without the
            score of q, so that its variance is 0 where q = p. ``"score_function"``: for draws
            that have no derivative, with the mean of the other draws as baseline.
        draws: ``"iid"``; ``"antithetic"``, pairs of draws that mirror each other;
            ``"quasi_random"``, a randomly shifted and folded rank-1 lattice.
        replications: Number of independent lattices that quasi-random draws are divided into;
            their spread gives the standard error. One lattice has the least variance, and a
            standard error of nan.

    Returns:
        An :class:`Estimate`. It is the bound itself, never the loss: maximize it. The gradient
        with respect to what ``log_density`` closes over is that of the value, whatever
        ``gradient``. The standard error is over independent draws, pairs or lattices.

    Raises:
        ValueError: If ``log_density`` does not return one number, ``num_samples`` is below 1 or
            not a multiple of the number of pairs or lattices, an option is unknown, or the family
            is not reparameterized and ``gradient`` or ``draws`` needs that it is.

    Cost: ``num_samples`` evaluations of ``log_density``.

    Examples:
        >>> family = vi.mean_field(jnp.zeros(2))
        >>> log_density = lambda z: -0.5 * jnp.sum(z**2)
        >>> bound = vi.elbo(
        ...     log_density, family, family.init(), jax.random.key(0), num_samples=8,
        ...     gradient="sticking_the_landing",
        ... )
        >>> print(f"{bound.value:.4f}")
        1.8379

    References:
        :cite:t:`kingma2014`; :cite:t:`roeder2017` (sticking the landing); :cite:t:`kool2019` (the
        baseline); :cite:t:`buchholz2018` (quasi-random draws).
    """
    options = Sampling(num_samples, gradient, draws, replications)
    family = completed(family)
    check_sampling(family, options)
    found: Estimate = _bound(
        density_of("log_density", log_density, family), params, key, family, options
    )
    return found


@functools.partial(jax.jit, static_argnames=("family", "options"))
def _bound(
    log_p: Traced, params: Params, key: PRNGKeyArray, family: Family, options: Sampling
) -> Estimate:
    z = draw(family, params, key, options)
    return estimate(z.credited(z.each(log_p) + z.entropy))
