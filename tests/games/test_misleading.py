"""Answers that once misled, each of them now the right one or refused with the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from equipoise import games

ORIGIN = (jnp.zeros(()),)
SQUARE = games.general_sum(lambda x: 1.5 * x**2)
SQUARE_SUM = games.general_sum(lambda x: jnp.sum(x**2))


@pytest.mark.parametrize(
    ("game", "rule"),
    [
        (games.general_sum(lambda x: jnp.nan * x**2), games.simultaneous()),
        # Derivatives that are numbers of a payoff that is none.
        (games.general_sum(lambda x: jnp.log(x - 1) * 0 + x**2), games.simultaneous()),
    ],
)
def test_what_is_no_number_is_undefined_and_never_converges(game, rule):
    with jax.numpy_dtype_promotion("standard"):
        stable = games.stability(game, rule, ORIGIN, step_size=0.1)
        lost = games.critical_step_size(game, rule, ORIGIN, max_step_size=9.0)
    assert stable.verdict == games.UNDEFINED
    assert np.isnan(lost.step_size)
    assert np.isnan(lost.attracted_step_size)
    assert lost.kind == games.NOT_LOST
    assert not lost.simple
    assert "Undefined" in str(lost)


def test_an_optimizer_whose_updates_are_no_numbers_is_refused():
    rule = games.from_optax(optax.rmsprop(1.0, initial_scale=np.nan))
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(ValueError, match="`optimizers` must have a finite update"),
    ):
        games.stability(SQUARE, rule, ORIGIN, step_size=0.1)


def test_neutral_is_neutral_matrix_free_in_float32():
    game, at = games.general_sum(lambda x: 1.5 * x[0] ** 2), (jnp.zeros(21, np.float32),)
    for method in ("dense", "arnoldi"):
        found = games.stability(game, games.simultaneous(), at, step_size=0.5, method=method)
        assert found.verdict == games.NEUTRAL
        assert found.tolerance > 0
        assert found.converged


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", [games.momentum(0.9), games.optimistic()], ids=lambda r: r.name)
def test_neutral_is_neutral_matrix_free_for_maps_that_are_not_normal(rule, dtype, rng):
    """Curvatures 0.1 to 3 in 40 of 600 directions; the others are flat, so that ρ = 1."""
    turn, _ = np.linalg.qr(rng.normal(size=(600, 40)))
    turn, curvatures = turn.astype(dtype), np.linspace(0.1, 3, 40).astype(dtype)
    game = games.general_sum(lambda x: jnp.sum(curvatures * (turn.T @ x) ** 2) / 2)
    at = (jnp.zeros(600, dtype),)
    for seed in range(5):
        key = jax.random.key(seed)
        found = games.stability(game, rule, at, step_size=0.1, method="arnoldi", key=key)
        assert found.verdict == games.NEUTRAL
        # Beyond every tolerance that this spectrum could be given.
        beyond = games.stability(game, rule, at, step_size=1.5, method="arnoldi", key=key)
        assert beyond.verdict == games.DIVERGES


def test_stability_says_where_arnoldi_has_not_converged():
    """A rule that shifts 600 coordinates in a ring: all eigenvalues have one modulus."""

    def step(game, state, step_size):
        return games.State((0.99 * jnp.roll(state.players[0], 1),), ())

    rule = games.Rule("ring", lambda game, players, step_size: games.State(players, ()), step)
    found = games.stability(SQUARE_SUM, rule, (jnp.zeros(600),), step_size=0.1)
    assert not found.converged
    assert found.verdict != games.CONVERGES
    assert "Arnoldi has not converged" in str(found)


def perceptron(params, x):
    """Inputs to one output, 2-16-1 with tanh: 65 numbers."""
    hidden = jnp.tanh(x @ params["w"] + params["b"][None])
    return hidden @ params["v"] + params["c"]


def trained(rng):
    """An over-parameterized perceptron on ten points that it fits, found by Newton's method."""
    x = rng.normal(size=(10, 2))
    y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
    start = {
        "w": jnp.asarray(rng.normal(size=(2, 16))),
        "b": jnp.asarray(rng.normal(size=16)),
        "v": jnp.asarray(rng.normal(size=16) / 4),
        "c": jnp.zeros(()),
    }
    loss = lambda params: jnp.mean((perceptron(params, x) - y) ** 2) / 2  # noqa: E731
    flat, unravel = ravel_pytree(start)

    def misfit(u):
        return perceptron(unravel(u), x) - y

    for _ in range(60):
        flat = flat - 0.5 * jnp.linalg.pinv(jax.jacobian(misfit)(flat)) @ misfit(flat)
    for _ in range(10):
        flat = flat - jnp.linalg.pinv(jax.jacobian(misfit)(flat)) @ misfit(flat)
    return games.general_sum(loss), (unravel(flat),), jax.hessian(lambda u: loss(unravel(u)))(flat)


