"""Spectral radii and verdicts at one step size, dense and matrix-free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

ORIGIN = (jnp.zeros(()), jnp.zeros(()))
BILINEAR = games.zero_sum(lambda x, y: x * y)
H = 0.7


@pytest.mark.parametrize(
    ("rule", "rho"),
    [
        (games.simultaneous(), np.sqrt(1 + H**2)),
        (games.alternating(), 1.0),
        (games.extragradient(), np.sqrt(1 - H**2 + H**4)),
        (games.optimistic(), np.abs(np.roots([1, -(1 - 2j * H), -1j * H])).max()),
        (games.proximal_point(), 1 / np.sqrt(1 + H**2)),
        (games.competitive(), 1 / np.sqrt(1 + H**2)),
        (games.consensus(0.4), np.abs(1 - H * 0.4 + 1j * H)),
    ],
)
def test_spectral_radius_of_the_bilinear_game_matches_closed_form(rule, rho):
    found = games.spectral_radius(BILINEAR, rule, ORIGIN, step_size=H)
    np.testing.assert_allclose(found, rho, rtol=1e-12)


def test_spectral_radius_is_least_where_the_reference_says():
    rho = lambda rule, h: games.spectral_radius(BILINEAR, rule, ORIGIN, step_size=h)  # noqa: E731
    np.testing.assert_allclose(rho(games.extragradient(), np.sqrt(0.5)), np.sqrt(3) / 2, rtol=1e-12)
    # A defective eigenvalue moves by the root of rounding.
    np.testing.assert_allclose(rho(games.optimistic(), 0.5), np.sqrt(0.5), rtol=1e-7)
    best = games.momentum(-0.25, order=(0, 1))
    np.testing.assert_allclose(rho(best, 1.31951), 0.71556, atol=1e-5)
    quadratic = games.zero_sum(lambda x, y: x**2 / 2 + x * y - y**2 / 2)
    found = games.spectral_radius(quadratic, games.simultaneous(), ORIGIN, step_size=0.5)
    np.testing.assert_allclose(found, np.sqrt(0.5), rtol=1e-12)


def test_spectral_radius_differentiates_by_the_step_size():
    rho = lambda h: games.spectral_radius(  # noqa: E731
        BILINEAR, games.extragradient(), ORIGIN, step_size=h
    )
    expected = (2 * H**3 - H) / np.sqrt(1 - H**2 + H**4)
    np.testing.assert_allclose(jax.grad(rho)(H), expected, rtol=1e-11)


@pytest.mark.parametrize("offset", [1e-2, 1e-6, 1e-10])
def test_stability_of_alternating_play_is_exact_up_to_its_jordan_block(offset):
    verdict = jax.jit(lambda h: games.stability(BILINEAR, games.alternating(), ORIGIN, step_size=h))
    assert verdict(2 - offset).verdict == games.NEUTRAL
    assert verdict(2 + offset).verdict == games.DIVERGES


def test_stability_counts_a_jordan_block_on_the_circle_as_divergence():
    found = games.stability(BILINEAR, games.alternating(), ORIGIN, step_size=2.0)
    assert found.defective
    assert found.verdict == games.DIVERGES
    np.testing.assert_allclose(found.spectral_radius, 1, rtol=1e-7)
    assert "diverges" in str(found)


def test_stability_of_unconstrained_directions_is_neutral():
    game = games.zero_sum(lambda x, y: (x[0] + x[1]) * y + y**2 * 0 + (x[0] + x[1]) ** 2)
    at = (jnp.zeros(2), jnp.zeros(()))
    found = games.stability(game, games.extragradient(), at, step_size=0.1)
    assert found.verdict == games.NEUTRAL
    assert not found.defective


def test_stability_takes_a_stated_tolerance():
    near = games.stability(BILINEAR, games.extragradient(), ORIGIN, step_size=0.99, tolerance=0.1)
    assert near.verdict == games.NEUTRAL


@pytest.mark.parametrize("n", [1000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_stability_matrix_free_matches_the_known_spectrum(n):
    """xᵀDy with one singular value above the rest: ρ² = 1 − h² + h⁴ or 1 + h²."""
    d = jnp.linspace(0.1, 1.0, n).at[-1].set(1.2)
    game = games.zero_sum(lambda x, y: jnp.sum(d * x * y))
    at = (jnp.zeros(n), jnp.zeros(n))
    found = games.stability(game, games.simultaneous(), at, step_size=0.5)
    np.testing.assert_allclose(found.spectral_radius, np.sqrt(1.36), rtol=1e-4)
    assert found.verdict == games.DIVERGES


@pytest.mark.slow
def test_spectral_radius_matrix_free_equals_dense_with_memory():
    d = jnp.linspace(0.2, 1.0, 20)
    game = games.zero_sum(lambda x, y: jnp.sum(d * x * y))
    at = (jnp.zeros(20), jnp.zeros(20))
    dense, free = (
        games.spectral_radius(game, games.optimistic(), at, step_size=0.9, method=method)
        for method in ("dense", "arnoldi")
    )
    np.testing.assert_allclose(free, dense, rtol=1e-4)


NOT_A_NUMBER = games.zero_sum(lambda x, y: x * y * jnp.nan)
OVERFLOW = games.zero_sum(lambda x, y: x * y * 1e308 * 10)
CONSTANT_NAN = games.general_sum(lambda x: x * jnp.nan)  # a finite spectrum, a step to nowhere


@pytest.mark.parametrize("method", ["dense", "arnoldi"])
def test_stability_is_undefined_where_the_spectrum_or_the_step_is_no_number(method):
    def verdict(game, at, eta):
        rule = games.simultaneous()
        return games.stability(game, rule, at, step_size=eta, method=method).verdict

    assert verdict(NOT_A_NUMBER, ORIGIN, 0.1) == games.UNDEFINED
    assert verdict(OVERFLOW, ORIGIN, 0.1) == games.UNDEFINED
    assert verdict(CONSTANT_NAN, ORIGIN[:1], 0.1) == games.UNDEFINED
    # A step size that is known only while the program runs cannot be refused.
    at_nan = jax.jit(lambda eta: verdict(BILINEAR, ORIGIN, eta))(jnp.asarray(jnp.nan))
    assert at_nan == games.UNDEFINED


def test_stability_prints_the_verdict_as_a_word_and_a_sentence():
    found = games.stability(NOT_A_NUMBER, games.simultaneous(), ORIGIN, step_size=0.1)
    assert f"undefined: {games.UNDEFINED.sentence}" in str(found)
    seen = []
    both = jax.vmap(lambda h: games.stability(BILINEAR, games.simultaneous(), ORIGIN, step_size=h))
    jax.jit(lambda h: seen.append(str(both(h))))(jnp.array([0.1, 0.2]))
    assert "int32[2]" in seen[0]
    assert "diverges" in str(jax.jit(both)(jnp.array([0.1, 0.2])))


def test_stability_rejects_an_unknown_method():
    for function in (games.stability, games.spectral_radius):
        with pytest.raises(ValueError, match="`method` must be one of 'auto', 'dense', 'arnoldi'"):
            function(BILINEAR, games.simultaneous(), ORIGIN, step_size=1.0, method="power")
        with pytest.raises(TypeError, match="`rule` must be a Rule"):
            function(BILINEAR, None, ORIGIN, step_size=1.0)
