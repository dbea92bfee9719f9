"""Softmax at a temperature: soft maximum, entropy, and how fast weights and outputs can change."""

import jax
import numpy as np
import pytest

from equipoise import attention


@jax.jit
def row(q, keys, values, tau=1.0):
    """Output and log-sum-exp of one query at temperature τ."""
    out, lse = attention.dot_product_attention(
        q[None, None], keys[:, None], values[:, None], scale=1 / tau, return_residual=True
    )
    return out[0, 0], lse[0, 0]


@pytest.fixture
def problem(rng):
    return rng.normal(size=4), rng.normal(size=(6, 4)), rng.normal(size=(6, 3))


def test_log_sum_exp_is_a_maximum_up_to_the_log_of_the_count(problem):
    q, keys, values = problem
    top = np.max(keys @ q)
    for tau in (1e-3, 0.1, 1.0, 10.0):
        soft = tau * row(q, keys, values, tau)[1]
        # Rounding of scores of size 1/τ, multiplied by τ.
        assert top - 1e-14 <= soft <= top + tau * np.log(6) + 1e-14
    equal = tau * row(0 * q, keys, values, tau)[1]
    np.testing.assert_allclose(equal, tau * np.log(6), rtol=1e-14)


def test_temperature_moves_the_output_from_copying_to_averaging(problem):
    q, keys, values = problem
    np.testing.assert_allclose(row(q, keys, values, 1e-3)[0], values[np.argmax(keys @ q)])
    # The first order in 1/τ is Cov(v, s)/τ, of size 1e-6 here.
    np.testing.assert_allclose(row(q, keys, values, 1e7)[0], values.mean(0), atol=1e-6)


def test_entropy_is_log_sum_exp_less_the_mean_score(problem):
    q, keys, _ = problem
    found = attention.attention_statistics(q[None, None], keys[:, None], scale=0.7)
    alpha = np.asarray(jax.nn.softmax(0.7 * keys @ q))
    np.testing.assert_allclose(found.entropy[0, 0], -alpha @ np.log(alpha), rtol=1e-13)
    np.testing.assert_allclose(
        found.entropy[0, 0], found.log_sum_exp[0, 0] - alpha @ (0.7 * keys @ q), rtol=1e-13
    )


def test_softmax_jacobian_is_a_covariance_of_norm_below_half_over_the_temperature(rng):
    @jax.jit
    def weights(s, tau):
        return jax.nn.softmax(s / tau), jax.jacfwd(lambda s: jax.nn.softmax(s / tau))(s)

    for tau in (0.2, 1.0, 5.0):
        for n in (2, 3, 8):
            p, jacobian = map(np.asarray, weights(rng.normal(size=n), tau))
            np.testing.assert_allclose(jacobian, (np.diag(p) - np.outer(p, p)) / tau, atol=1e-15)
            values = np.linalg.eigvalsh(jacobian)
            assert values[0] > -1e-15
            assert values[-1] < 0.5 / tau
    # Attained by two equal scores.
    even = np.linalg.norm(np.diag([0.5, 0.5]) - 0.25, 2)
    np.testing.assert_allclose(even, 0.5, rtol=1e-15)


def test_output_moves_with_the_query_by_the_covariance_of_values_and_keys(problem):
    q, keys, values = problem
    tau = 0.6
    jacobian = jax.jit(jax.jacfwd(lambda q: row(q, keys, values, tau)[0]))(q)
    p = np.asarray(jax.nn.softmax(keys @ q / tau))
    covariance = values.T @ (np.diag(p) - np.outer(p, p)) @ keys
    np.testing.assert_allclose(jacobian, covariance / tau, rtol=1e-12)
