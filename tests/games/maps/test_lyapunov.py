"""Lyapunov exponents: laws, exact values, and what they are at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games


def henon(z):
    return jnp.stack([1 - 1.4 * z[0] ** 2 + z[1], 0.3 * z[0]])


def cat(z):
    return jnp.stack([jnp.mod(2 * z[0] + z[1], 1.0), jnp.mod(z[0] + z[1], 1.0)])


def descent(gradient, eta):
    return lambda x: x - eta * gradient(x)


def well(x):
    """Gradient of the double well (x² − 1)²/4."""
    return x**3 - x


def test_lyapunov_exponents_of_descent_on_a_cubic_is_ln_2():
    found = games.lyapunov_exponents(descent(lambda x: x**2 - x, 3.0), 0.3, num_steps=100_000)
    # The tangent is 2 in the coordinate that makes the map a tent; the change of coordinate is
    # paid once in T steps, by less than ln T.
    np.testing.assert_allclose(found.values, [np.log(2)], atol=np.log(1e5) / 1e5)


def test_lyapunov_exponents_of_descent_in_a_double_well():
    found = games.lyapunov_exponents(descent(well, 2.0), 0.3, num_steps=100_000)
    np.testing.assert_allclose(found.values, [np.log(3)], atol=np.log(1e5) / 1e5)
    for eta in (0.3, 0.8):
        found = games.lyapunov_exponents(descent(well, eta), 0.3, num_steps=100)
        np.testing.assert_allclose(found.values, [np.log(abs(1 - 2 * eta))], rtol=1e-13)


def test_lyapunov_exponents_of_the_cat_map_are_exact():
    found = games.lyapunov_exponents(cat, jnp.array([0.1, 0.27]))
    # A constant tangent: rounding of T = 10⁴ logarithms, which add up to 1e4·ε·√1e4 at most.
    exact = np.log((3 + np.sqrt(5)) / 2)
    np.testing.assert_allclose(found.values, [exact, -exact], rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, [0, 0], atol=1e-13)


def test_lyapunov_exponents_of_henon_sum_to_the_log_determinant():
    found = games.lyapunov_exponents(henon, jnp.zeros(2), num_steps=20_000)
    np.testing.assert_allclose(jnp.sum(found.values), np.log(0.3), rtol=1e-12)
    # Four standard errors, and half a digit of the reference.
    assert abs(found.values[0] - 0.4192) < 4 * found.standard_error[0] + 5e-5
    assert 0 < found.standard_error[0] < 0.01


@pytest.mark.slow
def test_lyapunov_exponents_of_henon_to_the_digits_of_the_reference():
    starts = jnp.stack([jnp.linspace(-0.1, 0.1, 500), jnp.zeros(500)], axis=1)
    found = jax.jit(
        jax.vmap(
            lambda z: games.lyapunov_exponents(henon, z, num_steps=100_000, num_exponents=1).values
        )
    )(starts)
    # The spread over independent orbits is the error of their mean: about 5e-5 here.
    error = np.std(found) / np.sqrt(found.size)
    assert error < 1e-4
    np.testing.assert_allclose(np.mean(found), 0.4192, atol=4 * error + 5e-5)


def test_lyapunov_exponents_of_a_linear_map_are_log_moduli(rng):
    q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    moduli = np.array([1.1, 0.9, 0.5, 0.2])
    a = jnp.asarray(q @ (np.diag(moduli) + np.triu(rng.normal(size=(4, 4)), 1)) @ q.T)
    start = {"x": jnp.ones((2, 1)), "y": jnp.ones(2)}

    def fn(z):
        image = a @ jnp.concatenate([z["x"].ravel(), z["y"]])
        return {"x": image[:2, None], "y": image[2:]}

    found = games.lyapunov_exponents(fn, start, num_steps=1_000, num_transient=500)
    # After 500 steps the tangents are aligned to (0.9/1.1)⁵⁰⁰ < 1e-43.
    np.testing.assert_allclose(found.values, np.log(moduli), rtol=1e-10)
    largest = games.lyapunov_exponents(
        fn, start, num_steps=1_000, num_transient=500, num_exponents=1
    )
    np.testing.assert_allclose(largest.values, found.values[:1], rtol=1e-12)


def test_lyapunov_exponents_edge_orbit_on_an_unstable_cycle():
    found = games.lyapunov_exponents(lambda x: 4 * x * (1 - x), 0.5, num_steps=100)
    np.testing.assert_allclose(found.values, [np.log(4)], rtol=1e-13)  # 1/2 → 1 → 0 → 0


@pytest.mark.parametrize("num_exponents", [1, 2])
def test_lyapunov_exponents_edge_lost_direction_is_minus_infinity(num_exponents):
    found = games.lyapunov_exponents(
        lambda z: z * jnp.array([0.5, 0.0]), jnp.ones(2), num_steps=50, num_exponents=num_exponents
    )
    np.testing.assert_allclose(found.values, [np.log(0.5), -np.inf][:num_exponents], rtol=1e-13)
    superstable = games.lyapunov_exponents(lambda x: 2 * x * (1 - x), 0.5, num_steps=50)
    assert superstable.values[0] == -np.inf
    assert superstable.standard_error[0] == np.inf
    assert not superstable.diverged


def test_lyapunov_exponents_edge_overflow_is_measured_up_to_there():
    found = games.lyapunov_exponents(lambda x: 2 * x, 1.0, num_steps=2_000, num_transient=10)
    np.testing.assert_allclose(found.values, [np.log(2)], rtol=1e-13)
    assert found.num_steps == 1024 - 10 - 1  # 2¹⁰²⁴ is the first power of two that overflows
    assert found.diverged
    assert found.standard_error[0] == np.inf
    early = games.lyapunov_exponents(lambda x: x**2, 3.0, num_steps=10, num_transient=20)
    assert np.isnan(early.values[0])
    assert early.num_steps == 0


def test_lyapunov_exponents_differentiate_by_the_parameter():
    def exponent(eta):
        return games.lyapunov_exponents(descent(well, eta), 0.9, num_steps=50).values[0]

    np.testing.assert_allclose(jax.grad(exponent)(0.8), 2 / (2 * 0.8 - 1), rtol=1e-10)


def test_lyapunov_exponents_of_alternating_play_are_zero():
    game = games.zero_sum(lambda p, q: p * q)
    step, _, _ = games.update_map(game, games.alternating(), 1.0)
    found = games.lyapunov_exponents(step, jnp.ones(2), num_steps=600)
    # Six steps are the identity, so the sum over 600 vanishes but for rounding.
    np.testing.assert_allclose(found.values, [0, 0], atol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: games.lyapunov_exponents(3, 0.1), TypeError, "`fn` must be a function z -> z"),
        (
            lambda: games.lyapunov_exponents(lambda x: x, 1),
            TypeError,
            "`start` must be a floating-point array",
        ),
        (
            lambda: games.lyapunov_exponents(lambda x: (x, x), 0.1),
            ValueError,
            r"`fn\(start\)` must have the structure of `start`",
        ),
        (
            lambda: games.lyapunov_exponents(lambda x: x[:1], jnp.ones(2)),
            ValueError,
            r"`fn\(start\)` must have the leaf shapes of `start`",
        ),
        (
            lambda: games.lyapunov_exponents(lambda x: x, jnp.ones(2), num_exponents=3),
            ValueError,
            "`num_exponents` must be at most 2",
        ),
        (
            lambda: games.lyapunov_exponents(lambda x: x, jnp.ones(2), num_steps=0),
            ValueError,
            "`num_steps` must be at least 1",
        ),
    ],
)
def test_lyapunov_exponents_rejects_what_is_no_map(call, error, match):
    with pytest.raises(error, match=f"games.lyapunov_exponents: {match}"):
        call()
