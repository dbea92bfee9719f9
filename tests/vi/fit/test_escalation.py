"""Where q is no good a fit goes on, as far as it may, and is trusted only where it is right."""

import pickle
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

from equipoise import vi
from tests.vi import programs
from tests.vi.fit import hard, hard_models

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


@pytest.mark.slow
def test_fit_goes_on_where_the_density_has_reverse_mode_alone(key):
    density = jax.custom_vjp(BANANA.log_density)
    density.defvjp(lambda z: (density(z), z), lambda z, g: (g * jax.grad(BANANA.log_density)(z),))
    fits = []
    for log_density in (density, BANANA.log_density):
        fits.append(vi.fit(log_density, BANANA.example, key))
        assert fits[-1].trusted, fits[-1].reason
    assert fits[0].source == fits[1].source == "conditional"
    # Differences of gradients err by 1e-8 of the scale; the normals that they give move as much.
    found, exact = (fit.draw_diagnostics.log_evidence for fit in fits)
    np.testing.assert_allclose(found, exact, atol=1e-4)
    with programs.counted() as compiled:
        vi.fit(density, BANANA.example, key)
    assert not compiled


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


def test_stage_that_is_too_dear_is_left_out_and_says_what_it_takes(key):
    few = {"max_evaluations": 3000, "escalate": "conditional"}
    fit = vi.fit(BANANA.log_density, BANANA.example, key, **few)
    assert not fit.trusted
    asked = re.search(
        r"conditional stage was left out, as it takes max_evaluations=(.*)\.", fit.reason
    )
    assert fit.stages[-1].reason in fit.reason
    many = {**few, "max_evaluations": int(asked[1])}
    fit = vi.fit(BANANA.log_density, BANANA.example, key, **many)
    assert fit.source == "conditional"
    assert fit.trusted, fit.reason


def test_drivers_are_the_coordinates_that_bend(key):
    """A funnel has one, pairs of a banana have one each."""
    target = hard.banana(pairs=2, rest=2)
    fit = vi.fit(target.log_density, target.example, key, escalate="conditional")
    assert fit.source == "conditional"
    assert fit.trusted, fit.reason
    assert max(errors(target, fit, key)) < 0.1


def schools(z):
    """Eight schools, centered: near a spread of 0 effects are the same number, rounded."""
    y, sd = np.float32([28, 8, -3, 7, -1, 1, 18, 12]), np.float32([15, 10, 16, 11, 9, 11, 10, 18])
    mu, tau, theta = z["mu"], z["tau"], z["theta"]
    seen = jnp.sum(norm.logpdf(theta, mu, tau) + norm.logpdf(y, theta, sd))
    return seen + norm.logpdf(mu, 0, 5) - jnp.log1p((tau / 5) ** 2)


@pytest.mark.slow
def test_hierarchy_in_single_precision_is_trusted_on_every_seed():
    """Local normals in the neck are no modes that draws must see, however they are rounded."""
    zero = np.zeros((), np.float32)
    example = {"mu": zero, "tau": zero + 1, "theta": np.zeros(8, np.float32)}
    scales = []
    for seed in range(10):
        fit = vi.fit(schools, example, jax.random.key(seed), support={"tau": vi.positive()})
        assert fit.trusted, (seed, fit.reason)
        scales.append(vi.posterior_draws(fit, jax.random.key(seed), 8000)["tau"])
    # What two seeds say differs by the errors that a verdict allows: 0.05 and 0.025 of an sd.
    means, sds = np.mean(scales, axis=1), np.std(scales, axis=1)
    assert np.ptp(means) < 0.25 * sds.mean()
    assert np.ptp(np.log(sds)) < 0.2


def two_curves(z):
    """Given z[0] the other coordinate has two modes, at ±3: a normal finds one of them."""
    both = jnp.stack([z[1] - 3, z[1] + 3])
    return -0.5 * z[0] ** 2 + logsumexp(-2 * (both - z[0] ** 2) ** 2 * jnp.exp(z[0]))


@pytest.mark.slow
def test_conditional_normals_are_not_trusted_where_others_have_several_modes(key):
    for seed in range(3):
        fit = vi.fit(two_curves, np.zeros(2), jax.random.key(seed), escalate="conditional")
        assert not fit.trusted or fit.source != "conditional", fit.reason


