"""Sweeps and the critical step from trajectories, against spectra and closed forms."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

START = (jnp.asarray(1.0), jnp.asarray(0.4))
ORIGIN = (jnp.zeros(()), jnp.zeros(()))
BILINEAR = games.zero_sum(lambda x, y: x * y)


def swept(rule, etas, game=BILINEAR, players=START, num_steps=1600, **options):
    options = {"equilibrium": ORIGIN, **options}
    return games.sweep(
        game, rule, players, step_sizes=jnp.asarray(etas), num_steps=num_steps, **options
    )


def test_sweep_verdicts_and_rates_match_the_bilinear_closed_forms():
    h = np.array([0.1, 0.5, 0.9, 1.1, 1.9, 2.2])
    simultaneous = swept(games.simultaneous(), h)
    assert (simultaneous.verdict == games.DIVERGES).all()
    alternating = swept(games.alternating(), h)
    assert alternating.verdict.tolist() == [0, 0, 0, 0, 0, 1]
    extragradient = swept(games.extragradient(), h)
    assert extragradient.verdict.tolist() == [-1, -1, -1, 1, 1, 1]
    # Extragradient is normal here: each step multiplies the distance by exactly ρ.
    rho = np.sqrt(1 - h**2 + h**4)
    np.testing.assert_allclose(extragradient.rate[:4], rho[:4], rtol=1e-9)
    np.testing.assert_allclose(simultaneous.rate[:2], np.sqrt(1 + h[:2] ** 2), rtol=1e-9)


def test_sweep_finds_the_exact_cycles_of_alternating_play():
    periods = np.array([3, 4, 6, 12, 24])
    result = swept(games.alternating(), 2 * np.sin(np.pi / periods), equilibrium=None)
    assert result.period.tolist() == periods.tolist()
    assert (result.verdict == games.NEUTRAL).all()
    assert swept(games.alternating(), [1.0], max_period=5).period.tolist() == [0]
    assert swept(games.extragradient(), [0.5, 1.5]).period.tolist() == [1, 0]


def test_sweep_gives_no_nan_after_overflow():
    result = swept(games.simultaneous(), [1e3, 1e200, 1e308])
    assert result.verdict.tolist() == [1, 1, 1]
    assert all(not np.isnan(leaf).any() for leaf in jax.tree.leaves(result))
    assert result.final_distance[-1] == np.inf
    assert (result.steps_used == 100).all()


def test_sweep_is_undefined_where_play_leaves_the_numbers_without_an_overflow():
    # Descent on x − 2√x, with its minimum at 1: a long step leads below 0, where √ is NaN.
    root = games.general_sum(lambda x: x - 2 * jnp.sqrt(x))
    start, at = (jnp.asarray(4.0),), (jnp.asarray(1.0),)
    for equilibrium in (None, at):
        found = swept(games.simultaneous(), [0.5, 10.0], root, start, equilibrium=equilibrium)
        assert found.verdict.tolist() == [games.CONVERGES, games.UNDEFINED]
        assert np.isnan(found.rate).tolist() == [False, True]
        assert np.isnan(found.final_distance).tolist() == [False, True]
        assert found.period.tolist() == [1, 0]
        assert "undefined" in str(found)
    nowhere = swept(games.simultaneous(), [0.5], root, (jnp.asarray(jnp.nan),), equilibrium=at)
    assert nowhere.verdict.tolist() == [games.UNDEFINED]
    unknown = swept(games.simultaneous(), [0.5], root, start, equilibrium=(jnp.asarray(jnp.nan),))
    assert unknown.verdict.tolist() == [games.UNDEFINED]


@pytest.mark.parametrize("num_steps", [16, 31, 160])  # also in the steps before the first part
def test_sweep_diverges_where_an_overflow_leads_to_nan(num_steps):
    # The gradient x³ − x² is ∞ − ∞ soon after the start.
    quartic = games.general_sum(lambda x: x**4 / 4 - x**3 / 3)
    for equilibrium in (None, (jnp.zeros(()),)):
        found = swept(
            games.simultaneous(),
            [1.0],
            quartic,
            (jnp.asarray(10.0),),
            num_steps=num_steps,
            equilibrium=equilibrium,
        )
        assert found.verdict.tolist() == [games.DIVERGES]
        assert not np.isnan(found.final_distance[0])


def test_sweep_from_the_equilibrium_converges_with_rate_zero():
    result = swept(games.simultaneous(), [0.1], players=ORIGIN)
    assert (int(result.verdict[0]), float(result.rate[0])) == (games.CONVERGES, 0.0)


def test_sweep_keeps_the_shape_of_its_step_sizes_and_maps_over_starts_and_games():
    etas = jnp.linspace(0.1, 1.2, 6)

    def verdict(start, sigma):
        game = games.zero_sum(lambda x, y: sigma * x * y)
        return games.sweep(
            game, games.extragradient(), (start, start), step_sizes=etas, num_steps=400
        ).verdict

    starts, sigmas = jnp.array([1.0, 3.0]), jnp.array([1.0, 0.5, 2.0])
    grid = jax.jit(jax.vmap(jax.vmap(verdict, (None, 0)), (0, None)))(starts, sigmas)
    expected = np.where(np.outer(sigmas, etas) < 1, games.CONVERGES, games.DIVERGES)
    np.testing.assert_array_equal(grid, np.stack([expected] * 2))
    assert swept(games.alternating(), etas.reshape(2, 3)).rate.shape == (2, 3)


def test_sweep_shows_that_local_is_not_global():
    """The Dirac GAN with γ = 1: η = 3.92 is below the local threshold 4, and yet …"""
    game = games.general_sum(
        lambda t, p: jax.nn.log_sigmoid(t * p), lambda t, p: -jax.nn.log_sigmoid(t * p) + p**2 / 2
    )
    verdict = lambda z: swept(  # noqa: E731
        games.simultaneous(), [3.92], game, (jnp.asarray(z), jnp.asarray(z))
    ).verdict[0]
    assert verdict(0.02) == games.CONVERGES
    assert verdict(0.05) != games.CONVERGES


def test_sweep_prints_intervals_of_equal_verdict():
    text = str(swept(games.extragradient(), np.linspace(0.1, 1.9, 10)))
    assert "converges" in text
    assert "diverges" in text
    assert len(text.splitlines()) == 4


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from equipoise import games
game = games.zero_sum(lambda x, y: x * y)
def run(etas):
    return games.sweep(game, games.alternating(), (1.0, 0.4), step_sizes=etas, num_steps=200)
etas = jnp.linspace(0.1, 2.4, 64)
mesh = jax.make_mesh((8,), ("lanes",))
spread = jax.device_put(etas, jax.NamedSharding(mesh, jax.P("lanes")))
one, many = run(etas), run(spread)
assert len(many.verdict.sharding.device_set) == 8
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    np.testing.assert_array_equal(a, b)
"""


@pytest.mark.slow
def test_sweep_over_eight_devices_equals_one_device():
    flags = "--xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, "-c", SHARDED], check=True, env={**os.environ, "XLA_FLAGS": flags}
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: swept(games.simultaneous(), [-0.1]), "`step_sizes` must not be negative or NaN"),
        (lambda: swept(games.simultaneous(), [np.nan]), "`step_sizes` must not be negative or NaN"),
        (lambda: swept(games.simultaneous(), [0.1], num_steps=3), "`num_steps` must be at least"),
        (lambda: swept(games.simultaneous(), [0.1], max_period=0), "`max_period` must be at least"),
        (
            lambda: games.simulated_critical_step_size(
                BILINEAR, games.simultaneous(), START, max_step_size=1.0, num_steps=99, lanes=1
            ),
            "`lanes` must be at least 2",
        ),
    ],
)
def test_sweeps_reject_bad_numbers(call, match):
    with pytest.raises(ValueError, match=match):
        call()
