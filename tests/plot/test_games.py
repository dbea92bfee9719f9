"""The figures of games say what the numbers say."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from equipoise import games, plot

QUADRATIC = games.zero_sum(lambda x, y: 0.25 * x**2 + x * y - 0.25 * y**2)
ORIGIN = (jnp.zeros(()), jnp.zeros(()))
START = (jnp.asarray(1.0), jnp.asarray(0.5))


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def comparison():
    # What `games.compare` finds for the two rules on this game.
    return games.Comparison(
        names=("simultaneous", "alternating"),
        step_size=jnp.array([0.8, 4 / 3]),
        neutral_step_size=jnp.array([0.8, 4 / 3]),
        attracted_step_size=jnp.array([0.8, 4 / 3]),
        num_flat=jnp.zeros(2, jnp.int32),
        num_repelling=jnp.zeros(2, jnp.int32),
        eigenvalue=jnp.array([0.6 + 0.8j, -1.0]),
        angle=jnp.array([jnp.arccos(0.6), jnp.pi]),
        kind=jnp.array([games.NEIMARK_SACKER, games.FLIP]),
        resonance=jnp.array([[0, 0], [1, 2]]),
        simple=jnp.array([True, True]),
        residual=jnp.zeros(2),
        max_step_size=jnp.asarray(3.0),
    )


def test_critical_steps_bars_end_at_the_critical_steps(comparison):
    ax = plot.critical_steps(comparison)
    assert ax.get_title(loc="left") == "alternating converges up to η = 1.333"
    blue = [bar for bar in ax.patches if bar.get_x() == 0 and bar.get_width() > 0]
    np.testing.assert_allclose(sorted(bar.get_width() for bar in blue), [0.8, 4 / 3], rtol=1e-9)


def test_step_rates_draws_one_line_a_verdict_and_names_the_fastest(comparison):
    etas = jnp.linspace(0.1, 1.5, 15)
    sweeps = {
        rule.name: games.sweep(
            QUADRATIC, rule, START, step_sizes=etas, num_steps=200, equilibrium=ORIGIN
        )
        for rule in (games.simultaneous(), games.alternating())
    }
    critical = {name: comparison[name] for name in comparison.names}
    ax = plot.step_rates(sweeps, critical=critical)
    best = min(sweeps, key=lambda name: float(jnp.min(sweeps[name].rate)))
    assert ax.get_title(loc="left").startswith(f"{best} is fastest")
    verticals = [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]
    np.testing.assert_allclose(verticals, [0.8, 4 / 3], rtol=1e-9)


def test_eigenvalue_paths_mark_where_the_circle_is_left(comparison):
    ax = plot.eigenvalue_paths(
        QUADRATIC,
        games.alternating(),
        ORIGIN,
        step_sizes=jnp.linspace(0.1, 1.5, 8),
        critical=comparison["alternating"],
    )
    assert ax.get_title(loc="left") == "alternating leaves the circle at η = 1.333, angle 180°"
    marked = ax.collections[-1].get_offsets()
    np.testing.assert_allclose(marked, [[-1, 0]], atol=1e-8)
    assert len(ax.collections[0].get_offsets()) == 16


def test_stable_steps_draw_every_interval():
    hill = games.general_sum(lambda x: -(x**2) / 2)
    rules = {"implicit": games.proximal_point(), "plain": games.simultaneous()}
    found = {
        name: games.stable_step_sizes(hill, rule, ORIGIN[:1], max_step_size=10.0)
        for name, rule in rules.items()
    }
    ax = plot.stable_steps(found)
    assert ax.get_title(loc="left") == "implicit attracts at 0.8 of all steps up to 10"
    (bar,) = [bar for bar in ax.patches if bar.get_x() > 0]
    np.testing.assert_allclose([bar.get_x(), bar.get_width()], [2, 8], rtol=1e-9)
    assert [text.get_text() for text in ax.texts] == ["2 to 10", "none"]
    assert plot.stable_steps({"plain": found["plain"]}).get_title(loc="left") == (
        "No step up to 10 attracts"
    )


@pytest.mark.parametrize(("fourth", "way"), [(0.0, "grows from"), (9.0, "basin shrinks")])
def test_cycle_amplitude_draws_what_the_normal_form_predicts(fourth, way):
    game = games.general_sum(lambda x: x**2 / 2 + x**3 / 3 + fourth * x**4)
    lost = games.critical_step_size(game, games.simultaneous(), ORIGIN[:1], max_step_size=9.0)
    form = games.normal_form(game, games.simultaneous(), ORIGIN[:1], lost)
    etas = jnp.linspace(1.9, 2.1, 21)
    ax = plot.cycle_amplitude(form, step_sizes=etas, played=jnp.zeros(21))
    assert way in ax.get_title(loc="left")
    predicted = next(line for line in ax.lines if line.get_label() == "predicted")
    np.testing.assert_allclose(predicted.get_ydata(), form.amplitude(predicted.get_xdata()))
    assert len(predicted.get_xdata()) == 10
    assert any(line.get_label() == "played" for line in ax.lines)


def test_phase_plane_shows_how_far_each_path_ends():
    bilinear = games.zero_sum(lambda x, y: x * y)
    paths = {
        rule.name: games.simulate(bilinear, rule, START, step_size=0.5, num_steps=4)
        for rule in (games.simultaneous(), games.proximal_point())
    }
    ax = plot.phase_plane(bilinear, paths, equilibrium=ORIGIN)
    assert ax.get_title(loc="left") == "proximal_point ends nearest, simultaneous farthest"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    # ‖z‖ grows by √(1 + η²) a step, or shrinks by it: 1.25² in four steps.
    assert labels == ["simultaneous: distance ×1.56", "proximal_point: distance ×0.64"]
    # An arrow each, along the step that first leads far enough.
    assert len(ax.texts) == len(paths)
    for arrow, path in zip(ax.texts, paths.values(), strict=True):
        assert list(arrow.xyann) in np.stack(path, 1).tolist()
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_orbit_diagram_names_the_doublings():
    etas = jnp.linspace(1.5, 2.5, 101)
    diagram = games.orbit_diagram(
        lambda x, eta: x - eta * (x**2 - x), 0.3, etas, num_states=16, num_transient=5_000
    )
    title = plot.orbit_diagram(diagram).get_title(loc="left")
    # The flips are at 2 and √6; the grid has steps of 0.01.
    assert title == "period 2 from 2.01; period 4 from 2.45"


def test_basins_legend_has_the_shares():
    axes = [jnp.linspace(-3.0, 3.0, 12), jnp.linspace(-1.0, 1.0, 3)]
    found = games.basins(lambda z: jnp.stack([z[0] - 0.5 * (z[0] ** 3 - z[0]), z[1] / 2]), axes)
    ax = plot.basins(found, axes)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    shares = [float(label.split(": ")[1].rstrip("%")) for label in labels]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert f"{shares[0]:.1f}% of the starts escape" == ax.get_title(loc="left")
    lines = str(found).splitlines()
    assert lines[0] == "Basins on 12×3 starts"
    assert "attractor 2" in lines[-1]


def test_figures_draw_on_given_axes(comparison):
    _, ax = plt.subplots()
    assert plot.critical_steps(comparison, ax=ax) is ax


def test_noise_floors_end_where_the_variance_grows():
    game = games.sampled(lambda x, d: (x - d) ** 2 / 2, jnp.array([1.0, 3.0]), batch_size=1)
    rule, at, etas = games.simultaneous(), (2.0,), jnp.array([0.5, 1.0, 1.5, 2.5])
    floors = jax.vmap(lambda eta: games.noise_floor(game, rule, at, step_size=eta))(etas)
    critical = games.mean_square_critical_step_size(game, rule, at, max_step_size=5.0)
    ax = plot.noise_floors(floors, step_sizes=etas, critical=critical, played=floors.distance)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.5, 1.0, 1.5])
    assert ax.get_title(loc="left") == "The variance grows from η = 2 on"
    with pytest.raises(ValueError, match="`floors` must be one per step size"):
        plot.noise_floors(floors, step_sizes=etas[:2])


def test_sharpness_says_when_training_comes_to_the_edge():
    rest = [field.name for field in dataclasses.fields(games.CriticalLearningRate)]
    sharpness = np.array([1.0, 4.0, 5.0])
    known = {"sharpness": sharpness, "learning_rate": 2 / sharpness}
    found = games.CriticalLearningRate(**dict.fromkeys(rest, np.zeros(3)) | known)
    steps = np.array([0, 10, 20])
    ax = plot.sharpness(found, steps=steps, learning_rate=0.5)
    sharp, edge = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(sharp, [1, 4, 5])
    np.testing.assert_allclose(edge, 4)
    assert ax.get_title(loc="left") == "Training is at the edge from step 10 on"
    ax = plot.sharpness(found, steps=steps, learning_rate=0.1)
    assert ax.get_title(loc="left") == "Training comes as near as 0.25 of the edge"
    with pytest.raises(ValueError, match="`found` must have one entry per step"):
        plot.sharpness(found, steps=steps[:2], learning_rate=0.5)
