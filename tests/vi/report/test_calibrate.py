"""Simulation-based calibration: uniform where fits are right, and not where they are not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from tests.vi.programs import counted


def prior(key):
    mean, log_sd = jax.random.normal(key, (2,))
    return {"mean": mean, "sd": jnp.exp(0.3 * log_sd)}


def simulate(position, key):
    return position["mean"] + position["sd"] * jax.random.normal(key, (6,))


def log_density(position, x, spread=1.0):
    log_sd = jnp.log(position["sd"])
    of_prior = -0.5 * position["mean"] ** 2 - 0.5 * (log_sd / 0.3) ** 2 - log_sd
    residuals = (x - position["mean"]) / position["sd"]
    return of_prior - spread * (0.5 * jnp.sum(residuals**2) + 6 * log_sd)


FIT = functools.partial(vi.fit, support={"sd": vi.positive()})
OPTIONS = {"num_draws": 59, "fit": FIT}
FULL = vi.full_rank(0.0)


@pytest.mark.slow
def test_calibrate_of_right_fits_has_uniform_ranks(key):
    jax.clear_caches()
    with counted() as first:
        found = vi.calibrate(prior, simulate, log_density, key, num_simulations=20, **OPTIONS)
    assert found.names == ("['mean']", "['sd']")
    assert found.ranks.shape == (20, 2)
    assert np.all((found.ranks >= 0) & (found.ranks <= 59))
    assert np.all(found.trusted)
    assert np.all(found.uniform)
    np.testing.assert_array_equal(found.counts.sum(axis=1), 20)
    np.testing.assert_allclose(found.expected, 10.0)
    assert "20 of 20 fits are trusted" in str(found)
    # As many programs as one fit with draws, and a few that slice arrays.
    with counted() as again:
        vi.calibrate(prior, simulate, log_density, key, num_simulations=20, **OPTIONS)
    assert not again
    assert len(first) < 20


@pytest.mark.slow
def test_calibrate_finds_fits_that_are_too_narrow(key):
    # The likelihood counted sixteen times: sds are a quarter of what they should be.
    narrow = functools.partial(log_density, spread=16.0)
    quick = functools.partial(FIT, max_evaluations=2000)  # ranks need no verdict
    options = OPTIONS | {"num_simulations": 60, "fit": quick}
    found = vi.calibrate(prior, simulate, narrow, key, **options)
    assert not np.any(found.uniform)
    # The outer thirds have more than their share, the one in the middle less.
    low, middle, high = np.asarray(found.counts[0])
    assert min(low, high) > 20 > middle


def test_calibrate_counts_draws_below_the_truth(key):
    def normal(z, x):
        return -0.5 * (z - x) ** 2

    def fit(density, example, key):
        return dataclasses.replace(
            vi.fit(density, example, key),
            params=FULL.init(position=1.0, scale=1e-9),
        )

    found = vi.calibrate(
        lambda key: jax.random.uniform(key) * 2, lambda z, key: z, normal, key,
        num_simulations=20, num_draws=10, fit=fit,
    )  # fmt: skip
    assert set(np.unique(found.ranks)) == {0, 10}
    # Eleven values in two bins of five and six.
    np.testing.assert_allclose(found.expected, [20 * 5 / 11, 20 * 6 / 11])
    counts, expected = np.asarray(found.counts[0]), np.asarray(found.expected)
    np.testing.assert_allclose(found.chi_square, [np.sum((counts - expected) ** 2 / expected)])
    # One degree of freedom: the square of a standard normal.
    np.testing.assert_allclose(
        found.p_value, 2 * jax.scipy.stats.norm.sf(found.chi_square**0.5), rtol=1e-6
    )


def test_calibrate_rejects_what_it_cannot_use(key):
    with pytest.raises(ValueError, match=r"vi.calibrate: `num_simulations` must be at least 20"):
        vi.calibrate(prior, simulate, log_density, key, num_simulations=3)
    with pytest.raises(TypeError, match=r"vi.calibrate: `simulate` must be a function"):
        vi.calibrate(prior, jnp.zeros(3), log_density, key)
    with pytest.raises(TypeError, match=r"vi.calibrate: `key` must be a key"):
        vi.calibrate(prior, simulate, log_density, 0)
