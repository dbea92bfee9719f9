"""The critical step without a matrix against the one from matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import games

SIZE = 12
COUPLING = np.random.default_rng(0).normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
GAME = games.zero_sum(lambda x, y: 0.25 * x @ x + x @ COUPLING @ y - 0.25 * y @ y)
ORIGIN = (jnp.zeros(SIZE), jnp.zeros(SIZE))
RULES = {
    "simultaneous": games.simultaneous(),
    "alternating": games.alternating(),
    "extragradient": games.extragradient(),
    "optimistic": games.optimistic(),
    "momentum": games.momentum(-0.2, order=(0, 1)),
}


@pytest.mark.parametrize(
    "name",
    ["simultaneous", *(pytest.param(n, marks=pytest.mark.slow) for n in list(RULES)[1:])],
)
def test_critical_step_size_without_a_matrix_matches_the_matrices(name):
    dense, free = (
        games.critical_step_size(GAME, RULES[name], ORIGIN, max_step_size=10.0, method=method)
        for method in ("dense", "matrix_free")
    )
    # The rounds end where a step changes by 5e-5.
    np.testing.assert_allclose(free.step_size, dense.step_size, rtol=1e-4)
    assert int(free.kind) == int(dense.kind)


RESPONSES = {
    "descent": (games.simultaneous(), 2.0),
    "momentum": (games.momentum(0.9), 3.8),
    "nesterov": (games.from_optax(optax.sgd(1.0, momentum=0.9, nesterov=True)), 3.8 / 2.8),
    "extragradient": (games.extragradient(), 1.0),
    "average": (games.from_optax(optax.chain(optax.ema(0.9, debias=False), optax.scale(-1))), 38.0),
}


@pytest.mark.parametrize(
    "name",
    ["momentum", *(pytest.param(n, marks=pytest.mark.slow) for n in RESPONSES if n != "momentum")],
)
@pytest.mark.parametrize("lowest", [0.2, -0.1, 0.0])
def test_critical_step_size_of_one_player_needs_the_ends_of_its_curvature(name, lowest):
    rule, expected = RESPONSES[name]
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(40, 40)))
    curvature = turn * np.append(np.linspace(0.3, 2.5, 39), lowest) @ turn.T
    game = games.general_sum(lambda x: 0.5 * x @ curvature @ x)
    lost = games.critical_step_size(
        game, rule, (jnp.zeros(40),), max_step_size=50.0, method="matrix_free"
    )
    # The iteration ends at 1e-6.
    np.testing.assert_allclose(lost.attracted_step_size, expected / 2.5, rtol=2e-6)
    np.testing.assert_allclose(lost.step_size, expected / 2.5 if lowest > 0 else 0, rtol=2e-6)
    assert (int(lost.num_flat), int(lost.num_repelling)) == (lowest == 0, lowest < 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["descent", "momentum"])
def test_critical_step_size_of_many_unknowns_needs_no_matrix(name):
    rule, expected = RESPONSES[name]
    curvature = jnp.linspace(1e-3, 3.0, 100_000)
    game = games.general_sum(lambda x: 0.5 * jnp.sum(curvature * x**2))
    lost = games.critical_step_size(game, rule, (jnp.zeros(100_000),), max_step_size=20.0)
    np.testing.assert_allclose([lost.step_size, lost.attracted_step_size], expected / 3, rtol=1e-4)
    assert (int(lost.num_flat), int(lost.num_repelling)) == (0, 0)


def test_critical_step_size_of_adam_without_a_matrix_holds_its_second_moment():
    curvature = np.array([3.0, 1.0, 0.5])
    game = games.general_sum(lambda x: 0.5 * jnp.sum(curvature * x**2))
    adam = optax.adam(1.0)
    with jax.numpy_dtype_promotion("standard"):
        first, *rest = adam.init(jnp.zeros(3))
        nu = np.array([4.0, 0.01, 1.0])
        rule = games.from_optax(adam, state=(first._replace(nu=jnp.asarray(nu)), *rest))
        lost = games.critical_step_size(
            game, rule, (jnp.zeros(3),), max_step_size=50.0, method="matrix_free"
        )
    expected = 38 / (curvature / (np.sqrt(nu) + 1e-8)).max()
    np.testing.assert_allclose(lost.step_size, expected, rtol=1e-6)


def test_critical_step_size_refuses_matrices_that_cannot_be_held():
    many = jnp.zeros(100_000)
    game = games.general_sum(lambda x: jnp.sum(x**2))
    with pytest.raises(ValueError, match="`method` must not be 'dense' for so many unknowns"):
        games.critical_step_size(
            game, games.simultaneous(), (many,), max_step_size=1.0, method="dense"
        )
    with pytest.raises(ValueError, match="`method` must be one of"):
        games.critical_step_size(
            game, games.simultaneous(), (many,), max_step_size=1.0, method="sparse"
        )


def test_critical_step_size_without_a_matrix_rejects_traced_values():
    @jax.jit
    def critical(a):
        game = games.general_sum(lambda x: a * jnp.sum(x**2))
        return games.critical_step_size(
            game, games.simultaneous(), (jnp.zeros(3),), max_step_size=1.0, method="matrix_free"
        ).step_size

    with pytest.raises(ValueError, match="must be 'dense' where values are traced"):
        critical(1.0)
