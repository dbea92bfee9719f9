"""A tail that draws lack is found by what the density says there, and none where they have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from equipoise import vi
from equipoise.vi._target.target import trace
from equipoise.vi._weights.tails import unseen_tail
from equipoise.vi._weights.weighted import weigh

NUM_DRAWS = 8192
SHARE, WIDE = 0.02, 6.0  # of a tail of the first coordinate, beside which it is standard


def bent(z):
    """The first coordinate has a tail on one side, which the others follow along a ridge."""
    x, rest = z[0], z[1:]
    tail = jnp.log(SHARE) + norm.logpdf(x, WIDE, 1.0)
    marginal = jnp.logaddexp(jnp.log1p(-SHARE) + norm.logpdf(x), tail)
    return marginal + jnp.sum(norm.logpdf(rest, 0.1 * x**2, 0.5))


def doubt(rng, share, density=bent, size=4):
    """About draws that have so much of the tail, from a normal like those near its center."""
    target = trace(density, vi.full_rank(np.zeros(size)))
    x = np.where(rng.random(NUM_DRAWS) < share, WIDE, 0) + rng.standard_normal(NUM_DRAWS)
    rest = 0.1 * x[:, None] ** 2 + 0.5 * rng.standard_normal((NUM_DRAWS, size - 1))
    same = np.zeros(NUM_DRAWS)
    weighted = weigh(np.c_[x, rest], same, same)
    normal = np.r_[0.0, np.full(size - 1, 0.1)], np.diag(np.r_[1.0, np.full(size - 1, 0.6)])
    return unseen_tail(target.values, target.gradients, normal, weighted, rng)


@pytest.mark.parametrize("size", [2, 10])
def test_tail_that_draws_lack_is_found(size, rng):
    found = doubt(rng, 0.0, size=size)
    assert found
    assert found.place == 0


@pytest.mark.parametrize("size", [2, 10])
def test_tail_that_draws_have_is_no_doubt(size, rng):
    assert not doubt(rng, SHARE, size=size)


def test_normal_has_no_tail(rng):
    def straight(z):
        return norm.logpdf(z[0]) + jnp.sum(norm.logpdf(z[1:], 0.1, 0.6))

    assert not doubt(rng, 0.0, straight)


@pytest.mark.slow
def test_fit_reaches_the_tail_of_a_capacity_that_few_data_tell():
    """Logistic growth, of which the end is not seen: draws of a normal lack what it may become."""
    rng = np.random.default_rng(8)
    t = jnp.arange(8.0)
    noise = 0.1 * rng.standard_normal(12)[:8]
    y = jnp.log(10 / (1 + jnp.exp(-0.9 * (t - 5)))) + noise

    def growth(z):
        mean = jnp.log(z["top"]) - jax.nn.softplus(-z["rate"] * (t - z["middle"]))
        prior = norm.logpdf(jnp.log(z["top"]), 2, 1) - jnp.log(z["top"])
        prior += norm.logpdf(z["rate"], 0, 2) + norm.logpdf(z["middle"], 5, 5)
        return prior + norm.logpdf(z["noise"], 0, 0.5) + jnp.sum(norm.logpdf(y, mean, z["noise"]))

    example = {"top": 5.0, "rate": 1.0, "middle": 4.0, "noise": 0.2}
    support = {name: vi.positive() for name in ("top", "rate", "noise")}
    logs = []
    for seed in range(8):
        fit = vi.fit(growth, example, jax.random.key(seed), support=support)
        assert fit.trusted, (seed, fit.reason)
        logs.append(np.log(vi.posterior_draws(fit, jax.random.key(seed), 20_000)["top"]))
    # The largest and the smallest of eight sds, each with an error of 0.025, are 0.14 apart.
    assert np.ptp(np.log(np.std(logs, axis=1))) < 0.14
