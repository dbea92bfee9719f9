"""What has a closed form when q and p are normal, as the theory page derives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from equipoise import vi

FAMILY = vi.mean_field(0.0)
POINTS = [(0.0, 1.0), (0.0, 0.5), (0.7, 1.6), (-1.0, 0.3)]
REPEATS = 4000


def log_p(z):
    return -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi)


def params(mean, sd):
    return {"mean": jnp.array([mean]), "log_scale": jnp.array([np.log(sd)])}


def measured(point, gradient, num_samples=1, draws="iid"):
    """Variance of the estimator of (d/dm, d/d log s), and the standard errors of both."""

    def one(key):
        return jax.grad(
            lambda p: (
                vi.elbo(
                    log_p,
                    FAMILY,
                    p,
                    key,
                    num_samples=num_samples,
                    gradient=gradient,
                    draws=draws,
                ).value
            )
        )(params(*point))

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), REPEATS))
    g = np.stack([np.asarray(found[name])[:, 0] for name in ("mean", "log_scale")])
    squares = (g - g.mean(1, keepdims=True)) ** 2
    return squares.mean(1), squares.std(1) / REPEATS**0.5


def assert_variance(found, expected):
    variance, error = found
    # Draws are made in single precision: 1e-12 is where a zero variance ends.
    np.testing.assert_array_less(np.abs(variance - expected), 5 * error + 1e-12)


@pytest.mark.parametrize("point", POINTS)
def test_variance_of_the_closed_form_entropy_gradient_matches_its_formula(point):
    m, s = point
    assert_variance(measured(point, "closed_form_entropy"), [s**2, m**2 * s**2 + 2 * s**4])


@pytest.mark.parametrize("point", POINTS)
def test_variance_of_sticking_the_landing_matches_its_formula(point):
    m, s = point
    expected = [(s - 1 / s) ** 2, m**2 * s**2 + 2 * (s**2 - 1) ** 2]
    assert_variance(measured(point, "sticking_the_landing"), expected)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("k", [2, 8])
def test_variance_of_the_score_function_matches_its_formula(point, k):
    """A sample covariance of the log ratio f = Bε + C(ε² − 1) and the score h."""
    m, s = point
    b, c = -m * s, (1 - s**2) / 2
    squares = np.array([b**2, 4 * c**2])  # Cov(f, h)², h = ε/s or ε² − 1; the first over s²
    spread = b**2 + 2 * c**2  # Var f
    scale = np.array([1 / s**2, 1.0])
    fourth = np.array([3 * b**2 + 10 * c**2, 10 * b**2 + 60 * c**2])  # E[f²h²]
    noise = np.array([1.0, 2.0])  # Var h
    expected = scale * (fourth - squares) / k + scale * (spread * noise + squares) / (k * (k - 1))
    assert_variance(measured(point, "score_function", k), expected)


@pytest.mark.parametrize("sd", [0.5, 0.7, 0.75, 2.0])
def test_sticking_the_landing_wins_once_q_has_half_the_variance_of_p(sd):
    stl, cfe = (measured((0.0, sd), g)[0] for g in ("sticking_the_landing", "closed_form_entropy"))
    # The same draws serve both, so the ratio has no noise but the rounding of single precision.
    np.testing.assert_allclose(stl / cfe, (1 - 1 / sd**2) ** 2, rtol=1e-4)
    assert np.all(stl < cfe) == (sd**2 > 0.5)


def test_antithetic_draws_remove_the_odd_part_and_double_the_even_part():
    m, s = point = (0.7, 1.6)
    # Of two mirrored draws: the odd part cancels, the even part is the same twice.
    assert_variance(measured(point, "closed_form_entropy", 2, "antithetic"), [0, 2 * s**4])
    iid = measured(point, "closed_form_entropy", 2)
    assert_variance(iid, np.array([s**2, m**2 * s**2 + 2 * s**4]) / 2)


def test_best_mean_field_normal_has_the_inverse_of_the_precisions_diagonal(rng):
    a = rng.normal(size=(4, 4))
    precision, mean = a @ a.T + np.eye(4), rng.normal(size=4)
    narrow, full = vi.mean_field(jnp.zeros(4)), vi.full_rank(jnp.zeros(4))
    target = full.init(position=mean, scale=np.linalg.cholesky(np.linalg.inv(precision)))
    best = narrow.init(position=mean, scale=1 / np.sqrt(np.diag(precision)))
    divergence = lambda p: vi.kl_divergence(narrow, p, full, target)  # noqa: E731
    value, slope = jax.value_and_grad(divergence)(best)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0, atol=1e-13)
    gap = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    np.testing.assert_allclose(value, gap, rtol=1e-12)
    assert np.all(1 / np.diag(precision) <= np.diag(np.linalg.inv(precision)))


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_pareto_shape_of_a_narrow_normal_is_one_less_the_ratio_of_variances(ratio):
    """P(p/q > t) under q has the exponent −1/(1 − s²/v), up to a power of log t."""
    s2 = ratio
    z = np.array([12.0, 12.01]) * np.sqrt(s2)
    log_ratio = z**2 / 2 * (1 / s2 - 1)
    tail = scipy.stats.norm(0, np.sqrt(s2)).logsf(z)
    # At twelve standard deviations the slowly varying factor 1/z still moves the slope by 1/144.
    np.testing.assert_allclose(-np.diff(log_ratio) / np.diff(tail), 1 - ratio, rtol=0.01)


def test_diagnose_reads_the_pareto_shape_of_a_narrow_normal():
    family = vi.mean_field(0.0)
    found = vi.diagnose(
        log_p, family, family.init(scale=0.5**0.5), jax.random.key(0), num_samples=100_000
    )
    # The limit is 1/2; the tail of 10⁵ draws, at four standard deviations, is not there yet.
    assert abs(found.khat - 0.5) < 0.15
