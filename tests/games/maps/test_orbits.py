"""Periods, cycles, rotation numbers, orbit diagrams and basins of known maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games


def logistic(r):
    return lambda x: r * x * (1 - x)


def alternating(eta, sign=1):
    """Alternating play of p·q, the minimizer first; or of −p·q."""

    def step(z):
        p, q = z
        p = p - sign * eta * q
        return p, q + sign * eta * p

    return step


def test_period_of_the_logistic_map_doubles():
    rs = jnp.array([2.5, 3.2, 3.5, 3.55, 3.7])
    periods = jax.jit(jax.vmap(lambda r: games.period(logistic(r), 0.3)))(rs)
    np.testing.assert_array_equal(periods, [1, 2, 4, 8, 0])


@pytest.mark.parametrize(("longest", "expected"), [(64, [6, 8, 12, 13]), (12, [6, 8, 12, 0])])
def test_period_of_alternating_play_is_n_at_its_step_size(longest, expected):
    etas = 2 * jnp.sin(jnp.pi / jnp.array([6.0, 8.0, 12.0, 13.0]))
    # 1000 steps drift by rounding, about 1000·ε·n ≪ 1.5e-8.
    one = lambda eta: games.period(alternating(eta), (1.0, 1.0), max_period=longest)  # noqa: E731
    np.testing.assert_array_equal(jax.jit(jax.vmap(one))(etas), expected)


def test_period_edges_are_zero():
    assert games.period(lambda x: 2 * x, 1.0, num_transient=2_000) == 0  # overflow
    slow = games.period(lambda x: 0.999 * x, 1.0, num_transient=10)  # has not settled
    assert slow == 0
    assert games.period(lambda x: 0.999 * x, 1.0, num_transient=20_000) == 1


def test_rotation_number_of_alternating_play_matches_its_eigenvalue():
    etas = jnp.array([0.1, 0.5176381, 1.0, 1.7, 1.95])
    exact = np.arccos(1 - etas**2 / 2) / (2 * np.pi)
    one = lambda eta, sign: games.rotation_number(alternating(eta, sign), (1.0, 0.4))  # noqa: E731
    turns = jax.jit(jax.vmap(one))(jnp.tile(etas, 2), jnp.repeat(jnp.array([1.0, -1.0]), 5))
    # The weights leave an error of exp(−√T); what remains is rounding of 10⁴ angles.
    np.testing.assert_allclose(turns, np.concatenate([exact, -exact]), atol=1e-12)


def test_rotation_number_on_the_invariant_circle_of_a_nonlinear_game():
    a, eta = 1 / 3, 0.1

    def play(z):
        x, y = z
        r2 = x**2 + y**2
        p = a / 16 * (r2 - 1) * (16 * r2 - 9)
        return x - eta * (p * x - y), y - eta * (p * y + x)

    outer = jnp.asarray(1.1074649141)
    turn = games.rotation_number(play, (outer, jnp.zeros(())), num_transient=1_000)
    np.testing.assert_allclose(turn, -np.arcsin(eta) / (2 * np.pi), atol=1e-10)


def test_rotation_number_counts_about_the_center_and_up_to_overflow():
    def spiral(z):
        x, y = z[0] - 2, z[1] + 1
        return jnp.stack([x - 0.3 * y + 2, y + 0.3 * x - 1])

    turn = games.rotation_number(
        spiral, jnp.array([3.0, 0.0]), center=jnp.array([2.0, -1.0]), num_steps=20_000
    )
    np.testing.assert_allclose(turn, np.arctan(0.3) / (2 * np.pi), rtol=1e-12)
    assert games.rotation_number(spiral, jnp.array([2.0, -1.0]), center=jnp.array([2.0, -1.0])) == 0


def test_rotation_number_of_a_lift_is_its_mean_advance():
    assert games.rotation_number(lambda x: x + 0.3, 0.1) == pytest.approx(0.3, abs=1e-12)
    # Arnold's map, locked: the tongue at 1/2 holds Ω = 1/2 by symmetry.
    locked = games.rotation_number(
        lambda x: x + 0.5 + 0.12 * jnp.sin(2 * jnp.pi * x), 0.1, num_transient=2_000
    )
    np.testing.assert_allclose(locked, 0.5, atol=1e-10)


def test_rotation_number_rejects_more_than_two_dimensions_and_other_centers():
    with pytest.raises(ValueError, match="rotation_number: `start` must hold one number"):
        games.rotation_number(lambda z: z, jnp.ones(3))
    with pytest.raises(ValueError, match="`center` must hold 2 numbers"):
        games.rotation_number(lambda z: z, jnp.ones(2), center=jnp.ones(1))


def test_orbit_diagram_matches_a_loop():
    etas = jnp.array([1.5, 2.2, 2.5, 2.55])
    found = games.orbit_diagram(
        lambda x, eta: x - eta * (x**2 - x), 0.3, etas, num_transient=40, num_states=5
    )
    for i, eta in enumerate(np.asarray(etas)):
        x, expected = 0.3, []
        for t in range(45):
            x = x - eta * (x**2 - x)
            if t >= 40:
                expected.append(x)
        # The cycles attract, so errors stay a few roundings; early ones grow by 1e4 at most.
        np.testing.assert_allclose(found.states[i], expected, rtol=1e-11)


def test_orbit_diagram_knows_periods_and_overflow():
    parameters = {"eta": jnp.array([1.5, 2.2, 2.5, 2.55, 3.5])}
    found = games.orbit_diagram(
        lambda z, p: {"x": z["x"] - p["eta"] * (z["x"] ** 2 - z["x"])}, {"x": 0.3}, parameters
    )
    np.testing.assert_array_equal(found.periods, [1, 2, 4, 8, 0])
    assert found.states["x"].shape == (5, 128)
    assert np.all(np.isnan(found.states["x"][-1]))
    assert np.all(np.isfinite(found.states["x"][:-1]))


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        (jnp.asarray(1.0), ValueError, "`parameters` must have one common leading axis"),
        ((jnp.ones(2), jnp.ones(3)), ValueError, "`parameters` must have one common leading axis"),
        (jnp.arange(3), TypeError, "`parameters` must be a floating-point array"),
    ],
)
def test_orbit_diagram_rejects_parameters_without_an_axis(parameters, error, match):
    with pytest.raises(error, match=f"games.orbit_diagram: {match}"):
        games.orbit_diagram(lambda z, p: z, 0.1, parameters)


@pytest.mark.parametrize("tool", [games.period, games.cycle, games.rotation_number])
def test_period_cycle_rotation_number_reject_what_is_no_map(tool):
    with pytest.raises(TypeError, match="`fn` must be a function"):
        tool(None, 0.1)
    with pytest.raises(TypeError, match="`start` must be a floating-point array"):
        tool(lambda x: x, 1)
    with pytest.raises(ValueError, match=r"`fn\(start\)` must have the"):
        tool(lambda x: jnp.stack([x, x]), 0.1)


def test_orbit_diagram_and_basins_reject_what_is_no_map():
    with pytest.raises(TypeError, match="`fn` must be a function"):
        games.orbit_diagram(None, 0.1, jnp.ones(2))
    with pytest.raises(ValueError, match=r"`fn\(start\)` must have the"):
        games.basins(lambda z: z[0], [jnp.ones(2), jnp.ones(2)])
    with pytest.raises(ValueError, match="`period` must be at least 1"):
        games.cycle(lambda z: z, 0.1, period=0)
    with pytest.raises(ValueError, match="`max_period` must be at least 1"):
        games.period(lambda z: z, 0.1, max_period=0)
