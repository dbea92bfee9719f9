"""Games and update rules: their definitions in NumPy, conserved quantities, and bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import games

START = (jnp.asarray(1.0), jnp.asarray(0.5))
BILINEAR = games.zero_sum(lambda x, y: x * y)
J = np.array([[0.0, 1.0], [-1.0, 0.0]])


def path(rule, game=BILINEAR, start=START, step_size=0.3, num_steps=8):
    return np.stack(
        games.simulate(game, rule, start, step_size=step_size, num_steps=num_steps), axis=1
    )


def numpy_path(step, num_steps=8, **memory):
    z, out = np.array([1.0, 0.5]), [np.array([1.0, 0.5])]
    for _ in range(num_steps):
        z = step(z, memory)
        out.append(z)
    return np.array(out)


H = 0.3


def simultaneous(z, memory):
    return z - H * J @ z


def alternating(z, memory):
    x = z[0] - H * z[1]
    return np.array([x, z[1] + H * x])


def extragradient(z, memory):
    return z - H * J @ (z - H * J @ z)


def optimistic(z, memory):
    now = J @ z
    past, memory["past"] = memory.get("past", now), now
    return z - H * ((0.7 + 0.4) * now - 0.4 * past)


def momentum(z, memory):
    memory["v"] = -0.2 * memory.get("v", np.zeros(2)) - H * J @ z
    return z + memory["v"]


def alternating_momentum(z, memory):
    v = memory.get("v", np.zeros(2))
    vx = 0.3 * v[0] - H * z[1]
    x = z[0] + vx
    vy = 0.3 * v[1] + H * x
    memory["v"] = np.array([vx, vy])
    return np.array([x, z[1] + vy])


def consensus(z, memory):
    return z - H * (J @ z + 0.6 * J.T @ J @ z)


def lola(z, memory):
    # ∇ₓ x(y + αx) = y + 2αx and the same for the other, with α = 0.25.
    return z - H * (J @ z + 0.5 * z)


def implicit(z, memory):
    return np.linalg.solve(np.eye(2) + H * J, z)


def primal_dual(z, memory):
    x = z[0] - H * z[1]
    return np.array([x, z[1] + H * (x + 0.8 * (x - z[0]))])


def extrapolation(z, memory):
    x = z[0] - H * memory.get("seen", z[1])
    y = z[1] + H * (1.5 * x - 0.5 * z[0])
    memory["seen"] = 1.2 * y - 0.2 * z[1]
    return np.array([x, y])


def inner_three(z, memory):
    end = z
    for _ in range(3):
        end = simultaneous(end, memory)
    return z + 0.4 * (end - z)


DEFINITIONS = [
    (games.simultaneous(), simultaneous),
    (games.alternating(), alternating),
    (games.extragradient(), extragradient),
    (games.optimistic(0.7, 0.4), optimistic),
    (games.momentum(-0.2), momentum),
    (games.momentum(0.3, order=(0, 1)), alternating_momentum),
    (games.momentum((0.3, 0.3), order=(0, 1)), alternating_momentum),
    (games.consensus(0.6), consensus),
    (games.symplectic_adjustment(0.6), consensus),
    (games.lola(0.25), lola),
    (games.proximal_point(), implicit),
    (games.competitive(), implicit),
    (games.primal_dual_hybrid(0.8), primal_dual),
    (games.primal_dual_hybrid(0.0), alternating),
    (games.alternating_extrapolation(1.5, 1.2), extrapolation),
    (games.alternating_extrapolation(1.0, 1.0), alternating),
    (games.alternating_extrapolation(0.0, 1.0), simultaneous),
    (games.lookahead(games.simultaneous(), 3, 0.4), inner_three),
    (games.from_optax(optax.sgd(1.0)), simultaneous),
    (games.from_optax(optax.sgd(1.0), optax.sgd(1.0), order=(0, 1)), alternating),
    (games.from_optax(optax.sgd(1.0), extrapolate=True), extragradient),
    (games.from_optax(optax.sgd(1.0, momentum=-0.2)), momentum),
    (games.from_optax(optax.optimistic_gradient_descent(1.0, 0.7, 0.4)), optimistic),
]


@pytest.mark.parametrize(
    ("rule", "definition"), DEFINITIONS, ids=[f"{r.name}-{d.__name__}" for r, d in DEFINITIONS]
)
def test_simulate_matches_definition_of_the_rule_in_numpy(rule, definition):
    # Eight steps of a few operations each: 1e-13 is some hundred roundings.
    np.testing.assert_allclose(path(rule), numpy_path(definition), rtol=1e-13, atol=1e-13)


def test_alternating_conserves_its_quadratic_form():
    """x² + y² − ηxy with the minimizer first, + with the maximizer first; x²/ηₓ + y²/ηᵧ − xy."""
    for order, sign in (((0, 1), -1), ((1, 0), 1)):
        x, y = path(games.alternating(order), step_size=0.9, num_steps=1000).T
        form = x**2 + y**2 + sign * 0.9 * x * y
        # A thousand steps drift by their roundings, at worst all in one direction.
        np.testing.assert_allclose(form, form[0], rtol=1000 * 4e-16)
    x, y = path(games.alternating(), step_size=(0.3, 0.8), num_steps=1000).T
    form = x**2 / 0.3 + y**2 / 0.8 - x * y
    np.testing.assert_allclose(form, form[0], rtol=1000 * 4e-16)


def test_simulate_reproduces_the_six_step_table():
    q_first = path(games.alternating((1, 0)), start=(jnp.ones(()), jnp.ones(())), step_size=1.0)
    assert q_first[:7, 0].tolist() == [1, -1, -2, -1, 1, 2, 1]
    assert q_first[:7, 1].tolist() == [1, 2, 1, -1, -2, -1, 1]


def test_simultaneous_multiplies_the_squared_norm_by_one_plus_square_of_step():
    norm = np.sum(path(games.simultaneous(), step_size=0.4, num_steps=30) ** 2, axis=1)
    np.testing.assert_allclose(norm, norm[0] * 1.16 ** np.arange(31), rtol=1e-13)


def test_rules_do_not_depend_on_how_players_are_laid_out(rng):
    """A pytree of arrays and its coordinates in one vector play alike."""
    a = jnp.asarray(rng.normal(size=(5, 5)))
    tree = {"u": jnp.asarray(rng.normal(size=(2, 2))), "b": jnp.asarray(rng.normal(size=()))}
    flat, unravel = jax.flatten_util.ravel_pytree(tree)
    y = jnp.asarray(rng.normal(size=5))
    payoff = lambda x, y: x @ a @ y + jnp.sum(x**4) - jnp.sum(y**4)  # noqa: E731
    as_tree = games.zero_sum(lambda x, y: payoff(jax.flatten_util.ravel_pytree(x)[0], y))
    for rule in (games.competitive(), games.lola(0.1)):
        options = {"step_size": (0.05, 0.02), "num_steps": 3}
        left = games.simulate(as_tree, rule, (tree, y), **options)
        right = games.simulate(games.zero_sum(payoff), rule, (flat, y), **options)
        last = jax.tree.map(lambda x: x[-1], left)
        expected = (unravel(right[0][-1]), right[1][-1])
        chex.assert_trees_all_close(last, expected, rtol=1e-12)


def test_general_sum_plays_every_loss_of_three_players():
    game = games.general_sum(
        lambda x, y, z: x**2 + x * y, lambda x, y, z: y * z, lambda x, y, z: z**3 - x * z
    )
    z = (jnp.asarray(1.0), jnp.asarray(2.0), jnp.asarray(3.0))
    np.testing.assert_allclose(games.vector_field(game, z), [4.0, 3.0, 26.0])
    moved = games.simulate(game, games.alternating((2, 0, 1)), z, step_size=0.1, num_steps=1)
    np.testing.assert_allclose([x[1] for x in moved], [0.6, 1.96, 0.4], rtol=1e-14)


def test_projections_hold_each_player_in_its_set():
    onto = (None, optax.projections.projection_non_negative)
    for rule in (
        games.simultaneous(projections=onto),
        games.alternating(projections=onto),
        games.extragradient(projections=onto),
        games.optimistic(projections=onto),
        games.primal_dual_hybrid(projections=onto),
        games.from_optax(optax.sgd(1.0), projections=onto),
    ):
        z = path(rule, start=(jnp.asarray(-1.0), jnp.asarray(0.1)), num_steps=20)
        assert z[:, 1].min() == 0
        assert z[:, 0].min() <= -1


def test_from_optax_advances_moments_once_in_an_extragradient_step():
    rule = games.from_optax(optax.adam(1.0), extrapolate=True)
    with jax.numpy_dtype_promotion("standard"):
        state = rule.step(BILINEAR, rule.init(BILINEAR, START, 0.1), 0.1)
    counts = [leaf for leaf in jax.tree.leaves(state.memory) if leaf.dtype == jnp.int32]
    assert all(count == 1 for count in counts)
    assert counts


BAD = [
    (lambda: games.zero_sum(3.0), TypeError, "games.zero_sum: `payoff` must be a function"),
    (lambda: games.general_sum(), ValueError, "`losses` must hold at least one loss"),
    (lambda: games.general_sum(1.0), TypeError, "`losses` must be a function"),
    (lambda: games.vector_field(BILINEAR, (1.0,)), ValueError, "the game's 2 players; got 1"),
    (lambda: games.vector_field(BILINEAR, 1.0), TypeError, "must be a tuple of one pytree"),
    (lambda: games.vector_field(BILINEAR, (1, 2)), TypeError, r"`players\[0\]` must be a float"),
    (lambda: games.vector_field(BILINEAR, (1j, 1.0)), TypeError, r"`players\[0\]` must be a float"),
    (lambda: games.vector_field(len, (1.0,)), TypeError, "`game` must be a Game"),
    (
        lambda: games.vector_field(games.zero_sum(lambda x, y: x * y), (jnp.ones(2), jnp.ones(2))),
        ValueError,
        "must have scalar payoffs",
    ),
    (
        lambda: games.vector_field(
            games.general_sum(lambda x: jax.lax.complex(x, x)), (jnp.ones(()),)
        ),
        TypeError,
        "must have real payoffs",
    ),
    (lambda: path(games.simultaneous(), step_size=-1.0), ValueError, "must not be negative"),
    (lambda: path(games.simultaneous(), step_size=np.nan), ValueError, "negative or NaN"),
    (lambda: path(games.simultaneous(), step_size=(1.0,)), ValueError, "one for each of the 2"),
    (lambda: path(games.simultaneous), TypeError, "`rule` must be a Rule"),
    (lambda: path(games.simultaneous(), num_steps=2.0), TypeError, "`num_steps` must be a Python"),
    (lambda: games.simultaneous(projections=3), TypeError, "`projections` must be a tuple"),
    (
        lambda: path(games.simultaneous(projections=(None,))),
        ValueError,
        "one entry for each of the 2 players",
    ),
    (lambda: games.alternating((0, 0.5)), TypeError, "`order` must be a tuple of player numbers"),
    (lambda: path(games.alternating((0,))), ValueError, "must name each of the game's 2 players"),
    (lambda: games.alternating((0, 2)), ValueError, "must name every player, from 0"),
    (lambda: games.momentum(0.5, order=(0, 1, 1)), ValueError, "from 0, once"),
    (lambda: games.proximal_point(max_newton=0), ValueError, "`max_newton` must be at least 1"),
    (
        lambda: games.simulate(
            games.general_sum(lambda x: x), games.competitive(), (1.0,), step_size=1.0, num_steps=1
        ),
        ValueError,
        "games.competitive: `game` must have 2 players; got 1 players",
    ),
    (lambda: games.lookahead(3), TypeError, "games.lookahead: `rule` must be a Rule"),
    (lambda: games.lookahead(games.simultaneous(), 0), ValueError, "`num_steps` must be at least"),
    (lambda: games.from_optax(), ValueError, "`optimizers` must hold one"),
    (lambda: games.from_optax(0.1), TypeError, "must be an optax.GradientTransformation"),
    (
        lambda: path(games.from_optax(*[optax.sgd(1.0)] * 3)),
        ValueError,
        "one for all or one for each of the 2 players",
    ),
    (
        lambda: games.from_optax(optax.sgd(1.0), order=(0, 1), extrapolate=True),
        ValueError,
        "`order` must be None with `extrapolate`",
    ),
    (
        lambda: games.find_equilibrium(BILINEAR, START, max_steps=0),
        ValueError,
        "`max_steps` must be at least 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD, ids=[match for _, _, match in BAD])
def test_games_reject_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    "make",
    [games.primal_dual_hybrid, lambda: games.alternating_extrapolation(1.0, 1.0)],
)
def test_two_player_rules_reject_other_games(make):
    with pytest.raises(ValueError, match="must have 2 players"):
        make().init(games.general_sum(lambda x: x), (1.0,), 0.1)


def test_simulate_lets_an_overflow_show():
    x, _ = games.simulate(BILINEAR, games.simultaneous(), START, step_size=1e100, num_steps=6)
    assert np.isfinite(x[:3]).all()
    assert not np.isfinite(x[-1])