def test_fit_finds_a_mode_that_no_start_reaches(key):
    """The narrow mode has half of the mass, and all slopes elsewhere lead to the wide one."""
    for target in (
        hard.modes([[-3, 0, 0, 0, 0], [3, 0, 0, 0, 0]], [1, 0.2], [1, 1]),
        hard.modes([[1, 1, 1], [8, 8, 8]], [1, 0.3], [1, 1]),
        hard.modes(np.array([[1.0], [-1.0]]) * np.ones(60), [1, 1], [1, 2]),
    ):
        fit = vi.fit(target.log_density, target.example, key, escalate=False)
        assert fit.trusted, fit.reason
        # Errors of 0.05 and 0.025 are allowed: four of each.
        mean, sd = errors(target, fit, key)
        assert mean < 0.2
        assert sd < 0.1


def test_fit_finds_the_image_under_other_signs(key):
    """One path, begun at one of two modes in 12 dimensions: chance would not meet the other."""
    center = 3 * np.random.default_rng(2).standard_normal(12)
    target = hard.modes([center, -center], [0.5, 0.5], [1, 1])
    options = {"start": center, "num_restarts": 1, "escalate": False}
    fit = vi.fit(target.log_density, target.example, key, **options)
    assert fit.trusted, fit.reason
    mean, sd = errors(target, fit, key)
    assert mean < 0.2
    assert sd < 0.1


def test_fit_says_that_there_is_mass_elsewhere_where_it_may_not_draw_there(key):
    target = hard.modes(np.array([[1.0], [-1.0]]) * np.ones(60), [1, 1], [1, 1])
    options = {"max_evaluations": 8192, "escalate": False}
    fit = vi.fit(lambda z: target.log_density(z["x"]), {"x": np.zeros(60)}, key, **options)
    assert fit.verdict is vi.Verdict.ELSEWHERE, fit.reason
    # Each coordinate of the other mode is 2 away, and sds are 1.
    assert "2 sd away at ['x']" in fit.reason


TARGETS = {
    "funnel": hard.funnel(),
    "banana": BANANA,
    "banana in 10": hard.banana(1, 8),
    "five bananas": hard.banana(5, 0),
    "heavy tails": hard.heavy(),
    "four modes": hard.modes([[-6, 0], [6, 0], [0, 6], [0, -6]], [1, 1, 1, 1], [1, 2, 3, 4]),
    "modes of two widths": hard.modes([[-3] * 5, [3] * 5], [1, 0.3], [1, 1]),
}
# No number of draws at hand has the sds of a funnel of scale 3, whose mean fourth power is 24 000
# times the square of the mean square. Of clusters whose labels may be swapped, draws are sometimes
# worth too few.
REFUSED = ("funnel", "clusters")
SEEDS = 1  # three take minutes more


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_fit_of_a_hard_target_is_trusted_only_where_it_is_right(name):
    target = TARGETS[name]
    for seed in range(SEEDS):
        fit = vi.fit(target.log_density, target.example, jax.random.key(seed))
        mean, sd = errors(target, fit, jax.random.key(seed + 100))
        assert not fit.trusted or (mean < 0.25 and sd < 0.1), (seed, mean, sd, fit.reason)
        assert fit.trusted or name in REFUSED, (seed, fit.reason)


def apart(found, reference):
    """Of the worst mean in sds and of the worst sd, relatively, over the parameters of a model."""
    pairs = [(found[name], *map(np.asarray, reference[name])) for name in reference]
    means = [np.max(np.abs(x.mean(axis=0) - mean) / sd) for x, mean, sd in pairs]
    return max(means), max(np.max(np.abs(x.std(axis=0) / sd - 1)) for x, _, sd in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(hard_models.REFERENCES))
def test_fit_of_a_hard_model_is_trusted_only_where_it_is_right(name):
    log_density, example, support = getattr(hard_models, name)()
    reference = hard_models.REFERENCES[name]["moments"]
    for seed in range(SEEDS):
        fit = vi.fit(log_density, example, jax.random.key(seed), support=support)
        draws = vi.posterior_draws(fit, jax.random.key(seed + 100), 20_000)
        mean, sd = apart(draws, reference)
        assert not fit.trusted or (mean < 0.25 and sd < 0.1), (seed, mean, sd, fit.reason)
        assert fit.trusted or name in REFUSED, (seed, fit.reason)
