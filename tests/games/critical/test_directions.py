"""Critical steps where some directions are flat, turn or are repelled, as in trained networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games
from tests.games.critical.test_critical import ORIGIN, TOLERANCE, bilinear, critical


def rotated(curvatures, rng, dtype=float):
    """x·Hx/2 with these curvatures in directions that no axis knows, and its zero."""
    n = len(curvatures)
    turn, _ = np.linalg.qr(rng.normal(size=(n, n)))
    hessian = (turn * curvatures @ turn.T).astype(dtype)
    return games.general_sum(lambda x: x @ hessian @ x / 2), (jnp.zeros(n, dtype),)


FLAT_40 = np.concatenate([np.linspace(0.1, 3, 8), np.zeros(32)])


@pytest.mark.parametrize(
    ("rule", "attracted"),
    [
        (games.simultaneous(), 2 / 3),
        (games.momentum(0.9), 2 * 1.9 / 3),
        (games.optimistic(), 2 / 9),
        # 1 − u + u² is lost at +1, where the flat directions are.
        (games.extragradient(), 1 / 3),
    ],
    ids=lambda rule: getattr(rule, "name", ""),
)
def test_critical_step_size_leaves_flat_directions_out(rule, attracted, rng):
    lost = critical(rule, *rotated(FLAT_40, rng))
    assert (lost.step_size, lost.num_flat, lost.num_repelling) == (0, 32, 0)
    found = [lost.attracted_step_size, lost.neutral_step_size]
    np.testing.assert_allclose(found, attracted, rtol=TOLERANCE)
    assert lost.kind == (games.FOLD if rule.name == "extragradient" else games.FLIP)
    assert "32 flat directions" in str(lost)
    assert str(lost).splitlines()[1].split()[0] == "attracted_step_size"


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_critical_step_size_leaves_out_the_slow_ways_of_an_unfinished_training(beta, rng):
    # As of a perceptron trained to a loss of 3e-5: 2.9e-4 below 0 to 12.51 above.
    slow = np.concatenate([-np.geomspace(1e-6, 2.9e-4, 9), np.geomspace(1e-6, 12.51, 20)])
    lost = critical(games.momentum(beta), *rotated(np.concatenate([slow, np.zeros(5)]), rng))
    assert (lost.step_size, lost.num_flat, lost.num_repelling) == (0, 5, 9)
    np.testing.assert_allclose(lost.attracted_step_size, 2 * (1 + beta) / 12.51, rtol=TOLERANCE)
    assert lost.kind == games.FLIP
    assert lost.simple
    assert "5 flat and 9 repelling directions" in str(lost)


def test_critical_step_size_counts_curvatures_to_half_the_digits():
    def counts(curvature):
        game = games.general_sum(lambda x: x[0] ** 2 / 2 - curvature * x[1] ** 2 / 2)
        lost = critical(games.simultaneous(), game, (jnp.zeros(2),))
        return int(lost.num_flat), int(lost.num_repelling)

    # √ε = 1.5e-8 of the norm.
    assert counts(2e-8) == (0, 1)
    assert counts(1e-8) == (1, 0)


def test_critical_step_size_leaves_out_what_turns_or_leaves_in_float32(rng):
    lost = critical(games.simultaneous(), *rotated(np.append(FLAT_40, -0.01), rng, np.float32))
    assert (lost.num_flat, lost.num_repelling) == (32, 1)
    np.testing.assert_allclose(lost.attracted_step_size, 2 / 3, rtol=1e-5)
    assert lost.attracted_step_size.dtype == np.float32


def test_critical_step_size_of_a_direction_between_others_that_turn_or_leave():
    """A rotation that alternating play keeps on the circle, a flat way, one out, and 3x²."""

    def payoff(x, y):
        return x[0] * y[0] + 3 * x[1] ** 2 - 0.01 * x[2] ** 2 + 0 * y[1]

    game, at = games.zero_sum(payoff), (jnp.zeros(3), jnp.zeros(2))
    turning = critical(games.alternating(), game, at)
    leaving = critical(games.simultaneous(), game, at)
    np.testing.assert_allclose(turning.attracted_step_size, 1 / 3, rtol=TOLERANCE)
    np.testing.assert_allclose(leaving.attracted_step_size, 1 / 3, rtol=TOLERANCE)
    assert turning.kind == leaving.kind == games.FLIP
    assert (turning.num_flat, turning.num_repelling) == (1, 1)
    assert (leaving.num_flat, leaving.num_repelling) == (1, 3)


def test_critical_step_size_notices_what_comes_back_and_leaves_again():
    """Implicit steps bring −x²/2 back at η = 2; x² under plain ones is lost at 1 all the same."""
    implicit, plain = games.proximal_point(), games.simultaneous()

    def step(game, state, step_size):
        one = games.general_sum(lambda x: -(x**2) / 2)
        other = games.general_sum(lambda x: x**2 / 10)
        (x,), (y,) = (
            implicit.step(one, games.State(state.players[:1], ()), step_size[0]).players,
            plain.step(other, games.State(state.players[1:], ()), step_size[1]).players,
        )
        return games.State((x, y), ())

    rule = games.Rule("both", lambda game, players, eta: games.State(players, ()), step)
    lost = critical(rule, bilinear())
    np.testing.assert_allclose(lost.attracted_step_size, 10, rtol=TOLERANCE)
    assert lost.num_repelling == 1


@pytest.mark.slow
def test_critical_step_size_attracted_differentiates_where_flat_and_repelling_tie(rng):
    def attracted(a):
        game = games.general_sum(lambda x: 3 * a * x[0] ** 2 / 2 - a * x[1] ** 2 + 0 * x[2])
        return critical(games.simultaneous(), game, (jnp.zeros(3),)).attracted_step_size

    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(derivative(attracted))(2.0), -1 / 6, rtol=TOLERANCE)
    values = jax.vmap(attracted)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(values, [2 / 3, 1 / 3], rtol=TOLERANCE)


def test_critical_step_size_attracts_nothing_where_small_steps_attract_nothing():
    turning = critical(games.alternating(), bilinear())
    assert (turning.attracted_step_size, turning.num_flat, turning.num_repelling) == (0, 0, 0)
    leaving = critical(games.simultaneous(), bilinear())
    assert (leaving.attracted_step_size, leaving.num_repelling) == (0, 2)
    still = critical(games.simultaneous(), games.general_sum(lambda x: 0 * x), ORIGIN[:1])
    assert (still.attracted_step_size, still.num_flat) == (0, 1)
    assert still.neutral_step_size == np.inf
