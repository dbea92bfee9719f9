"""Where q is no good a fit goes on, as far as it may, and is trusted only where it is right."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from equipoise import vi
from tests.vi.fit import hard

BANANA = hard.banana()


def errors(target, fit, key):
    """Of the worst mean in sds and of the worst sd, relatively, as users see them in draws."""
    draws = vi.posterior_draws(fit, key, 20_000)
    draws = np.concatenate([np.reshape(x, (20_000, -1)) for x in jax.tree.leaves(draws)], axis=1)
    mean = np.abs(draws.mean(axis=0) - target.mean) / target.sd
    return mean.max(), np.abs(draws.std(axis=0) / target.sd - 1).max()


def test_fit_of_a_banana_goes_on_until_it_is_trusted(key):
    fit = vi.fit(BANANA.log_density, BANANA.example, key)
    assert fit.trusted, fit.reason
    assert fit.source is vi.Source.CONDITIONAL
    assert [stage.source for stage in fit.stages][-1] == "conditional"
    assert fit.stages[-1].reason == fit.reason
    assert fit.stages[0].reason in str(fit)
    mean, sd = errors(BANANA, fit, key)
    # Errors of 0.05 and 0.025 are allowed, and 20 000 draws add 0.01: four of both.
    assert mean < 0.25
    assert sd < 0.1
    # It is normalized.
    found = fit.draw_diagnostics
    assert abs(found.log_evidence) < 5 * found.log_evidence_error
    assert 0 < found.log_evidence_error < 0.05
    again = pickle.loads(pickle.dumps(fit))
    chex.assert_trees_all_equal(
        vi.posterior_draws(again, key, 10), vi.posterior_draws(fit, key, 10)
    )


def test_fit_goes_no_further_than_it_may(key):
    fit = vi.fit(BANANA.log_density, BANANA.example, key, escalate=False)
    assert not fit.trusted
    assert len(fit.stages) == 1
    until = vi.fit(BANANA.log_density, BANANA.example, key, escalate="conditional")
    assert until.source == "conditional"
    with pytest.raises(ValueError, match=r"vi\.fit: `escalate` must be"):
        vi.fit(BANANA.log_density, BANANA.example, key, escalate="chains")


def test_fit_that_is_trusted_does_no_more(key):
    def log_density(z):
        return -0.5 * jnp.sum(z**2) - 0.01 * jnp.sum(z**4)

    fits = [vi.fit(log_density, np.zeros(2), key, escalate=last) for last in (True, False)]
    assert fits[0].trusted
    assert len(fits[0].stages) == 1
    chex.assert_trees_all_equal(fits[0].weighted, fits[1].weighted)


def test_fit_of_a_small_budget_does_not_exceed_it(key):
    fit = vi.fit(BANANA.log_density, BANANA.example, key, max_evaluations=3000)
    assert fit.draw_diagnostics.num_draws <= 3000


def test_drivers_are_the_coordinates_that_bend(key):
    """A funnel has one, pairs of a banana have one each."""
    target = hard.banana(pairs=2, rest=1)
    fit = vi.fit(target.log_density, target.example, key, escalate="conditional")
    assert fit.source == "conditional"
    assert fit.trusted, fit.reason
    assert max(errors(target, fit, key)) < 0.1


def two_curves(z):
    """Given z[0] the other coordinate has two modes, at ±3: a normal finds one of them."""
    both = jnp.stack([z[1] - 3, z[1] + 3])
    return -0.5 * z[0] ** 2 + logsumexp(-2 * (both - z[0] ** 2) ** 2 * jnp.exp(z[0]))


@pytest.mark.slow
def test_conditional_normals_are_not_trusted_where_others_have_several_modes(key):
    for seed in range(3):
        fit = vi.fit(two_curves, np.zeros(2), jax.random.key(seed), escalate="conditional")
        assert not fit.trusted or fit.source != "conditional", fit.reason


TARGETS = {
    "funnel": hard.funnel(),
    "banana": BANANA,
    "banana in 10": hard.banana(1, 8),
    "five bananas": hard.banana(5, 0),
    "heavy tails": hard.heavy(),
    "four modes": hard.modes([[-6, 0], [6, 0], [0, 6], [0, -6]], [1, 1, 1, 1], [1, 2, 3, 4]),
}
# No number of draws at hand has the sds of a funnel of scale 3, whose mean fourth power is 24 000
# times the square of the mean square. Ten heavy tails are at the limit: some seeds are refused.
REFUSED = ("funnel", "heavy tails")
SEEDS = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_fit_of_a_hard_target_is_trusted_only_where_it_is_right(name):
    target = TARGETS[name]
    for seed in range(SEEDS):
        fit = vi.fit(target.log_density, target.example, jax.random.key(seed))
        mean, sd = errors(target, fit, jax.random.key(seed + 100))
        assert not fit.trusted or (mean < 0.25 and sd < 0.1), (seed, mean, sd, fit.reason)
        assert fit.trusted or name in REFUSED, (seed, fit.reason)


@pytest.mark.slow
def test_fits_of_varying_slopes_are_trusted_and_agree():
    """Their errors are 0.05 of an sd and 0.025 at most, so that of two seeds differ by less."""
    log_density, example, support = hard.slopes()
    found = []
    for seed in range(SEEDS):
        fit = vi.fit(log_density, example, jax.random.key(seed), support=support)
        assert fit.trusted, (seed, fit.reason)
        draws = vi.posterior_draws(fit, jax.random.key(seed + 100), 20_000)
        found.append(np.concatenate([draws[name] for name in ("mean", "scale")], axis=1))
    means, sds = np.mean(found, axis=1), np.std(found, axis=1)
    assert np.all(np.ptp(means, axis=0) < 0.25 * sds.mean(axis=0))
    assert np.all(np.ptp(sds, axis=0) < 0.1 * sds.mean(axis=0))
