"""Attention as inference over which key to read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from equipoise import attention


@pytest.fixture
def problem(rng):
    return rng.normal(size=4), rng.normal(size=(6, 4)), rng.normal(size=(6, 3))


@jax.jit
def row(q, keys, values, **options):
    return attention.dot_product_attention(
        q[None, None], keys[:, None], values[:, None], scale=1.0, return_residual=True, **options
    )


def test_weights_are_the_derivative_of_the_log_sum_exp(problem):
    q, keys, values = problem

    def lse(bias):
        return row(q, keys, values, bias=bias[None, None])[1][0, 0]

    weights = jax.jit(jax.grad(lse))(jnp.zeros(6))
    np.testing.assert_allclose(weights, jax.nn.softmax(keys @ q), rtol=1e-13)
    # A tilt u·v of the scores: its derivative is the output, the second one a covariance.
    tilted = lambda u: lse(jnp.asarray(values) @ u)  # noqa: E731
    output = jax.jit(jax.grad(tilted))(jnp.zeros(3))
    np.testing.assert_allclose(output, row(q, keys, values)[0][0, 0], rtol=1e-12)
    p = np.asarray(weights)
    covariance = values.T @ (np.diag(p) - np.outer(p, p)) @ values
    np.testing.assert_allclose(jax.jit(jax.hessian(tilted))(jnp.zeros(3)), covariance, atol=1e-14)


def test_weights_are_the_posterior_of_a_mixture_of_normals(problem):
    q, keys, values = problem
    likelihood = np.array([scipy.stats.multivariate_normal(k).pdf(q) for k in keys])
    bias = -0.5 * np.sum(keys**2, axis=1)
    output, lse = row(q, keys, values, bias=jnp.asarray(bias)[None, None])
    posterior = likelihood / likelihood.sum()
    np.testing.assert_allclose(output[0, 0], posterior @ values, rtol=1e-12)
    evidence = lse[0, 0] - 0.5 * q @ q - 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(evidence, np.log(likelihood.sum()), rtol=1e-13)


def test_temperature_weighs_the_entropy(problem, rng):
    """max over p of Σ p s + τ H(p) is τ log Σ e^{s/τ}, at softmax(s/τ)."""
    q, keys, values = problem
    scores = keys @ q
    for tau in (0.3, 1.0, 4.0):
        best = tau * row(q / tau, keys, values)[1][0, 0]
        p = scipy.special.softmax(scores / tau)
        np.testing.assert_allclose(p @ scores + tau * scipy.stats.entropy(p), best, rtol=1e-13)
        for other in rng.dirichlet(np.ones(6), size=20):
            gap = best - (other @ scores + tau * scipy.stats.entropy(other))
            np.testing.assert_allclose(gap, tau * scipy.stats.entropy(other, p), rtol=1e-9)
