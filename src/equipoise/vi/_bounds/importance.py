"""Tighter bounds from several draws, with gradients whose signal grows with their number."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._check import at, choice, positive_integer, random_key, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._bounds.density import LogDensity, density_of, dtype_of
from equipoise.vi._bounds.estimate import Estimate, standard_error
from equipoise.vi._families.draws import independent
from equipoise.vi._families.family import Family, Params, check_params, completed

_LogWeight: TypeAlias = Callable[[Params, Array], Scalar]
_Over: TypeAlias = Callable[[Callable[..., PyTree]], Callable[..., PyTree]]
_GRADIENTS = ("doubly_reparameterized", "pathwise")


@at("vi.importance_weighted_bound")
def importance_weighted_bound(
    log_density: LogDensity,
    family: Family,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_importance_samples: int,
    num_samples: int = 1,
    gradient: str = "doubly_reparameterized",
) -> Estimate:
    r"""Importance-weighted lower bound of the log evidence.

    .. math::

        \mathcal{L}_K = \mathbb{E}_{z_1, \dots, z_K \sim q_\theta} \Bigl[ \log \frac1K
        \sum_{k=1}^K w_k \Bigr] \le \log \int p(z)\, dz, \qquad w_k = \frac{p(z_k)}{q_\theta(z_k)}

    The bound is the ELBO at K = 1, and rises with K.

    Args:
        log_density: log p, a function of one position that returns one number.
        family: The :class:`Family` of q; it must be reparameterized.
        params: θ, as ``family.init`` returns them.
        key: Randomness of the draws.
        num_importance_samples: K, draws inside the logarithm.
        num_samples: S, independent copies that are averaged.
        gradient: ``"doubly_reparameterized"``: each draw's path counts with the square of its
            normalized weight, and the score is gone; unbiased, with a signal-to-noise ratio that
            rises like √K. ``"pathwise"``: the exact gradient of the value, whose ratio falls like
            1/√K for the params of q.

    Returns:
        An :class:`Estimate` over the S copies. The gradient with respect to what ``log_density``
        closes over is that of the value, whatever ``gradient``.

    Raises:
        ValueError: If ``log_density`` does not return one number, a number of samples is below 1,
            ``gradient`` is unknown, or the family is not reparameterized.

    Cost: K·S evaluations of ``log_density``, and of its gradient if doubly reparameterized.

    Examples:
        >>> family = vi.mean_field(0.0)
        >>> log_density = lambda z: -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi)
        >>> for k in (1, 10, 100):
        ...     bound = vi.importance_weighted_bound(
        ...         log_density, family, family.init(scale=1.5), jax.random.key(0),
        ...         num_importance_samples=k, num_samples=10_000)
        ...     print(f"{bound.value:.3f}")
        -0.235
        -0.012
        -0.001

    References:
        :cite:t:`burda2016`; :cite:t:`tucker2019`; :cite:t:`rainforth2018`.
    """
    return _bound(
        log_density,
        family,
        params,
        key,
        (num_importance_samples, num_samples),
        gradient,
        alpha=0.0,
    )


@at("vi.renyi_bound")
def renyi_bound(
    log_density: LogDensity,
    family: Family,
    params: Params,
    key: PRNGKeyArray,
    *,
    alpha: float,
    num_importance_samples: int,
    num_samples: int = 1,
    gradient: str = "doubly_reparameterized",
) -> Estimate:
    r"""Rényi's variational bound of the log evidence, estimated with K draws.

    .. math::

        \mathcal{L}_{\alpha, K} = \mathbb{E}_{z_1, \dots, z_K \sim q_\theta} \Bigl[
        \frac{1}{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha} \Bigr], \qquad
        w_k = \frac{p(z_k)}{q_\theta(z_k)}

    α = 1 is the ELBO and α = 0 the importance-weighted bound; in between it falls with α. A
    negative α gives an upper bound as K → ∞.

    Args:
        log_density: log p, a function of one position that returns one number.
        family: The :class:`Family` of q; it must be reparameterized.
        params: θ, as ``family.init`` returns them.
        key: Randomness of the draws.
        alpha: α, a finite Python number.
        num_importance_samples: K, draws inside the logarithm.
        num_samples: S, independent copies that are averaged.
        gradient: ``"doubly_reparameterized"``: the path of a draw with normalized weight v counts
            with α v + (1 − α) v², and the score is gone; at α = 1 this is sticking the landing.
            ``"pathwise"``: the exact gradient of the value.

    Returns:
        An :class:`Estimate` over the S copies, biased towards the ELBO for finite K.

    Raises:
        ValueError: If ``alpha`` is not finite, and as :func:`importance_weighted_bound`.

    Cost: K·S evaluations of ``log_density``, and of its gradient if doubly reparameterized.

    Examples:
        >>> family = vi.mean_field(0.0)
        >>> log_density = lambda z: -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi)
        >>> for alpha in (0.0, 0.5, 1.0):
        ...     bound = vi.renyi_bound(
        ...         log_density, family, family.init(scale=1.5), jax.random.key(0),
        ...         alpha=alpha, num_importance_samples=10, num_samples=10_000)
        ...     print(f"{bound.value:.3f}")
        -0.012
        -0.090
        -0.222

    References:
        :cite:t:`li2016`; :cite:t:`tucker2019`.
    """
    if not math.isfinite(alpha):
        raise value_error("alpha", "must be finite", alpha)
    return _bound(
        log_density,
        family,
        params,
        key,
        (num_importance_samples, num_samples),
        gradient,
        alpha=float(alpha),
    )


class _Options(NamedTuple):
    """The static options of a bound."""

    num_importance_samples: int
    num_samples: int
    gradient: str
    alpha: float


def _bound(
    log_density: LogDensity,
    family: Family,
    params: Params,
    key: PRNGKeyArray,
    counts: tuple[int, int],
    gradient: str,
    *,
    alpha: float,
) -> Estimate:
    importance, copies = counts
    positive_integer("num_importance_samples", importance)
    positive_integer("num_samples", copies)
    choice("gradient", gradient, _GRADIENTS)
    random_key("key", key)
    family = completed(family)
    if family.transform_flat is None:
        raise value_error(
            "family",
            "must be reparameterized for an importance-weighted bound",
            family.name,
            f"Draws of {family.name} have no derivative; vi.elbo has gradient='score_function'.",
        )
    found: Estimate = _estimate(
        density_of("log_density", log_density, family),
        params,
        key,
        family,
        _Options(importance, copies, gradient, alpha),
    )
    return found


@functools.partial(jax.jit, static_argnames=("family", "options"))
def _estimate(
    log_p: Traced, params: Params, key: PRNGKeyArray, family: Family, options: _Options
) -> Estimate:
    check_params(family, params)
    importance, copies, gradient, alpha = options
    one = _pathwise if gradient == "pathwise" else _doubly_reparameterized

    def log_weight(params: Params, flat: Array) -> Scalar:
        log_q = family.log_prob_flat(params, flat) - family.log_volume(flat)
        return log_p(family.unravel(flat)).astype(log_q.dtype) - log_q

    noise = independent(key, copies * importance, family.noise_size, dtype_of(params))
    noise = noise.reshape(copies, importance, family.noise_size)
    paths = jax.vmap(jax.vmap(family.transform_flat, (None, 0)), (None, 0))(params, noise)
    terms = log_p.over(lambda path: one(log_p.over, log_weight, params, path, alpha))(paths)
    return Estimate(jnp.mean(terms), standard_error(terms))


def _pathwise(
    over: _Over, log_weight: _LogWeight, params: Params, path: Array, alpha: float
) -> Scalar:
    return _mean_of_powers(over(functools.partial(log_weight, params))(path), alpha)


def _doubly_reparameterized(
    over: _Over, log_weight: _LogWeight, params: Params, path: Array, alpha: float
) -> Scalar:
    fixed, z = jax.lax.stop_gradient((params, path))
    log_w, slope = over(jax.value_and_grad(functools.partial(log_weight, fixed)))(z)
    v = jax.nn.softmax((1 - alpha) * log_w)
    counted = (alpha * v + (1 - alpha) * v**2)[:, None] * slope
    # Of value 0: the derivative of z with the weights that remain once the score is gone.
    credit = jnp.sum(jax.lax.stop_gradient(counted) * (path - z))
    return _mean_of_powers(log_w, alpha) + credit


def _mean_of_powers(log_w: Array, alpha: float) -> Scalar:
    """Log of the power mean of the weights of exponent 1 − α; of the geometric mean at α = 1."""
    if alpha == 1:
        return jnp.mean(log_w)
    power = 1 - alpha
    return (jax.nn.logsumexp(power * log_w) - math.log(log_w.shape[0])) / power
