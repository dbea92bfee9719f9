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
    periods = [games.period(logistic(r), 0.3) for r in (2.5, 3.2, 3.5, 3.55, 3.7)]
    np.testing.assert_array_equal(periods, [1, 2, 4, 8, 0])


@pytest.mark.parametrize("n", [6, 8, 12, 13])
def test_period_of_alternating_play_is_n_at_its_step_size(n):
    eta = 2 * np.sin(np.pi / n)
    # 1000 steps drift by rounding, about 1000·ε·n ≪ 1.5e-8.
    assert games.period(alternating(eta), (1.0, 1.0)) == n
    assert games.period(alternating(eta), (1.0, 1.0), max_period=n - 1) == 0


def test_period_vmaps_over_starts_and_parameters():
    rs = jnp.array([2.5, 3.2, 3.5])
    mapped = jax.jit(jax.vmap(lambda r, x: games.period(logistic(r), x)))(rs, jnp.full(3, 0.3))
    np.testing.assert_array_equal(mapped, [1, 2, 4])


def test_period_edges_are_zero():
    assert games.period(lambda x: 2 * x, 1.0, num_transient=2_000) == 0  # overflow
    slow = games.period(lambda x: 0.999 * x, 1.0, num_transient=10)  # has not settled
    assert slow == 0
    assert games.period(lambda x: 0.999 * x, 1.0, num_transient=20_000) == 1


@pytest.mark.parametrize(
    ("period", "start", "near", "flip"),
    [
        (1, 0.6, 2.9, 3.0),
        (2, 0.452, 3.4, 1 + np.sqrt(6)),
        (4, 0.36, 3.54, 3.5440903596),
        (8, 0.35, 3.56, 3.5644072661),
    ],
)
def test_cycle_multipliers_find_the_flips_of_the_logistic_map(period, start, near, flip):
    @jax.jit
    def newton(r, x):
        def condition(r):
            found = games.cycle(logistic(r), x, period=period)
            return found.multipliers[0].real + 1, found.states[0]

        (value, x), slope = jax.value_and_grad(condition, has_aux=True)(r)
        return r - value / slope, x

    r, x = jnp.asarray(near), jnp.asarray(start)
    x = jax.lax.fori_loop(0, 1000, lambda _, x: logistic(r)(x), x)
    for _ in range(8):
        r, x = newton(r, x)
    np.testing.assert_allclose(r, flip, atol=5.1e-11)  # ten digits behind the point


def test_cycle_finds_an_unstable_cycle_and_says_when_there_is_none():
    found = games.cycle(logistic(3.9), 0.7)
    np.testing.assert_allclose(found.states, [1 - 1 / 3.9], rtol=1e-14)
    np.testing.assert_allclose(found.multipliers, [2 - 3.9], rtol=1e-13)
    assert found.converged
    nowhere = games.cycle(lambda x: x + 1 + x**2, 0.3)
    assert not nowhere.converged


def test_cycle_of_a_pytree_map_has_the_multipliers_of_its_product():
    def fn(z):
        return {"a": -0.5 * z["a"] + 0.3, "b": jnp.stack([z["b"][1], 0.2 * z["b"][0]])}

    found = games.cycle(fn, {"a": 0.0, "b": jnp.ones(2)}, period=2)
    np.testing.assert_allclose(found.states["a"], [0.2, 0.2], rtol=1e-14)
    np.testing.assert_allclose(np.sort(found.multipliers.real), [0.2, 0.2, 0.25], rtol=1e-13)


@pytest.mark.parametrize("eta", [0.1, 0.5176381, 1.0, 1.7, 1.95])
def test_rotation_number_of_alternating_play_matches_its_eigenvalue(eta):
    exact = np.arccos(1 - eta**2 / 2) / (2 * np.pi)
    turn = games.rotation_number(alternating(eta), (1.0, 0.4))
    # The weights leave an error of exp(−√T); what remains is rounding of 10⁴ angles.
    np.testing.assert_allclose(turn, exact, atol=1e-12)
    back = games.rotation_number(alternating(eta, sign=-1), (1.0, 0.4))
    np.testing.assert_allclose(back, -exact, atol=1e-12)


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


def test_basins_of_a_double_well_meet_between_the_wells():
    xs = jnp.linspace(-1.4, 1.4, 14)
    found = games.basins(lambda x: x - 0.5 * (x**3 - x), [xs], embed=lambda x: x)
    np.testing.assert_array_equal(found.labels, np.where(xs < 0, 1, 2))
    np.testing.assert_allclose(found.attractors[:2], [-1, 1], rtol=1e-12)
    assert np.all(np.isnan(found.attractors[2:]))
    np.testing.assert_allclose(found.fractions[:4], [0, 0, 0.5, 0.5], rtol=1e-15)
    assert found.num_attractors == 2


def test_basins_escape_boundary_of_descent_on_a_quartic():
    eta = 0.5
    boundary = np.sqrt(2 / eta)
    xs = jnp.asarray(boundary * np.array([-1.5, -1.001, -0.999, -0.2, 0.0, 0.999, 1.001]))
    found = games.basins(lambda x: x - eta * x**3, [xs], embed=lambda x: x, num_steps=3_000)
    np.testing.assert_array_equal(found.labels == -1, np.abs(xs) > boundary)
    # Only the start at rest has settled: the others approach as 1/√t and are not miscounted.
    assert found.num_attractors == 1


def test_basins_counts_a_cycle_once_and_lists_no_more_than_asked():
    def fn(z):
        x, y = z
        return -x * (1.5 - x**2 / 2), 0.3 * y  # x = ±1 is a two-cycle that attracts

    axes = [jnp.array([-1.2, -0.7, 0.5, 1.1]), jnp.array([-1.0, 2.0])]
    found = games.basins(fn, axes, embed=lambda x, y: (x, y))
    assert found.num_attractors == 1
    np.testing.assert_array_equal(found.labels, np.ones((4, 2)))
    many = games.basins(lambda z: z, axes, max_attractors=3, num_steps=1)  # every point is fixed
    assert many.num_attractors == 3
    np.testing.assert_array_equal(many.labels, [[1, 2], [3, 0], [0, 0], [0, 0]])


def test_basins_of_henon_have_the_bounded_share_of_the_reference():
    def henon(z):
        return jnp.stack([1 - 1.4 * z[0] ** 2 + z[1], 0.3 * z[0]])

    n = 400
    axis = jnp.linspace(-2, 2, n)
    found = games.basins(henon, [axis, axis], num_steps=150, max_attractors=1, bound=100.0)
    # The border is about 20 sides long and each of its cells may fall on either side: √(20n)/n².
    np.testing.assert_allclose(
        1 - found.fractions[0], 0.4325, atol=3 * np.sqrt(20 * n) / n**2 + 2e-3
    )
    assert found.num_attractors == 0  # chaos is no cycle


@pytest.mark.parametrize(
    ("axes", "error", "match"),
    [
        ([], ValueError, "`axes` must hold at least one vector"),
        ([jnp.ones((2, 2))], ValueError, r"`axes\[0\]` must be a vector with a point"),
        ([jnp.arange(3)], TypeError, r"`axes\[0\]` must be a floating-point array"),
    ],
)
def test_basins_rejects_what_is_no_grid(axes, error, match):
    with pytest.raises(error, match=f"games.basins: {match}"):
        games.basins(lambda z: z, axes)


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
