"""The two terms of the bound, their weights, and measured gradient noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

FAMILY = vi.mean_field(jnp.zeros(2))
PARAMS = {"mean": jnp.array([0.5, -0.3]), "log_scale": jnp.array([-0.2, 0.1])}
PRIOR = FAMILY.init(scale=2.0)


def log_likelihood(z):
    return -jnp.sum((z - 1) ** 2)


def log_prior(z):
    return FAMILY.log_prob(PRIOR, z)


@functools.partial(jax.jit, static_argnames="closed")
def terms(params, key, closed, scale=1.0):
    return vi.elbo_terms(
        log_likelihood,
        (FAMILY, PRIOR) if closed else log_prior,
        FAMILY,
        params,
        key,
        num_samples=20_000,
        likelihood_scale=scale,
    )


def test_elbo_terms_match_closed_forms_and_add_up(key):
    variance = np.exp(2 * np.asarray(PARAMS["log_scale"]))
    reconstruction = -np.sum((np.asarray(PARAMS["mean"]) - 1) ** 2 + variance)
    kl = vi.kl_divergence(FAMILY, PARAMS, FAMILY, PRIOR)
    for closed in (True, False):
        actual = terms(PARAMS, key, closed)
        for estimate, expected in (
            (actual.reconstruction, reconstruction),
            (actual.kl, kl),
            (actual.elbo, reconstruction - kl),
        ):
            assert abs(estimate.value - expected) < 4 * estimate.standard_error + 1e-12
        total = actual.reconstruction.value - actual.kl.value
        np.testing.assert_allclose(actual.elbo.value, total, rtol=1e-12)
    assert terms(PARAMS, key, True).kl.standard_error == 0
    assert terms(PARAMS, key, False).kl.standard_error > 0


def test_elbo_terms_scale_the_likelihood_of_a_minibatch(key):
    whole, part = terms(PARAMS, key, True, 3.0), terms(PARAMS, key, True, 1.0)
    np.testing.assert_allclose(whole.reconstruction.value, 3 * part.reconstruction.value)
    np.testing.assert_allclose(whole.kl.value, part.kl.value)


def test_elbo_terms_rejects_mistakes(key):
    bound = functools.partial(vi.elbo_terms, num_samples=2)
    with pytest.raises(TypeError, match=r"`prior` must be a log density or a pair"):
        bound(log_likelihood, 3.0, FAMILY, PARAMS, key)
    with pytest.raises(ValueError, match=r"vi.elbo_terms: `log_likelihood` must return one"):
        bound(lambda z: z, log_prior, FAMILY, PARAMS, key)
    with pytest.raises(ValueError, match=r"vi.elbo_terms: `prior` must return one"):
        bound(log_likelihood, lambda z: z, FAMILY, PARAMS, key)


def test_free_bits_has_a_floor_without_gradient():
    kl = jnp.array([0.1, 2.0])
    value, gradient = jax.value_and_grad(vi.free_bits)(kl, 0.5)
    assert value == 2.5
    np.testing.assert_array_equal(gradient, [0.0, 1.0])
    np.testing.assert_array_equal(jax.grad(vi.free_bits)(jnp.array([0.5]), 0.5), [0.5])
    with pytest.raises(TypeError, match=r"vi.free_bits: `kl` must be a floating-point array"):
        vi.free_bits(jnp.array([1]), 0.5)


def test_cyclical_weight_rises_from_zero_in_every_period():
    weights = [float(vi.cyclical_weight(t, period=10, ramp=0.5, maximum=2.0)) for t in range(20)]
    expected = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0] * 2
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`period` must be at least 1"):
        vi.cyclical_weight(0, period=0)
    with pytest.raises(ValueError, match=r"`ramp` must be in \(0, 1\]"):
        vi.cyclical_weight(0, period=2, ramp=0.0)


def test_gradient_variance_matches_a_closed_form(key):
    """g = 2(θ + ε) has mean 2θ and variance 4 in each coordinate."""
    theta = jnp.array([3.0, 0.0])

    def estimator(params, key):
        return jnp.sum((params + jax.random.normal(key, (2,))) ** 2)

    measure = jax.jit(lambda p, k: vi.gradient_variance(estimator, p, k, num_repeats=10_000))
    measured = measure(theta, key)
    # 5 standard errors: of a mean 2/100, of a variance 4·sqrt(2)/100, of a sum of two 8/100.
    np.testing.assert_allclose(measured.mean, 2 * theta, atol=0.1)
    np.testing.assert_allclose(measured.variance, 4.0, atol=0.29)
    assert abs(measured.total - 8.0) < 5 * measured.total_standard_error
    np.testing.assert_allclose(measured.total_standard_error, 0.08, rtol=0.1)
    np.testing.assert_allclose(measured.signal_to_noise, 6 / 8**0.5, rtol=0.05)
    assert measure(jnp.zeros(2), key).signal_to_noise < 0.05


def test_gradient_variance_rejects_mistakes(key):
    with pytest.raises(ValueError, match=r"`num_repeats` must be at least 2; got int 1"):
        vi.gradient_variance(lambda p, k: p, jnp.array(1.0), key, num_repeats=1)
    with pytest.raises(ValueError, match=r"`estimator` must return one number or an Estimate"):
        vi.gradient_variance(lambda p, k: p[None], jnp.array(1.0), key, num_repeats=2)
