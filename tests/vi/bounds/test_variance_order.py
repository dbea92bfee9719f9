"""Which estimator is less noisy, at the optimum of a logistic regression and far from it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import vi

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 4)) @ np.array(
    [[1.0, 0.6, 0.0, 0.0], [0.0, 1.0, 0.0, 0.3], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
Y = RNG.random(40) < 1 / (1 + np.exp(-X @ np.array([1.0, -1.0, 0.5, 0.0])))
SHORT = {"cfe": "closed_form_entropy", "stl": "sticking_the_landing", "score": "score_function"}


def log_density(beta):
    logits = jnp.asarray(X) @ beta
    likelihood = jnp.where(Y, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits))
    return jnp.sum(likelihood) - jnp.sum(beta**2) / 8


def bound(family, params, key, gradient, draws, num_samples=16):
    return vi.elbo(
        log_density,
        family,
        params,
        key,
        num_samples=num_samples,
        gradient=SHORT[gradient],
        draws=draws,
        replications=2 if gradient == "score" and draws == "quasi_random" else 1,
    )


def optimum(family):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 500))

    def step(carry, key):
        params, state = carry
        loss = jax.grad(lambda p: -bound(family, p, key, "stl", "quasi_random", 64).value)
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
            updates, state = optimizer.update(loss(params), state)
        return (optax.apply_updates(params, updates), state), None

    start = family.init(scale=0.5)
    keys = jax.random.split(jax.random.key(0), 500)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0][0])
    return run((start, optimizer.init(start)))


def total_variance(family, params, gradient, draws):
    def estimator(params, key):
        return bound(family, params, key, gradient, draws)

    measure = jax.jit(
        lambda p: vi.gradient_variance(estimator, p, jax.random.key(1), num_repeats=1000).total
    )
    return float(measure(params))


@pytest.mark.slow
def test_gradient_variance_orders_mean_field_estimators_at_the_optimum():
    family = vi.mean_field(jnp.zeros(4))
    best = optimum(family)
    v = {
        (g, d): total_variance(family, best, g, d)
        for g in ("cfe", "stl")
        for d in ("iid", "antithetic", "quasi_random")
    }
    assert v["stl", "iid"] < v["cfe", "iid"]
    for gradient in ("cfe", "stl"):
        assert v[gradient, "antithetic"] < v[gradient, "iid"]
        assert v[gradient, "quasi_random"] < v[gradient, "iid"]
    assert min(v, key=v.get) == ("stl", "quasi_random")


@pytest.mark.slow
def test_gradient_variance_orders_full_rank_estimators_at_the_optimum():
    family = vi.full_rank(jnp.zeros(4))
    best = optimum(family)
    cfe, stl = (total_variance(family, best, g, "iid") for g in ("cfe", "stl"))
    assert stl < 0.1 * cfe
    assert total_variance(family, best, "stl", "antithetic") < stl


@pytest.mark.slow
def test_gradient_variance_of_sticking_the_landing_is_large_far_away():
    family = vi.mean_field(jnp.zeros(4))
    narrow = family.init(scale=np.exp(-3.0))
    cfe, stl = (total_variance(family, narrow, g, "iid") for g in ("cfe", "stl"))
    assert stl > 10 * cfe
