"""The evidence lower bound: value, standard error, and a choice of gradient estimators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from equipoise._check import choice, positive_integer, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._draws import independent
from equipoise.vi._estimate import Estimate, standard_error
from equipoise.vi._family import Family

GRADIENTS = ("closed_form_entropy", "sticking_the_landing")


def flat_log_density(
    where: str, log_density: Callable[[PyTree], Scalar], family: Family
) -> Callable[[Array], Scalar]:
    """Log density of the flat vector, log p(position) + log |∂position/∂flat|, checked."""

    def flat_density(flat: Array) -> Scalar:
        value = jnp.asarray(log_density(family.unravel(flat)))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise value_error(
                where,
                "log_density",
                "must return one floating-point number for one position",
                value,
                "Sum over the data inside it; positions are mapped for you.",
            )
        total: Array = value.astype(flat.dtype) + family.log_volume(flat)
        return total

    return flat_density


def elbo(
    log_density: Callable[[PyTree], Scalar],
    family: Family,
    params: Any,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    gradient: str = "closed_form_entropy",
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
        gradient: What ``jax.grad`` of the value estimates the gradient with:
            ``"closed_form_entropy"``, the exact gradient of this value, with the part of the
            entropy that has a closed form in place of draws; ``"sticking_the_landing"``, without
            the score of q, zero variance where q = p.

    Returns:
        An :class:`Estimate`. It is the bound itself, never the loss: maximize it.

    Raises:
        ValueError: If ``log_density`` does not return one number, ``num_samples`` is below 1 or
            ``gradient`` is none of those above.

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
        :cite:t:`kingma2014`, :cite:t:`roeder2017`.
    """
    positive_integer("vi.elbo", "num_samples", num_samples)
    choice("vi.elbo", "gradient", gradient, GRADIENTS)
    log_p = flat_log_density("vi.elbo", log_density, family)
    noise = independent(key, num_samples, family.noise_size, _dtype(params))

    def closed_form_entropy(noise: Array) -> Any:
        return log_p(family.transform_flat(params, noise)) + family.entropy_term(params, noise)

    def sticking_the_landing(noise: Array) -> Any:
        z = family.transform_flat(params, noise)
        return log_p(z) - family.log_prob_flat(jax.lax.stop_gradient(params), z)

    term = closed_form_entropy if gradient == "closed_form_entropy" else sticking_the_landing
    terms = jax.vmap(term)(noise)
    return Estimate(jnp.mean(terms), standard_error(terms))


def _dtype(params: Any) -> Any:
    return jax.tree.leaves(params)[0].dtype
