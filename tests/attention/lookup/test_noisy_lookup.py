"""One head against two under noisy keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from equipoise import attention

SAMPLES = 40_000


def experiment(n, beta, heads, samples=SAMPLES, seed=0):
    """Keys e_i, and k_0 = g·e_0 with g of mean 1 and variance 1/2."""
    keys = np.eye(n)
    noise = np.zeros((n, n, 1))
    noise[0, 0, 0] = np.sqrt(0.5)
    queries = beta * keys[:2] if heads == 2 else beta * keys[:2].sum(0, keepdims=True)
    return attention.noisy_lookup(
        keys, queries, jax.random.key(seed), noise=noise, num_samples=samples
    )


def moments(n, beta, heads):
    """Mean and variance of the weight on key 0, by quadrature over g."""
    g = np.linspace(1 - 9 * np.sqrt(0.5), 1 + 9 * np.sqrt(0.5), 200_001)
    density = scipy.stats.norm(1, np.sqrt(0.5)).pdf(g)
    density /= density.sum()
    if heads == 1:
        alpha = 1 / (1 + np.exp(beta * (1 - g)) + (n - 2) * np.exp(-beta * g))
    else:
        first = 1 / (1 + (n - 1) * np.exp(-beta * g))
        alpha = (first + 1 / (np.exp(beta) + n - 1)) / 2
    mean = density @ alpha
    return mean, density @ (alpha - mean) ** 2


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("beta", [1.0, 5.0, 20.0])
def test_noisy_lookup_matches_quadrature(n, beta, heads):
    found = experiment(n, beta, heads)
    mean, variance = moments(n, beta, heads)
    # Five standard errors of its own: also the check that they are not too small.
    assert abs(found.mean[0] - mean) <= 5 * found.mean_standard_error[0]
    assert abs(found.variance[0] - variance) <= 5 * found.variance_standard_error[0]
    np.testing.assert_allclose(found.mean.sum(), 1, rtol=1e-14)


def test_noisy_lookup_standard_errors_are_the_spread_of_repetitions():
    runs = [experiment(3, 5.0, 1, samples=400, seed=seed) for seed in range(100)]
    for name in ("mean", "variance"):
        spread = np.std([getattr(run, name)[0] for run in runs], ddof=1)
        stated = np.mean([getattr(run, f"{name}_standard_error")[0] for run in runs])
        # The standard deviation of 100 numbers is known to 7 %; four of those.
        assert abs(spread / stated - 1) < 0.28


@pytest.mark.parametrize(("beta", "variance"), [(1.0, 0.0254), (5.0, 0.1490), (20.0, 0.2220)])
def test_noisy_lookup_one_head_swings_between_the_values(beta, variance):
    found = experiment(2, beta, 1)
    atol = 5 * found.variance_standard_error[0] + 5e-5  # the numbers have four digits
    np.testing.assert_allclose(found.variance[0], variance, rtol=0, atol=atol)


def test_noisy_lookup_two_heads_stay_put_unless_the_key_changes_sign():
    flips = scipy.stats.norm.cdf(-np.sqrt(2))
    one, two = experiment(4, 1000.0, 1), experiment(4, 1000.0, 2)
    np.testing.assert_allclose(flips, 0.0786, atol=5e-5)
    limit = flips * (1 - flips) / 4
    np.testing.assert_allclose(limit, 0.0181, atol=5e-5)
    assert abs(two.variance[0] - limit) <= 5 * two.variance_standard_error[0]
    assert abs(one.variance[0] - 0.25) <= 5 * one.variance_standard_error[0] + 1e-3
    assert 13 < one.variance[0] / two.variance[0] < 15


def test_noisy_lookup_edge_no_noise_is_exact():
    found = attention.noisy_lookup(
        np.eye(3), np.ones((1, 3)), jax.random.key(0), noise=np.zeros((3, 3, 0)), num_samples=2
    )
    np.testing.assert_allclose(found.mean, 1 / 3, rtol=1e-15)
    np.testing.assert_allclose(found.variance, 0, atol=1e-31)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ValueError, {"keys": np.ones(3)}, r"`keys` must have shape \(n, d\)"),
        (ValueError, {"queries": np.ones(3)}, "`queries` must have shape"),
        (ValueError, {"queries": np.ones((2, 4))}, "`queries` must have shape"),
        (ValueError, {"noise": np.ones((3, 3))}, "`noise` must have shape"),
        (ValueError, {"num_samples": 1}, "`num_samples` must be at least 2"),
        (TypeError, {"num_samples": 2.5}, "`num_samples` must be a Python integer"),
        (TypeError, {"keys": np.eye(3, dtype=int)}, "`keys` must be a floating"),
    ],
)
def test_noisy_lookup_rejects_wrong_arguments(kind, changes, message):
    arguments = {
        "keys": jnp.eye(3),
        "queries": jnp.ones((1, 3)),
        "noise": jnp.zeros((3, 3, 1)),
        "num_samples": 4,
    } | changes
    keys, queries = arguments.pop("keys"), arguments.pop("queries")
    with pytest.raises(kind, match=message):
        attention.noisy_lookup(keys, queries, jax.random.key(0), **arguments)
