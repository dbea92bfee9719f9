"""What a fit that is not trusted says: which coordinate, what would help, and that it does help."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from equipoise import vi
from equipoise.vi._families.layout import layout
from tests.vi.fit import hard

# What later stages do is no part of these sentences.
fitted = functools.partial(vi.fit, escalate=False)


def heavy(size, degrees):
    """Independent Student t, as one leaf of a dictionary."""

    def log_density(z):
        return -0.5 * (degrees + 1) * jnp.sum(jnp.log1p(z["t"] ** 2 / degrees))

    return log_density, {"t": np.zeros(size)}


def asked(fit):
    """The number of evaluations that the sentence asks for."""
    return int(re.search(r"max_evaluations=([\d_]+)\.", fit.reason)[1])


def light(size):
    """Coordinates with shorter tails than normal ones, whose q has bounded weights."""

    def log_density(z):
        return -0.5 * jnp.sum(z["t"] ** 2) - 0.1 * jnp.sum(z["t"] ** 4)

    return log_density, {"t": np.zeros(size)}


@pytest.mark.parametrize("size", [3, 60])
def test_fit_that_lacks_draws_asks_for_as_many_as_it_then_needs(size, key):
    target, example = light(size)
    short = fitted(target, example, key, max_evaluations=500)
    assert short.verdict in (vi.Verdict.FEW_DRAWS, vi.Verdict.MEAN_ERROR, vi.Verdict.SD_ERROR)
    assert short.draw_diagnostics.num_draws <= 500
    assert asked(short) > 500
    fit = fitted(target, example, key, max_evaluations=2 * asked(short))
    assert fit.trusted, fit.reason
    assert fit.draw_diagnostics.num_draws <= 2 * asked(short)


def test_fit_draws_more_of_q_until_its_errors_suffice(key):
    target, example = light(150)
    first = fitted(target, example, key, max_evaluations=8192)
    fit = fitted(target, example, key)
    assert first.draw_diagnostics.num_draws == 8192
    assert first.verdict is vi.Verdict.SD_ERROR, first.reason
    assert fit.trusted, fit.reason
    assert fit.diagnostics.num_draws > 8192
    assert fit.weighted.draws.shape[0] == fit.draw_diagnostics.num_draws


def test_fit_draws_no_more_where_a_tail_is_too_heavy(key):
    target, example = heavy(60, 2)
    fit = fitted(target, example, key)
    assert fit.verdict is vi.Verdict.HEAVY_TAIL
    assert fit.draw_diagnostics.num_draws == 8192


def test_fit_of_a_dear_density_asks_it_less_often_and_is_trusted(key):
    """Equations that count 6·10⁷ operations, nearly all of which are computed once."""
    matrix = jnp.eye(300)
    target, example = light(3)

    def dear(z):
        return target(z) + 0.0 * jnp.sum(matrix @ matrix)

    few, many = fitted(dear, example, key), fitted(target, example, key)
    assert few.trusted, few.reason
    assert few.draw_diagnostics.num_draws == 1024
    assert few.evaluations < 0.35 * many.evaluations


def test_heavy_tail_of_a_small_budget_asks_for_more():
    target = hard.banana()
    options = {"max_evaluations": 1000}
    fits = [
        fitted(target.log_density, target.example, jax.random.key(s), **options) for s in range(8)
    ]
    heavy_ones = [fit for fit in fits if fit.verdict is vi.Verdict.HEAVY_TAIL]
    assert heavy_ones
    assert {asked(fit) for fit in heavy_ones} == {163_840}


def test_sd_error_names_the_coordinate_by_its_path(key):
    def target(z):
        return (
            -0.5 * jnp.sum(z["a"] ** 2)
            - 3.5 * jnp.log1p(z["b"]["c"][1] ** 2 / 6)
            - jnp.sum(z["b"]["c"][0] ** 2)
        )

    example = {"a": np.zeros(3), "b": {"c": np.zeros(2)}}
    fit = fitted(target, example, key, max_evaluations=6000)
    assert "at ['b']['c'][1]." in fit.reason, fit.reason


def test_heavy_tail_names_the_coordinate_that_q_misses(key):
    def target(z):
        return -1.5 * jnp.sum(jnp.log1p(z["v"] ** 2 / 2)) - 0.5 * jnp.sum(z["x"] ** 2)

    fit = fitted(target, {"v": np.zeros(1), "x": np.zeros(55)}, key)
    assert fit.verdict is vi.Verdict.HEAVY_TAIL
    assert "at ['v'][0]. Another parameterization" in fit.reason, fit.reason


def test_path_names_every_coordinate_of_every_support():
    example = {"a": np.zeros(()), "b": (np.zeros((2, 2)),), "mix": np.ones(3) / 3}
    shape = layout(example, {"a": vi.real(), "b": (vi.positive(),), "mix": vi.simplex()})
    assert [shape.path(i) for i in range(shape.size)] == [
        "['a']",
        *(f"['b'][0][{i}, {j}]" for i in range(2) for j in range(2)),
        *(f"free number {i} of ['mix']" for i in range(2)),
    ]
    assert layout(np.zeros(()), None).path(0) == "position"
    assert layout(np.zeros(2), None).path(1) == "position[1]"


IMPROPER = {
    "flat": lambda z: -0.5 * z["a"] ** 2,
    "linear": lambda z: z["b"][1] - jnp.sum(z["b"] ** 2 * jnp.array([1.0, 0.0])) - z["a"] ** 2,
    "a loss": lambda z: 0.5 * (jnp.sum(z["b"] ** 2) + z["a"] ** 2),
    "a sum alone": lambda z: -((z["a"] + z["b"][1] - 3) ** 2) - z["b"][0] ** 2,
    "separated": lambda z: -3 * jnp.logaddexp(0, -z["b"][1]) - z["a"] ** 2 - z["b"][0] ** 2,
    "a pole": lambda z: -2 * jnp.log(abs(z["b"][1] - 1)) - z["a"] ** 2 - jnp.sum(z["b"] ** 2),
    "a spike": lambda z: (
        jnp.where(abs(z["b"][1] - 1) < 1e-3, jnp.inf, -jnp.sum(z["b"] ** 2)) - z["a"] ** 2
    ),
    "a long tail": lambda z: -0.25 * jnp.log1p(z["b"][1] ** 2) - z["a"] ** 2 - z["b"][0] ** 2,
}


@pytest.mark.parametrize("name", IMPROPER)
def test_fit_says_that_a_density_looks_improper_and_where(name, key):
    fit = fitted(IMPROPER[name], {"a": 0.0, "b": np.zeros(2)}, key)
    assert fit.verdict is vi.Verdict.IMPROPER
    assert not fit.trusted
    assert "unbounded or improper" in fit.reason
    assert "steps" not in fit.reason
    at_fault = r"\['a'\]|\['b'\]" if name in ("flat", "a loss", "a sum alone") else r"\['b'\]\[1\]"
    assert re.search(f"along ({at_fault})", fit.reason), fit.reason


def schools(z):
    """Centered, whose density is unbounded at the end of its funnel and yet has an integral."""
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    prior = norm.logpdf(z["mu"], 0, 5) - jnp.log1p((z["tau"] / 5) ** 2)
    return prior + jnp.sum(
        norm.logpdf(z["theta"], z["mu"], z["tau"]) + norm.logpdf(y, z["theta"], 12.0)
    )


PROPER = {
    "Cauchy": (lambda z: -jnp.sum(jnp.log1p(z**2)), np.zeros(3), None, {}),
    "schools": (
        schools,
        {"mu": 0.0, "tau": 1.0, "theta": np.zeros(8)},
        {"mu": vi.real(), "tau": vi.positive(), "theta": vi.real()},
        {},
    ),
    "few steps": (
        lambda z: -jnp.sum(z + jnp.exp(-z)) - 0.3 * z[0] ** 4,
        np.zeros(2),
        None,
        {"num_steps": 1},
    ),
    "far away": (
        lambda z: -0.5 * jnp.sum((z - 1e5) ** 2 / 1e8),
        np.zeros(2, np.float32),
        None,
        {"num_steps": 1},
    ),
}


@pytest.mark.parametrize("name", PROPER)
def test_fit_does_not_call_a_proper_density_improper(name, key):
    target, example, support, options = PROPER[name]
    fit = fitted(target, example, key, support=support, **options)
    assert fit.verdict is not vi.Verdict.IMPROPER, fit.reason


def test_fit_asks_for_a_support_where_draws_fall_outside(key):
    def target(z):
        return jnp.where(z["s"] > -1, -0.5 * (z["s"] + 1) ** 2, -jnp.inf) - 0.5 * z["t"] ** 2

    fit = fitted(target, {"s": 0.0, "t": 0.0}, key)
    assert not fit.trusted
    assert "`support` for ['s']" in fit.reason, fit.reason


def test_fit_rejects_a_budget_without_a_tail(key):
    target, example = heavy(2, 5)
    with pytest.raises(ValueError, match="`max_evaluations` must be at least 100"):
        fitted(target, example, key, max_evaluations=99)
    with pytest.raises(TypeError, match="`max_evaluations` must be a Python integer"):
        fitted(target, example, key, max_evaluations=1e5)


@pytest.mark.slow
def test_fit_of_a_hierarchical_regression_is_trusted_on_every_seed():
    """Breast cancer, whose coefficients have a scale of their own: 32 coordinates, centered."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x, y = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0)), jnp.asarray(y, float)

    def log_density(z):
        logits = z["intercept"] + x @ z["slopes"]
        prior = norm.logpdf(z["tau"], 0, 1) + norm.logpdf(z["intercept"], 0, 5)
        prior += jnp.sum(norm.logpdf(z["slopes"], 0, z["tau"]))
        return prior + jnp.sum(y * logits - jnp.logaddexp(0, logits))

    example = {"intercept": 0.0, "slopes": np.zeros(30), "tau": 1.0}
    scales = []
    for seed in range(10):
        support = {"intercept": vi.real(), "slopes": vi.real(), "tau": vi.positive()}
        fit = fitted(log_density, example, jax.random.key(seed), support=support)
        assert fit.trusted, (seed, fit.reason)
        scales.append(vi.posterior_draws(fit, jax.random.key(seed), 8000)["tau"])
    # What two seeds say differs by the errors that a verdict allows: 0.05 and 0.025 of an sd.
    means, sds = np.mean(scales, axis=1), np.std(scales, axis=1)
    assert np.ptp(means) < 0.25 * sds.mean()
    assert np.ptp(sds) < 0.1 * sds.mean()
