"""A nonlinear game solved exactly: simultaneous play maps circles around the origin to circles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

A = 1 / 3
ORIGIN = (jnp.zeros(()), jnp.zeros(()))


def circular():
    """The field (p·x − y, p·y + x) with p = (a/16)(r² − 1)(16r² − 9), each loss integrated."""

    def potential(x, y):
        s = x**2 + y**2
        return A / 32 * (16 / 3 * s**3 - 25 / 2 * s**2 + 9 * s)

    return games.general_sum(
        lambda x, y: potential(x, y) - x * y, lambda x, y: potential(x, y) + x * y
    )


def invariant_radii(eta):
    """The two circles that simultaneous play maps to themselves."""
    q = (1 - np.sqrt(1 - eta**2)) / eta
    root = np.sqrt(49 + 1024 * q / A)
    return np.sqrt((25 - root) / 32), np.sqrt((25 + root) / 32)


def play(radius, num_steps, eta=0.1):
    start = (jnp.asarray(radius), jnp.zeros(()))
    x, y = games.simulate(
        circular(), games.simultaneous(), start, step_size=eta, num_steps=num_steps
    )
    return np.asarray(x), np.asarray(y)


def test_vector_field_of_the_circular_game_is_the_one_that_was_integrated():
    x, y = 0.3, -0.7
    p = A / 16 * (x**2 + y**2 - 1) * (16 * (x**2 + y**2) - 9)
    field = games.vector_field(circular(), (jnp.asarray(x), jnp.asarray(y)))
    np.testing.assert_allclose(field, (p * x - y, p * y + x), rtol=1e-14)


def test_critical_step_size_of_the_circular_game_matches_closed_form():
    lost = games.critical_step_size(circular(), games.simultaneous(), ORIGIN, max_step_size=10.0)
    p = 9 * A / 16
    np.testing.assert_allclose(lost.step_size, 2 * p / (1 + p**2), rtol=1e-12)
    np.testing.assert_allclose(lost.step_size, 0.3622641509, atol=5e-11)
    assert lost.kind == games.NEIMARK_SACKER
    # The eigenvalue there is 1 − η(p ± i).
    np.testing.assert_allclose(
        lost.angle, np.arctan2(lost.step_size, 1 - lost.step_size * p), rtol=1e-10
    )


def test_simulate_keeps_both_circles_of_the_circular_game():
    inner, outer = invariant_radii(0.1)
    np.testing.assert_allclose((inner, outer), (0.5796735840, 1.1074649141), atol=5e-11)
    for radius in (inner, outer):
        x, y = play(radius, 3)
        # The inner circle repels, by a factor below 1.1 a step.
        np.testing.assert_allclose(np.hypot(x, y), radius, rtol=1e-12)
        turned = np.diff(np.unwrap(np.arctan2(y, x)))
        np.testing.assert_allclose(np.abs(turned), np.arcsin(0.1), rtol=1e-11)


@pytest.mark.parametrize(("factor", "end"), [(1 - 1e-6, 0.0), (1 + 1e-6, 1.1074649141)])
def test_simulate_leaves_the_inner_circle_of_the_circular_game(factor, end):
    inner, _ = invariant_radii(0.1)
    x, y = play(inner * factor, 5000)
    np.testing.assert_allclose(np.hypot(x[-1], y[-1]), end, atol=1e-9)


def test_rotation_number_on_the_outer_circle_of_the_circular_game():
    _, outer = invariant_radii(0.1)
    flat = games.update_map(circular(), games.simultaneous(), 0.1, ORIGIN)
    turns = games.rotation_number(flat.step, jnp.array([outer, 0.0]), num_steps=2000)
    # The circle attracts and the map turns it rigidly, so nothing but rounding accumulates.
    np.testing.assert_allclose(np.abs(turns), np.arcsin(0.1) / (2 * np.pi), rtol=1e-9)


def test_update_map_gives_the_stationary_variance_under_gradient_noise():
    mu, eta, noise = 0.5, 0.2, 1.3
    game = games.general_sum(lambda x: mu / 2 * x**2)
    flat = games.update_map(game, games.simultaneous(), eta, (jnp.zeros(()),))
    slope = jax.jacfwd(flat.step)(jnp.zeros(1))[0, 0]
    # v = slope² v + (η n)², a discrete Lyapunov equation in one dimension.
    variance = (eta * noise) ** 2 / (1 - slope**2)
    np.testing.assert_allclose(variance, eta * noise**2 / (mu * (2 - eta * mu)), rtol=1e-12)
    np.testing.assert_allclose(variance / noise**2, 0.2105263, atol=5e-8)
