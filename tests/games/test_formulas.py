"""Formulas of the theory page on descent–ascent that no other test needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games
from tests.games.test_nonlinear import A, circular, invariant_radii

ORIGIN = (jnp.zeros(()), jnp.zeros(()))
BILINEAR = games.zero_sum(lambda x, y: x * y)


def radii(rule, steps):
    one = lambda h: games.spectral_radius(BILINEAR, rule, ORIGIN, step_size=h)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(steps)))


@pytest.mark.parametrize("beta", [-0.9, -0.5, -0.1, 0.3])
@pytest.mark.parametrize(("order", "k"), [(None, 2), ((0, 1), 3)])
def test_momentum_turns_small_steps_in_or_out_by_its_sign(beta, order, k):
    rule = games.momentum(beta, order=order)
    h = 1e-3
    expected = (1 / (1 - beta) - (k - 1) / 2) * (h / (1 - beta)) ** 2
    # The next term of the series is smaller by h².
    np.testing.assert_allclose(np.log(radii(rule, [h])[0]), expected, rtol=1e-3)
    if order and beta < 0:
        inside = radii(rule, np.linspace(0.02, 0.999, 50) * 2 * (1 + beta))
        assert np.all(inside < 1)
        assert radii(rule, [1.001 * 2 * (1 + beta)])[0] > 1


def test_optimistic_play_gains_more_a_gradient_than_extragradient():
    steps = np.linspace(0.01, 1.0, 1000)
    extragradient = radii(games.extragradient(), steps).min() ** 0.5  # two gradients per step
    optimistic = radii(games.optimistic(), steps).min()
    # Near the double eigenvalue ρ has a cusp, so a grid of 1e-3 is right to its root.
    np.testing.assert_allclose(optimistic, np.sqrt(0.5), atol=0.03)
    np.testing.assert_allclose(extragradient, 0.75**0.25, atol=1e-5)
    assert optimistic < extragradient


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_basin_shrinks_to_a_point_as_the_critical_step_is_reached(share):
    p = 9 * A / 16
    eta = share * 2 * p / (1 + p**2)
    inner, _ = invariant_radii(eta)
    starts = jnp.array([1 - 1e-3, 1 + 1e-3]) * inner

    def after(radius):
        at = (radius, jnp.zeros(()))
        x, y = games.simulate(circular(), games.simultaneous(), at, step_size=eta, num_steps=1)
        return jnp.hypot(x[-1], y[-1])

    inward, outward = jax.vmap(after)(starts) / starts
    assert inward < 1 < outward
    # q = p₀ at the critical step, and r² falls linearly to 0 there.
    assert inner**2 < 0.5 * (1 - share)
