"""The annealed bound: between the ELBO and the log evidence, and of the right slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from equipoise import vi

FAMILY = vi.mean_field(np.zeros(2))
PARAMS = FAMILY.init(position=np.array([0.3, -0.2]), scale=1.5)
EVIDENCE = 0.7


def log_density(z):
    """Correlated, so that no mean-field normal is exact."""
    return EVIDENCE - jnp.log(2 * jnp.pi) - 0.5 * (z[0] ** 2 + (z[1] - 0.8 * z[0]) ** 2)


def bound(params, key, **options):
    return vi.annealed_bound(log_density, FAMILY, params, key, **options)


def test_annealed_bound_without_steps_is_the_elbo(key):
    found = bound(PARAMS, key, num_temperatures=3, num_samples=20_000, step_size=0.0)
    elbo = vi.elbo(log_density, FAMILY, PARAMS, key, num_samples=20_000)
    # Of independent draws: five standard errors of the difference.
    error = np.hypot(found.standard_error, elbo.standard_error)
    assert abs(found.value - elbo.value) < 5 * error


def test_annealed_bound_rises_to_the_evidence(key):
    few, many = (bound(PARAMS, key, num_temperatures=k, num_samples=4000) for k in (4, 64))
    assert few.value + 5 * few.standard_error < many.value
    # Sixteen times the temperatures: the gap falls like 1/K, and by four at least.
    assert EVIDENCE - many.value < (EVIDENCE - few.value) / 4
    assert many.value < EVIDENCE + 5 * many.standard_error


def test_annealed_weights_have_the_evidence_as_their_mean(key):
    """Whatever the step: it is the product of the weight and a density that integrates to 1."""
    keys = jax.random.split(key, 20_000)
    log_w = jax.vmap(lambda k: bound(PARAMS, k, num_temperatures=5, step_size=0.6).value)(keys)
    w = np.exp(np.asarray(log_w) - EVIDENCE)
    assert abs(w.mean() - 1) < 5 * w.std() / len(w) ** 0.5


def test_annealed_bound_gradient_matches_finite_differences(key):
    def value(params, step_size, persistence):
        options = {"step_size": step_size, "persistence": persistence}
        return bound(params, key, num_temperatures=3, num_samples=4, **options).value

    check_grads(value, (PARAMS, 0.3, 0.5), order=1, modes=("rev",), rtol=1e-5)


def test_annealed_bound_takes_families_whose_noise_is_longer_than_a_position(key):
    low = vi.low_rank(np.zeros(2), rank=1)
    found = vi.annealed_bound(
        log_density, low, low.init(), key, num_temperatures=64, num_samples=2000
    )
    elbo = vi.elbo(log_density, low, low.init(), key, num_samples=2000)
    assert elbo.value + 5 * elbo.standard_error < found.value
    assert found.value < EVIDENCE + 5 * found.standard_error


def test_annealed_bound_rejects_what_it_cannot_anneal(key):
    with pytest.raises(ValueError, match=r"vi\.annealed_bound: `num_temperatures` must be"):
        bound(PARAMS, key, num_temperatures=0)
    with pytest.raises(ValueError, match=r"vi\.annealed_bound: `num_samples` must be"):
        bound(PARAMS, key, num_temperatures=1, num_samples=0)
    coin = vi.categorical(2)
    with pytest.raises(ValueError, match=r"vi\.annealed_bound: `family` must be reparameterized"):
        vi.annealed_bound(lambda i: 0.0, coin, coin.init(), key, num_temperatures=1)
