"""Cycles of known maps, and what their neighbors do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games


def logistic(r):
    return lambda x: r * x * (1 - x)


@pytest.mark.parametrize(
    ("period", "start", "near", "flip"),
    [
        (1, 0.6, 2.9, 3.0),
        (2, 0.452, 3.4, 1 + np.sqrt(6)),
        pytest.param(4, 0.36, 3.54, 3.5440903596, marks=pytest.mark.slow),
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