@pytest.mark.slow
def test_an_overparameterized_perceptron_has_a_step_size_of_use(rng):
    game, at, hessian = trained(rng)
    assert len(hessian) == 65
    largest = np.linalg.eigvalsh(hessian)[-1]
    for rule, threshold in [(games.simultaneous(), 2), (games.momentum(0.9), 3.8)]:
        lost = games.critical_step_size(game, rule, at, max_step_size=100.0)
        assert (lost.step_size, lost.num_flat, lost.num_repelling) == (0, 55, 0)
        np.testing.assert_allclose(lost.attracted_step_size, threshold / largest, rtol=1e-9)
        assert lost.kind == games.FLIP
        assert lost.simple
        assert lost.residual < 1e-12
    found = games.stable_step_sizes(game, games.simultaneous(), at, max_step_size=100.0)
    assert found.num_flat == 55
    np.testing.assert_allclose(found.intervals, [[0, 2 / largest]], rtol=1e-9)


def test_a_sweep_without_an_equilibrium_measures_movement_and_says_so():
    """An unregularized GAN on the line: at large steps the discriminator wins, and play rests."""

    def value(generator, discriminator):
        data, noise = jnp.linspace(1.0, 2.0, 16), jnp.linspace(-1.0, 1.0, 16)

        def judge(x):
            hidden = jnp.tanh(jnp.outer(x, discriminator["w"]) + discriminator["b"][None])
            return hidden @ discriminator["v"]

        made = generator["a"] * noise + generator["b"]
        return -jnp.mean(jax.nn.softplus(-judge(data))) - jnp.mean(jax.nn.softplus(judge(made)))

    start = (
        {"a": jnp.asarray(0.5), "b": jnp.asarray(0.0)},
        {"w": jnp.ones(4), "b": jnp.linspace(-1, 1, 4), "v": jnp.linspace(-0.5, 0.6, 4)},
    )
    game, etas = games.zero_sum(value), jnp.geomspace(0.01, 10, 16)
    swept = games.sweep(game, games.simultaneous(), start, step_sizes=etas, num_steps=400)
    assert swept.is_movement
    assert "no equilibrium was given" in str(swept)
    slow = (swept.verdict == games.CONVERGES) & (swept.gradient > 1e-3)
    assert slow.any()
    assert f"gradients do not vanish: {int(slow.sum())}" in str(swept)
    known = games.sweep(
        game, games.simultaneous(), start, step_sizes=etas, num_steps=400, equilibrium=start
    )
    assert not known.is_movement
    assert "equilibrium" not in str(known)


def test_a_sweep_names_runs_that_never_moved():
    etas = jnp.array([0.1, 0.5])
    swept = games.sweep(SQUARE, games.simultaneous(), ORIGIN, step_sizes=etas, num_steps=32)
    assert (swept.gradient == 0).all()
    assert "never moved, as the start is at rest: 2" in str(swept)


