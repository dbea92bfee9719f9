"""The reference posteriors: default fits are right, and say so."""

import functools
import importlib.util
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

REFERENCE = pathlib.Path(
    os.environ.get("EQUIPOISE_REFERENCE", pathlib.Path(__file__).parents[3] / "../shared/reference")
)
FOLDER = REFERENCE / "posteriors"
pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no reference posteriors beside the repository"),
    # The reference's reader leaves its files to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SEEDS = 3


@functools.cache
def reference():
    spec = importlib.util.spec_from_file_location("posteriors", FOLDER / "posteriors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(name):
    """The posterior, and a log density that allows what its author's code does."""
    posterior = reference().build(name)

    def log_density(u):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return posterior["logp"](u)

    return posterior, log_density


def passes(posterior, fit, key):
    """Every mean within 0.25 sd and every sd within 10 %, on the constrained scale."""
    draws = vi.posterior_draws(fit, key, 8000)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        draws = np.asarray(jax.vmap(posterior["constrain"])(draws))
    mean_error = np.abs(draws.mean(0) - posterior["mean"]) / posterior["sd"]
    sd_error = np.abs(draws.std(0) / posterior["sd"] - 1)
    return bool(np.max(mean_error) < 0.25 and np.max(sd_error) < 0.1)


def names():
    path = FOLDER / "posteriors.py"
    return reference().NAMES if path.is_file() else []


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_fit_passes_and_is_trusted(name):
    posterior, log_density = build(name)
    for seed in range(SEEDS):
        fit = vi.fit(log_density, jnp.zeros(posterior["dim"]), jax.random.key(seed))
        passed = passes(posterior, fit, jax.random.key(seed + 100))
        assert passed, f"seed {seed}: {fit.reason}"
        assert fit.trusted, f"seed {seed}: {fit.reason}"


def exact_names():
    path = FOLDER / "exact_regressions.json"
    return sorted(json.loads(path.read_text())) if path.is_file() else []


@pytest.mark.slow
@pytest.mark.parametrize("name", exact_names())
def test_fit_reaches_the_exact_optimum_of_a_regression(name):
    exact = json.loads((FOLDER / "exact_regressions.json").read_text())[name]
    posterior, log_density = build(name)
    for make, which in ((vi.full_rank, "fullrank"), (vi.mean_field, "meanfield")):
        fit = vi.fit(log_density, jnp.zeros(posterior["dim"]), jax.random.key(0), family=make)
        # The target: 1e-6 nats. A sparse grid of degree 9 leaves less than 1e-7 here.
        np.testing.assert_allclose(fit.elbo.value, exact[which]["elbo"], rtol=0, atol=1e-6)
        assert fit.elbo.value < exact["logZ"]


@pytest.mark.slow
def test_fit_reaches_the_evidence_of_the_conjugate_design():
    """β ~ N(0, 100 I), y ~ N(Xβ, I): the bound is the log evidence, its gradient without noise."""
    data = json.loads((FOLDER / "sblrc-blr.json").read_text())["data"]
    x, y = jnp.asarray(data["X"], float), jnp.asarray(data["y"], float)

    def log_density(beta):
        prior = jnp.sum(jax.scipy.stats.norm.logpdf(beta, 0.0, 10.0))
        return prior + jnp.sum(jax.scipy.stats.norm.logpdf(y, x @ beta, 1.0))

    fit = vi.fit(log_density, jnp.zeros(x.shape[1]), jax.random.key(0))
    np.testing.assert_allclose(fit.elbo.value, -190.847291, rtol=0, atol=1e-6)

    def estimator(params, key):
        return vi.elbo(
            log_density, fit.family, params, key, num_samples=8, gradient="sticking_the_landing"
        )

    # The posterior itself, from its normal equations: the fit stops within √ε nats of it.
    precision = np.asarray(x.T @ x) + np.eye(x.shape[1]) / 100
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.asarray(x.T @ y)
    exact = fit.family.init(position=mean, scale=np.linalg.cholesky(covariance))
    assert vi.gradient_variance(estimator, exact, jax.random.key(1)).total < 1e-20
    gap = vi.kl_divergence(fit.family, fit.params, fit.family, exact)
    assert gap < 1e-7
    assert fit.trusted
