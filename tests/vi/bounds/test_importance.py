"""Importance-weighted and Rényi bounds against Gauss-Hermite quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

FAMILY = vi.mean_field(0.0)
PARAMS = {"mean": jnp.array([0.4]), "log_scale": jnp.array([-0.2])}
GRADIENTS = ("doubly_reparameterized", "pathwise")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def log_density(z, slope=0.8):
    return -0.5 * (z - 1) ** 2 + jnp.cos(slope * z)


def exact_bound(params, slope, alpha):
    """The Rényi bound with K = 2 as a double integral over the noise."""
    weights = jnp.asarray(WEIGHTS / WEIGHTS.sum())
    noise = jnp.asarray(NODES)
    z = params["mean"] + jnp.exp(params["log_scale"]) * noise
    log_q = jax.scipy.stats.norm.logpdf(z, params["mean"], jnp.exp(params["log_scale"]))
    log_w = (1 - alpha) * (jax.vmap(lambda x: log_density(x, slope))(z) - log_q)
    pair = jnp.logaddexp(log_w[:, None], log_w[None, :]) - jnp.log(2.0)
    return jnp.sum(weights[:, None] * weights[None, :] * pair) / (1 - alpha)


@pytest.mark.parametrize(
    "alpha", [0.0, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (0.6, -0.5))]
)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_bounds_and_their_gradients_are_unbiased(gradient, alpha, key):
    repeats = 1600

    @jax.jit
    def repeated(params, slope):
        def value(params, slope, key):
            options = {"num_importance_samples": 2, "num_samples": 64, "gradient": gradient}
            density = functools.partial(log_density, slope=slope)
            if alpha == 0:
                return vi.importance_weighted_bound(density, FAMILY, params, key, **options).value
            return vi.renyi_bound(density, FAMILY, params, key, alpha=alpha, **options).value

        both = jax.value_and_grad(value, (0, 1))
        return jax.lax.map(lambda k: both(params, slope, k), jax.random.split(key, repeats))

    actual = jax.tree.leaves(repeated(PARAMS, 0.8))
    exact = jax.value_and_grad(exact_bound, (0, 1))(PARAMS, 0.8, alpha)
    for samples, expected in zip(actual, jax.tree.leaves(exact), strict=True):
        error = np.std(samples, axis=0) / repeats**0.5
        difference = np.abs(np.mean(samples, axis=0) - expected)
        np.testing.assert_array_less(difference, 4 * error + 1e-6)


def test_bounds_edge_single_draw_and_alpha_one_are_the_elbo(key):
    def both(bound):
        return jax.jit(jax.value_and_grad(lambda p: bound(p).value))(PARAMS)

    def elbo(p):
        return vi.elbo(log_density, FAMILY, p, key, num_samples=6, gradient="sticking_the_landing")

    expected = both(elbo)
    single = both(
        lambda p: vi.importance_weighted_bound(
            log_density, FAMILY, p, key, num_importance_samples=1, num_samples=6
        )
    )
    limit = both(
        lambda p: vi.renyi_bound(log_density, FAMILY, p, key, alpha=1.0, num_importance_samples=6)
    )
    for actual in (single, limit):
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-12)


def test_bounds_are_ordered_by_alpha_draw_by_draw(key):
    """The power mean rises with its exponent 1 − α."""

    def bound(alpha):
        return vi.renyi_bound(
            log_density, FAMILY, PARAMS, key, alpha=alpha, num_importance_samples=5
        ).value

    values = jax.jit(lambda: [bound(alpha) for alpha in (-1.0, 0.0, 0.5, 1.0, 2.0)])()
    assert np.all(np.diff(values) < 0)


def test_importance_weighted_bound_rises_with_draws_to_the_evidence(key):
    """p is 3 times a normal density: the evidence is log 3, and no bound exceeds it."""

    def bound(k):
        return vi.importance_weighted_bound(
            lambda z: jnp.log(3.0) + jax.scipy.stats.norm.logpdf(z),
            FAMILY,
            PARAMS,
            key,
            num_importance_samples=k,
            num_samples=4000,
        )

    bounds = jax.jit(lambda: [bound(k) for k in (1, 4, 16)])()
    values = np.array([b.value for b in bounds])
    errors = np.array([b.standard_error for b in bounds])
    assert np.all(np.diff(values) > 0)
    assert np.all(values < np.log(3) + 4 * errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gradient", "slope"), [("doubly_reparameterized", 0.5), ("pathwise", -0.5)]
)
def test_signal_to_noise_of_the_gradient_has_slope(gradient, slope, key):
    counts = np.array([8, 32, 128])
    # The expected pathwise gradient falls like 1/K: its noise must stay below it at K = 128.
    repeats = 2_000 if slope > 0 else 60_000

    def ratio(k):
        def estimator(params, key):
            return vi.importance_weighted_bound(
                lambda z: -0.5 * z**2,
                FAMILY,
                params,
                key,
                num_importance_samples=int(k),
                gradient=gradient,
            )

        params = {"mean": jnp.array([0.5]), "log_scale": jnp.array([0.3])}
        measure = jax.jit(
            lambda p, key: vi.gradient_variance(estimator, p, key, num_repeats=repeats)
        )
        return measure(params, key).signal_to_noise

    ratios = np.array([ratio(k) for k in counts])
    fitted = np.polyfit(np.log(counts), np.log(ratios), 1)[0]
    assert abs(fitted - slope) < 0.1


def test_bounds_reject_mistakes(key):
    options = {"num_importance_samples": 2}
    bound = functools.partial(vi.importance_weighted_bound, log_density, FAMILY, PARAMS, key)
    with pytest.raises(ValueError, match=r"`num_importance_samples` must be at least 1; got int 0"):
        bound(num_importance_samples=0)
    with pytest.raises(ValueError, match=r"`num_samples` must be at least 1"):
        bound(num_importance_samples=1, num_samples=0)
    with pytest.raises(ValueError, match=r"`gradient` must be one of 'doubly_reparameterized'"):
        bound(gradient="score_function", **options)
    with pytest.raises(ValueError, match=r"vi.renyi_bound: `alpha` must be finite; got float inf"):
        vi.renyi_bound(log_density, FAMILY, PARAMS, key, alpha=float("inf"), **options)
    with pytest.raises(ValueError, match=r"`log_density` must return one floating-point number"):
        vi.importance_weighted_bound(lambda z: z[None], FAMILY, PARAMS, key, **options)
    coin = vi.categorical(2)
    with pytest.raises(ValueError, match=r"`family` must be reparameterized.*got categorical"):
        vi.importance_weighted_bound(lambda i: 0.0, coin, coin.init(), key, **options)
