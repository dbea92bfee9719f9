"""The fit: closed forms, what it reports, and what it rejects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

LOG_2PI = np.log(2 * np.pi)


def normal_log_prob(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * LOG_2PI


def one_dimension(z):
    return normal_log_prob(z, 0.0, 1.0) + normal_log_prob(10.0, z, 0.5)


def test_fit_finds_the_posterior_of_one_observation(key):
    fit = vi.fit(one_dimension, jnp.zeros(()), key)
    # A normal target is integrated exactly by balanced points, so only rounding is left.
    np.testing.assert_allclose(fit.params["mean"], [8.0], rtol=1e-9)
    np.testing.assert_allclose(np.exp(fit.params["log_scale"]), [0.2**0.5], rtol=1e-9)
    np.testing.assert_allclose(fit.elbo.value, -41.030510, atol=1e-6)
    assert fit.converged
    assert fit.trusted
    assert fit.source == "variational"


def test_fit_reaches_the_evidence_of_a_conjugate_regression(key, rng):
    design, noise = rng.normal(size=(100, 5)), rng.normal(size=100)
    outcome = design @ np.arange(5.0) + noise

    def log_density(beta):
        prior = jnp.sum(normal_log_prob(beta, 0.0, 10.0))
        return prior + jnp.sum(normal_log_prob(jnp.asarray(outcome), design @ beta, 1.0))

    fit = vi.fit(log_density, jnp.zeros(5), key)
    covariance = 100 * design @ design.T + np.eye(100)
    evidence = -0.5 * (
        outcome @ np.linalg.solve(covariance, outcome)
        + np.linalg.slogdet(covariance)[1]
        + 100 * LOG_2PI
    )
    # q is the posterior, where log p − log q is constant up to rounding of sums of 100 terms.
    np.testing.assert_allclose(fit.elbo.value, evidence, atol=1e-9)
    assert fit.elbo.standard_error < 1e-10
    assert fit.trusted


def test_posterior_draws_have_the_structure_of_the_example(key):
    example = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    fit = vi.fit(lambda z: -jnp.sum(z["a"] ** 2) - (z["b"] - 1) ** 2, example, key)
    draws = vi.posterior_draws(fit, key, 50)
    assert jax.tree.map(jnp.shape, draws) == {"a": (50, 2), "b": (50,)}
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        vi.posterior_draws(fit, key, 0)


def test_fit_rejects_what_it_cannot_start_from(key):
    with pytest.raises(ValueError, match="`log_density` must have a finite value at the start"):
        vi.fit(lambda z: jnp.log(z[0]), jnp.zeros(1), key)
    with pytest.raises(ValueError, match="`log_density` must return one floating-point number"):
        vi.fit(lambda z: -(z**2), jnp.zeros(3), key)
    with pytest.raises(TypeError, match="`example` must be floating-point"):
        vi.fit(lambda z: -jnp.sum(z**2), jnp.zeros(3, int), key)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        vi.fit(one_dimension, jnp.zeros(()), key, num_samples=0)
    with pytest.raises(TypeError, match="`family` must be a Family"):
        vi.fit(one_dimension, jnp.zeros(()), key, family="full_rank")
