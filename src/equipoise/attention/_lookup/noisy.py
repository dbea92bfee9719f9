"""What one head and several heads read when the keys are noisy."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, positive_integer, value_error
from equipoise._types import Array, Float, PRNGKeyArray, result
from equipoise.attention._kernel.mesh import replicated


@result
class NoisyLookup:
    """Mean and variance over noisy keys of the weight that each key gets.

    Attributes:
        mean: Mean weight of each key, ``(n,)``.
        mean_standard_error: Monte Carlo standard error of ``mean``, ``(n,)``.
        variance: Variance of each key's weight, ``(n,)``.
        variance_standard_error: Monte Carlo standard error of ``variance``, ``(n,)``.
    """

    mean: Float[Array, " n"]
    mean_standard_error: Float[Array, " n"]
    variance: Float[Array, " n"]
    variance_standard_error: Float[Array, " n"]


@at("attention.noisy_lookup")
@replicated
def noisy_lookup(
    keys: Float[Array, "n d"],
    queries: Float[Array, "heads d"],
    key: PRNGKeyArray,
    *,
    noise: Float[Array, "n d r"],
    num_samples: int,
) -> NoisyLookup:
    r"""Weights that heads, averaged, put on keys that are drawn anew for each sample.

    .. math::

        k_i \sim N(\mu_i, F_i F_i^\top), \qquad
        \alpha = \frac1H \sum_{h=1}^{H} \operatorname{softmax}(k\, q_h)

    The experiment of one head against two: to average the values at a and b, one head asks with
    β(μ_a + μ_b), two heads ask with βμ_a and βμ_b. If the length of k_a fluctuates, the one head
    swings between the two values; the two heads stay put as long as k_a keeps its sign.

    Args:
        keys: μ, the mean of each key. Shape ``(n, d)``.
        queries: q, one row per head. Shape ``(heads, d)``.
        key: Randomness; equal keys give equal draws, in every dtype of ``keys``.
        noise: F, a factor of each key's covariance. Shape ``(n, d, r)``; zero for exact keys.
        num_samples: Draws of all keys, at least 2.

    Returns:
        :class:`NoisyLookup`. Without noise the mean is exact and the variance 0 up to rounding.

    Raises:
        ValueError: If shapes disagree or ``num_samples`` is below 2.
        TypeError: If an array is not floating-point or ``num_samples`` no Python integer.

    Cost: O(num_samples · n · (r + heads)) FLOPs and memory, after O(heads · n · d · r) once.

    Examples:
        >>> keys = jnp.eye(2)
        >>> noise = jnp.zeros((2, 2, 1)).at[0, 0, 0].set(0.5 ** 0.5)
        >>> draw = jax.random.key(0)
        >>> one = attention.noisy_lookup(
        ...     keys, 20 * keys.sum(0, keepdims=True), draw, noise=noise, num_samples=4000)
        >>> two = attention.noisy_lookup(keys, 20 * keys, draw, noise=noise, num_samples=4000)
        >>> print(bool(one.variance[0] > 10 * two.variance[0]))
        True

    References:
        :cite:t:`vaswani2017`, section 3.2.2, for the averaging that several heads avoid.
    """
    mu = floating_array("keys", keys)
    q = floating_array("queries", queries)
    factor = floating_array("noise", noise)
    num_samples = positive_integer("num_samples", num_samples, minimum=2)
    if mu.ndim != 2:
        raise value_error("keys", "must have shape (n, d)", mu)
    if q.ndim != 2 or q.shape[1] != mu.shape[1] or q.shape[0] == 0:
        raise value_error(
            "queries",
            f"must have shape (heads, {mu.shape[1]}), one row for each head",
            q,
            "A single query is query[None].",
        )
    if factor.ndim != 3 or factor.shape[:2] != mu.shape:
        raise value_error("noise", f"must have shape ({mu.shape[0]}, {mu.shape[1]}, r)", factor)
    return _looked_up(mu, q, factor, key, num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def _looked_up(
    mu: Array, q: Array, factor: Array, key: PRNGKeyArray, num_samples: int
) -> NoisyLookup:
    # The scores are Gaussian too, so the keys themselves need not be drawn.
    center = q @ mu.T
    spread = jnp.einsum("hd,ndr->hnr", q, factor)
    draws = jax.random.normal(key, (num_samples, len(mu), factor.shape[2]), jnp.float32)
    scores = center[None] + jnp.einsum("hnr,mnr->mhn", spread, draws.astype(mu.dtype))
    alpha = jnp.mean(jax.nn.softmax(scores), axis=1)
    mean = jnp.mean(alpha, axis=0)
    squares = (alpha - mean[None]) ** 2
    # Unbiased: the mean was estimated from the same draws.
    variance = jnp.sum(squares, axis=0) / (num_samples - 1)
    fourth = jnp.var(squares, axis=0)
    return NoisyLookup(
        mean=mean,
        mean_standard_error=_root(variance / num_samples),
        variance=variance,
        variance_standard_error=_root(fourth / num_samples),
    )


def _root(x: Array) -> Array:
    """√x with gradient 0 at 0, where keys have no noise."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
