"""All intervals of stability, against closed forms and windows that a grid would miss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games
from tests.games.critical.test_critical import ORIGIN, TOLERANCE, bilinear
from tests.games.critical.test_directions import FLAT_40, rotated


def intervals(game, rule, at=ORIGIN, **options):
    return games.stable_step_sizes(game, rule, at, **{"max_step_size": 10.0, **options})


def scaled_by(factor):
    """A rule that multiplies its one player by a function of the step size."""

    def step(game, state, step_size):
        return games.State((factor(step_size[0]) * state.players[0],), ())

    return games.Rule("scaled", lambda game, players, step_size: games.State(players, ()), step)


@pytest.mark.parametrize(
    ("game", "rule", "expected"),
    [
        (bilinear(2.0), games.extragradient(), [(0, 0.5)]),
        (bilinear(2.0), games.optimistic(), [(0, 0.5 / np.sqrt(3))]),
        (bilinear(2.0), games.momentum(-0.25, order=(0, 1)), [(0, 0.75)]),
        (bilinear(2.0), games.proximal_point(), [(0, 10)]),
        (bilinear(2.0), games.simultaneous(), []),
        (bilinear(2.0), games.alternating(), []),
        # Players who push each other out are held by implicit steps that are long enough.
        (
            games.zero_sum(lambda x, y: -(x**2) / 20 + x * y + y**2 / 20),
            games.proximal_point(),
            [(0.2 / 1.01, 10)],
        ),
    ],
)
def test_stable_step_sizes_match_closed_forms(game, rule, expected):
    found = intervals(game, rule)
    assert found.intervals.shape == (len(expected), 2)
    np.testing.assert_allclose(found.intervals, np.reshape(expected, (-1, 2)), rtol=TOLERANCE)
    assert found.resolution <= 1e-3


def test_stable_step_sizes_of_implicit_steps_up_a_hill_begin_at_two():
    found = intervals(games.general_sum(lambda x: -(x**2) / 2), games.proximal_point(), ORIGIN[:1])
    np.testing.assert_allclose(found.intervals, [[2, 10]], rtol=TOLERANCE)


@pytest.mark.parametrize("width", [0.03, 0.003])
@pytest.mark.parametrize("center", [3.0, 7.123])
def test_stable_step_sizes_find_a_narrow_window_of_a_polynomial(center, width):
    """1 − ((η − c)² − w²)/1000 leaves the circle for abs(η − c) < w, by 10⁻⁸ where w = 0.003."""
    rule = scaled_by(lambda eta: 1 - ((eta - center) ** 2 - width**2) / 1000)
    found = intervals(games.general_sum(lambda x: x**2), rule, ORIGIN[:1])
    expected = [[0, center - width], [center + width, 10]]
    # Rounding over the slope 0.002·w.
    np.testing.assert_allclose(found.intervals, expected, atol=1e-9)


def test_stable_step_sizes_find_a_bump_and_a_jump_that_are_no_polynomials():
    bump = scaled_by(lambda eta: 0.5 + 0.6 * jnp.exp(-(((eta - 3) / 0.03) ** 2)))
    game, at = games.general_sum(lambda x: x**2), ORIGIN[:1]
    half = 0.03 * np.sqrt(np.log(0.6 / 0.5))
    expected = [[0, 3 - half], [3 + half, 10]]
    np.testing.assert_allclose(intervals(game, bump, at).intervals, expected, rtol=TOLERANCE)
    jump = scaled_by(lambda eta: jnp.where(jnp.abs(eta - 3) < 0.03, 1.2, 0.5))
    found = intervals(game, jump, at).intervals
    np.testing.assert_allclose(found, [[0, 2.97], [3.03, 10]], rtol=TOLERANCE)


def test_stable_step_sizes_of_random_games_match_a_fine_scan(rng):
    """Repelled by small steps, attracted by longer ones: 3 + 3 coordinates, several rules."""
    a, b, c = (rng.normal(size=(3, 3)) / np.sqrt(3) for _ in range(3))
    p, q = a @ a.T - 0.05 * np.eye(3), b @ b.T - 0.05 * np.eye(3)
    game = games.zero_sum(lambda x, y: x @ p @ x / 2 + 3 * x @ c @ y - y @ q @ y / 2)
    at = (jnp.zeros(3), jnp.zeros(3))
    for rule in (games.extragradient(), games.optimistic(), games.consensus(0.3)):
        found = np.asarray(intervals(game, rule, at, max_step_size=2.0).intervals)
        etas = np.linspace(1e-3, 2, 400)
        rho = jax.vmap(lambda eta: games.spectral_radius(game, rule, at, step_size=eta))(etas)  # noqa: B023
        inside = ((etas[:, None] > found[:, 0]) & (etas[:, None] < found[:, 1])).any(1)
        np.testing.assert_array_equal(inside, rho < 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stable_step_sizes_leave_flat_directions_out(dtype, rng):
    game, at = rotated(FLAT_40, rng, dtype)
    found = intervals(game, games.simultaneous(), at)
    assert found.num_flat == 32
    rtol = TOLERANCE if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found.intervals, [[0, 2 / 3]], rtol=rtol)
    assert "32 flat directions" in str(found)
    still = intervals(games.general_sum(lambda x: 0 * x), games.simultaneous(), ORIGIN[:1])
    assert (still.num_flat, still.intervals.shape) == (1, (0, 2))
    assert "none up to 10" in str(still)


def test_stable_step_sizes_have_no_place_in_a_program():
    with pytest.raises(TypeError, match="`game` must be known"):
        jax.jit(lambda a: intervals(bilinear(a), games.simultaneous()).intervals)(1.0)
