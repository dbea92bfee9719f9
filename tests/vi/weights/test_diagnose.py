"""Importance weights: the smoothing, the measurements, and what the verdict rests on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from equipoise.vi._weights import psis as _psis
from equipoise.vi._weights.psis import threshold
from equipoise.vi._weights.verdict import Verdict, sentence, verdict
from equipoise.vi._weights.weighted import moments, weigh
from tests.oracles import psis

smooth = jax.jit(functools.partial(_psis.smooth, rounding=1e-8))


@pytest.mark.parametrize("tail", [0.2, 0.6, 1.1])
def test_smooth_matches_numpy_float64(rng, tail):
    log_ratios = tail * rng.exponential(size=2000)
    weights, khat = psis.smooth(log_ratios)
    smoothed = smooth(jnp.asarray(log_ratios))
    # Both work in float64; the profile likelihood multiplies rounding by the tail's 135 points.
    np.testing.assert_allclose(smoothed.khat, khat, rtol=1e-9)
    np.testing.assert_allclose(jnp.exp(smoothed.log_weights), weights, rtol=1e-8)
    np.testing.assert_allclose(smoothed.effective_sample_size, 1 / np.sum(weights**2), rtol=1e-8)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.0])
def test_smooth_recovers_the_shape_of_pareto_weights(rng, shape):
    smoothed = smooth(jnp.asarray(shape * rng.exponential(size=100_000)))
    # Standard error (1 + k)/√949 of the tail fit (Zhang and Stephens 2009), four of them.
    assert abs(smoothed.khat - shape) < 4 * (1 + shape) / 949**0.5


def test_smooth_edge_equal_infinite_and_nan_ratios():
    assert smooth(jnp.zeros(1000)).khat == 0
    np.testing.assert_allclose(smooth(jnp.zeros(1000)).effective_sample_size, 1000)
    assert smooth(jnp.full(1000, jnp.nan)).khat == jnp.inf
    some = smooth(jnp.zeros(1000).at[:10].set(-jnp.inf))
    np.testing.assert_allclose(jnp.exp(some.log_weights[:10]), 0.0, atol=1e-300)


def test_weigh_sees_no_tail_in_the_rounding_of_narrow_densities(rng):
    # Sums over much data: next to each other float32 numbers of this size are 5e-4 apart.
    log_q = rng.normal(size=8192)
    log_p = (log_q - 8000).astype(np.float32)
    assert weigh(log_q[:, None], log_p, log_q).khat == 0
    assert weigh(log_q[:, None], log_q - 8000, 1.2 * log_q).khat != 0


def test_threshold_falls_for_few_draws():
    assert threshold(100) == 0.5
    assert threshold(10_000) == 0.7


def test_moments_of_equal_weights_have_the_textbook_errors(rng):
    draws = jnp.asarray(rng.normal(size=(4000, 2)))
    found = moments(draws, jnp.full(4000, -jnp.log(4000.0)))
    np.testing.assert_allclose(found.mean, draws.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.sd, draws.std(0), rtol=1e-12)
    np.testing.assert_allclose(found.mean_error, draws.std(0) / 4000**0.5, rtol=1e-10)
    # Relative error 1/√(2n) for a normal; the kurtosis of 4000 draws is within 0.2 of 3.
    np.testing.assert_allclose(found.sd_error, 1 / 8000**0.5, rtol=0.1)


def test_diagnose_measures_a_too_wide_approximation(key):
    family = vi.mean_field(jnp.zeros(2))
    found = vi.diagnose(
        lambda z: -0.5 * jnp.sum(z**2), family, family.init(scale=1.82), key, num_samples=20_000
    )
    # Bounded weights: k̂ sees nothing wrong, and the shift of the sds is the 82 % that it is.
    assert found.khat < 0.5
    assert abs(found.sd_shift - 0.82) < 0.05
    # ESS/S = ∏ (∫p²/q)⁻¹ = (√(2c² − 1)/c²)² for scale c; five standard errors are below 2 %.
    c = 1.82
    np.testing.assert_allclose(
        found.effective_sample_size / 20_000, (2 * c**2 - 1) / c**4, rtol=0.02
    )
    np.testing.assert_allclose(found.log_evidence, jnp.log(2 * jnp.pi), atol=0.03)


def test_diagnose_measures_a_too_narrow_approximation(key):
    family = vi.mean_field(jnp.zeros(2))
    found = vi.diagnose(lambda z: -0.5 * jnp.sum(z**2), family, family.init(scale=0.3), key)
    assert found.khat > found.threshold
    assert verdict(found) is Verdict.HEAVY_TAIL
    assert "Pareto shape" in sentence(Verdict.HEAVY_TAIL, found)


def test_diagnose_works_on_supports(key):
    family = vi.mean_field(jnp.ones(()), support=vi.positive())
    log_density = lambda x: -x  # noqa: E731
    found = vi.diagnose(log_density, family, family.init(), key, num_samples=20_000)
    # ∫ e⁻ˣ dx over x > 0 is 1.
    np.testing.assert_allclose(found.log_evidence, 0.0, atol=0.05)


def test_diagnose_rejects_mistakes(key):
    family = vi.mean_field(jnp.zeros(2))
    with pytest.raises(ValueError, match="`num_samples` must be at least 100"):
        vi.diagnose(lambda z: z[0], family, family.init(), key, num_samples=99)
    with pytest.raises(ValueError, match="`log_density` must return one floating-point number"):
        vi.diagnose(lambda z: z, family, family.init(), key)


def test_verdict_says_which_check_failed():
    good = vi.Diagnostics(0.1, 0.7, 5000.0, 8192, 0.01, 0.01, 0.01, 0.01, 0.0, 0.01)
    assert verdict(good) is vi.Verdict.TRUSTED
    for change, failed, words in (
        ({"khat": 0.8}, vi.Verdict.HEAVY_TAIL, "Pareto shape of the importance weights is 0.80"),
        ({"khat": jnp.nan}, vi.Verdict.HEAVY_TAIL, "Pareto shape"),
        ({"effective_sample_size": 300.0}, vi.Verdict.FEW_DRAWS, "worth 300, fewer than 400"),
        ({"mean_error": 0.06}, vi.Verdict.MEAN_ERROR, "a mean has a standard error of 0.060"),
        ({"sd_error": 0.03}, vi.Verdict.SD_ERROR, "an sd has a relative standard error of 0.030"),
    ):
        found = dataclasses.replace(good, **change)
        assert verdict(found) is failed
        assert sentence(failed, found).startswith("Not trusted: ")
        assert words in sentence(failed, found)


def test_diagnose_keeps_float32(key):
    with jax.enable_x64(False):
        family = vi.mean_field(jnp.zeros(2, jnp.float32))
        found = vi.diagnose(lambda z: -jnp.sum(z**2), family, family.init(), key)
    assert found.khat.dtype == jnp.float32