@pytest.mark.parametrize("equilibrium", [ORIGIN, None])
@pytest.mark.parametrize("start", [0.0, 2.0])
def test_a_simulated_critical_step_size_needs_a_start_off_the_equilibrium(start, equilibrium):
    game = games.general_sum(lambda x: 1.5 * (x - start) ** 2)
    equilibrium = None if equilibrium is None else (jnp.asarray(start),)

    def found(offset):
        return games.simulated_critical_step_size(
            game,
            games.simultaneous(),
            (jnp.asarray(start) + offset,),
            max_step_size=3.0,
            num_steps=64,
            num_rounds=2,
            equilibrium=equilibrium,
        ).step_size

    with pytest.raises(ValueError, match=r"`players` must .*distance is rounding. Push them off"):
        found(start * 2e-16)
    assert np.isnan(jax.jit(found)(0.0))
    np.testing.assert_allclose(found(1e-3), 2 / 3, rtol=0.05)


def at_most(bound):
    return lambda x: jnp.minimum(x, bound)


@pytest.mark.parametrize(
    "rule",
    [
        games.simultaneous(projections=(at_most(1.0),)),
        games.momentum(0.5, projections=(at_most(1.0),)),
        games.lookahead(games.simultaneous(projections=(at_most(1.0),)), 2),
        games.from_optax(optax.sgd(1.0), projections=(at_most(1.0),)),
    ],
    ids=lambda rule: rule.name,
)
def test_an_edge_of_a_projection_has_the_derivative_of_its_inner_side(rule):
    """(x − 1)²/2 with x ≤ 1: from within, a step of more than 1 ends on the edge."""
    game, at = games.general_sum(lambda x: (x - 1) ** 2 / 2), (jnp.ones(()),)
    lost = games.critical_step_size(game, rule, at, max_step_size=10.0)
    assert lost.step_size == np.inf
    assert lost.residual < 1e-7
    for eta in (0.5, 2.5, 9.0):
        assert games.stability(game, rule, at, step_size=eta).verdict == games.CONVERGES
        swept = games.sweep(
            game, rule, (jnp.asarray(0.9),), step_sizes=eta, num_steps=64, equilibrium=at
        )
        assert swept.verdict == games.CONVERGES


def test_a_projection_that_holds_a_player_leaves_no_residual():
    """x²/2 with x ≥ 1 rests at 1, where its gradient is 1; y²/2 beside it is free."""
    rule = games.simultaneous(projections=(lambda x: jnp.maximum(x, 1.0), None))
    game = games.general_sum(lambda x, y: x**2 / 2, lambda x, y: 2 * y**2)
    lost = games.critical_step_size(game, rule, (1.0, 0.0), max_step_size=10.0)
    np.testing.assert_allclose([lost.step_size, lost.residual], [0.5, 0], atol=1e-9)


def test_the_residual_counts_players_and_not_the_drift_of_memory():
    rule = games.from_optax(optax.contrib.schedule_free_sgd(1.0))
    with jax.numpy_dtype_promotion("standard"):
        lost = games.critical_step_size(SQUARE, rule, ORIGIN, max_step_size=3.0)
    assert lost.residual < 1e-15
    away = games.critical_step_size(SQUARE, games.simultaneous(), (0.5,), max_step_size=3.0)
    np.testing.assert_allclose(away.residual, 1.5)
    assert "No equilibrium: a step moves by 1.5·η" in str(away)
    assert "No equilibrium" in str(
        games.stability(SQUARE, games.simultaneous(), (0.5,), step_size=0.1)
    )
    assert "No equilibrium" not in str(lost)


def test_find_equilibrium_says_where_it_is_stuck():
    found = games.find_equilibrium(games.general_sum(lambda x: x**4 - x), (5.0,), max_steps=2)
    assert not found.converged
    assert "No equilibrium: no step of Newton's method leaves less" in str(found)
    assert "No equilibrium" not in str(games.find_equilibrium(SQUARE, (1.0,)))
