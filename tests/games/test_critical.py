"""The critical step size against every closed form that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

ORIGIN = (jnp.zeros(()), jnp.zeros(()))
# The bound for a formula in float64.
TOLERANCE = 1e-9


def quadratic(mu, sigma):
    return games.zero_sum(lambda x, y: mu / 2 * x**2 + sigma * x * y - mu / 2 * y**2)


def critical(rule, game=None, at=ORIGIN, **options):
    options = {"max_step_size": 10.0, **options}
    game = games.zero_sum(lambda x, y: x * y) if game is None else game
    return games.critical_step_size(game, rule, at, **options)


def of_quadratic(rule):
    """Critical steps for a batch of (μ, σ), in one compiled call."""
    return jax.jit(jax.vmap(lambda mu, sigma: critical(rule, quadratic(mu, sigma)).step_size))


MU = np.array([1.0, 0.5, 0.1, 2.0, 1.0, 1e-3])
SIGMA = np.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])


def smallest_real(polynomial, low=1e-9):
    roots = np.roots(polynomial)
    return min(r.real for r in roots if abs(r.imag) < 1e-9 and r.real > low)


@pytest.mark.parametrize(
    ("rule", "closed_form"),
    [
        (games.simultaneous(), lambda m, s: 2 * m / (m**2 + s**2)),
        (games.alternating(), lambda m, s: 2 / (m + s)),
        (games.alternating(order=(1, 0)), lambda m, s: 2 / (m + s)),
    ],
    ids=["simultaneous", "alternating", "maximizer first"],
)
def test_critical_step_size_matches_closed_form_of_the_quadratic_game(rule, closed_form):
    expected = [closed_form(m, s) for m, s in zip(MU, SIGMA, strict=True)]
    np.testing.assert_allclose(of_quadratic(rule)(MU, SIGMA), expected, rtol=TOLERANCE)


def test_critical_step_size_of_extragradient_is_where_the_polynomial_has_modulus_one():
    w = MU + 1j * SIGMA
    # |1 - ηw + η²w²|² = 1, divided by η: a cubic in η.
    a, b, c = w.real, (w**2).real, np.abs(w) ** 2
    expected = [
        smallest_real([c**2, -2 * (w.conj() * w**2).real, c + 2 * b, -2 * a])
        for w, a, b, c in zip(w, a, b, c, strict=True)
    ]
    np.testing.assert_allclose(of_quadratic(games.extragradient())(MU, SIGMA), expected, rtol=1e-9)
    np.testing.assert_allclose(expected[:2], [0.6505294, 1.3010588], atol=5e-8)


def test_critical_step_size_of_optimistic_play_matches_known_digits():
    found = of_quadratic(games.optimistic())(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(found, [0.4645205, 0.2875836], atol=5e-8)
