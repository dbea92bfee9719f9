"""Zeros of the vector field."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import games

START = (jnp.asarray(1.0), jnp.asarray(0.5))
BILINEAR = games.zero_sum(lambda x, y: x * y)


def test_find_equilibrium_solves_and_differentiates_implicitly():
    def found(c):
        game = games.zero_sum(lambda x, y: x**2 / 2 + x * y - y**2 / 2 - c * x**3 / 3)
        return games.find_equilibrium(game, (jnp.asarray(3.0), jnp.asarray(1.0)))

    # y = x and 2x = c x², so x = 2/c.
    result = found(jnp.asarray(0.8))
    assert result.converged
    np.testing.assert_allclose(result.players, [2.5, 2.5], rtol=1e-12)
    slope = jax.grad(lambda c: found(c).players[0])(jnp.asarray(0.8))
    np.testing.assert_allclose(slope, -2 / 0.64, rtol=1e-12)


def test_find_equilibrium_of_many_unknowns_forms_no_matrix_and_differentiates():
    n = 300
    rng = np.random.default_rng(0)
    c, b = rng.normal(size=(n, n)) / np.sqrt(n), rng.normal(size=n)

    def reached(strength):
        def payoff(x, y):
            return x @ x / 2 + x @ (c @ y) - y @ y / 2 - strength * (b @ y)

        return games.find_equilibrium(games.zero_sum(payoff), (jnp.zeros(n), jnp.zeros(n)))

    def square(strength):
        found = reached(strength)
        return jnp.sum(found.players[0] ** 2), found

    (value, found), slope = jax.jit(jax.value_and_grad(square, has_aux=True))(1.5)
    x = c @ np.linalg.solve(np.eye(n) + c.T @ c, 1.5 * b)
    assert found.converged
    np.testing.assert_allclose(found.players[0], x, atol=1e-12)
    # x is linear in the strength.
    np.testing.assert_allclose(slope, 2 * value / 1.5, rtol=1e-11)
    program = jax.make_jaxpr(reached)(1.5)
    assert f"[{2 * n},{2 * n}]" not in str(program)


def test_find_equilibrium_says_when_there_is_none():
    game = games.general_sum(lambda x: jnp.exp(x))
    assert not games.find_equilibrium(game, (jnp.zeros(()),), max_steps=5).converged


def test_find_equilibrium_on_a_continuum_takes_a_point_of_it():
    game = games.zero_sum(lambda x, y: (x[0] + x[1] - 1) * y)
    found = games.find_equilibrium(game, (jnp.zeros(2), jnp.zeros(())))
    assert found.converged
    np.testing.assert_allclose(found.players[0], [0.5, 0.5], rtol=1e-12)
