"""How noisy a gradient estimator is, measured."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, result
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.family import Params


@result
class GradientVariance:
    """Mean and variance of a gradient estimator over independent repeats.

    Attributes:
        mean: Mean gradient, a pytree like the params.
        variance: Unbiased variance of one gradient, coordinate by coordinate.
        total: Sum of the variance over all coordinates.
        total_standard_error: Standard error of ``total``.
        signal_to_noise: Length of the expected gradient divided by the square root of ``total``.
    """

    mean: PyTree
    variance: PyTree
    total: Scalar
    total_standard_error: Scalar
    signal_to_noise: Scalar


@at("vi.gradient_variance")
def gradient_variance(
    estimator: Callable[[Params, PRNGKeyArray], Estimate | Scalar],
    params: Params,
    key: PRNGKeyArray,
    *,
    num_repeats: int = 100,
) -> GradientVariance:
    r"""Variance of a gradient estimator at a point, measured over independent repeats.

    .. math::

        \hat V = \sum_i \frac{1}{R - 1} \sum_{r=1}^R \bigl(g_i(\theta, k_r) - \bar g_i\bigr)^2,
        \qquad g = \nabla_\theta \hat L(\theta, k)

    Args:
        estimator: L̂, a function of ``(params, key)`` that returns an :class:`Estimate` or a
            scalar, such as ``lambda params, key: vi.elbo(log_density, family, params, key,
            num_samples=8)``. Any bound, family, draws or number of samples.
        params: θ, the point; a pytree of floating-point arrays.
        key: Randomness; every repeat has its own.
        num_repeats: R, at least 2.

    Returns:
        A :class:`GradientVariance`. The relative error of ``total`` is about √(2/R) or less for
        gradients near normal. ``signal_to_noise`` has the noise of the mean taken out, and is 0
        where nothing is left; it is nan or infinite where the variance is 0.

    Raises:
        ValueError: If ``num_repeats`` is below 2, or ``estimator`` does not return one number.

    Cost: ``num_repeats`` gradients, of which up to 32 at a time.

    Examples:
        >>> family = vi.mean_field(jnp.zeros(3))
        >>> def estimator(params, key):
        ...     log_density = lambda z: -0.5 * jnp.sum(z**2)
        ...     return vi.elbo(log_density, family, params, key, num_samples=4,
        ...                    gradient="sticking_the_landing")
        >>> measured = vi.gradient_variance(estimator, family.init(), jax.random.key(0))
        >>> print(measured.total)
        0.0

    References:
        :cite:t:`roeder2017`; :cite:t:`geffner2020`.
    """
    positive_integer("num_repeats", num_repeats, minimum=2)

    def objective(params: Params, key: PRNGKeyArray) -> Scalar:
        value = estimator(params, key)
        value = jnp.asarray(value.value if isinstance(value, Estimate) else value)
        if value.shape != ():
            raise value_error("estimator", "must return one number or an Estimate", value)
        return value

    found: GradientVariance = _measure(traced(objective, params, key), params, key, num_repeats)
    return found


@functools.partial(jax.jit, static_argnames="num_repeats")
def _measure(
    objective: Traced, params: Params, key: PRNGKeyArray, num_repeats: int
) -> GradientVariance:
    each = objective.over(lambda k: jax.grad(objective)(params, k), min(num_repeats, 32))
    gradients = each(jax.random.split(key, num_repeats))
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
    squares = jax.tree.map(lambda g, m: (g - m[None]) ** 2, gradients, mean)
    variance = jax.tree.map(lambda s: jnp.sum(s, axis=0) / (num_repeats - 1), squares)
    totals = _sum([jnp.sum(s.reshape(num_repeats, -1), axis=1) for s in jax.tree.leaves(squares)])
    total = jnp.sum(totals) / (num_repeats - 1)
    # The squared mean holds a share of the noise, total/R on average.
    signal = _sum([jnp.sum(m**2) for m in jax.tree.leaves(mean)]) - total / num_repeats
    return GradientVariance(
        mean=mean,
        variance=variance,
        total=total,
        total_standard_error=jnp.std(totals, ddof=1) / num_repeats**0.5,
        signal_to_noise=jnp.sqrt(jnp.maximum(signal, 0) / total),
    )


def _sum(terms: list[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
