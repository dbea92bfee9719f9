"""What compiles when: few programs, none of them twice, and nothing that stays behind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import vi
from equipoise._jax import traced as module
from tests.vi.programs import counted

EXAMPLE = np.zeros(3)
NATURAL = {"full_rank": vi.full_rank, "mean_field": vi.mean_field}
FOLLOWED = {
    "low_rank": functools.partial(vi.low_rank, rank=1),
    "flow": functools.partial(vi.flow, num_layers=2, hidden_size=3),
    "mixture": functools.partial(vi.mixture, num_components=2),
    "mean_field_by_adam": vi.mean_field,
}


def density(scale, power=4):
    """A closure made anew, with an array, a number and unhashable state of its own."""
    state = {"weights": [scale * np.arange(1.0, 4.0)]}

    def log_density(z):
        return -jnp.sum(jnp.asarray(state["weights"][0]) * (z - 0.1 * scale) ** 2) - jnp.sum(
            z**power
        )

    return log_density


def options(name):
    """As a user's cell makes them: all of it anew, the optimizer at another rate."""
    if name in NATURAL:
        return {"family": lambda example: NATURAL[name](np.array(example))}
    return {"family": FOLLOWED[name], "num_steps": 20, "optimizer": optax.adam(0.02)}


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("low_rank", "flow", "mixture")]


@pytest.mark.parametrize("name", [*NATURAL, "mean_field_by_adam", *SLOW])
def test_fit_compiles_few_programs_and_none_of_them_twice(name, key):
    jax.clear_caches()
    with counted() as first:
        vi.fit(density(1.0), EXAMPLE, key, **options(name))
    assert len(first) <= (3 if name in NATURAL else 5)
    # What is compiled for other equations of the same shapes is what contains the log density.
    with counted() as other:
        vi.fit(density(1.0, power=6), EXAMPLE, key, **options(name))
    assert len(other) == (1 if name in NATURAL else 2)
    with counted() as again:
        fit = vi.fit(density(2.0), EXAMPLE, key, **options(name))
    assert not again
    np.testing.assert_array_less(np.abs(fit.family.sample(fit.params, key, 5)), 10)


def test_fit_that_is_adapted_or_fails_compiles_no_more(key):
    def heavy(z):
        return -2.5 * jnp.sum(jnp.log1p(z**2))

    def fragile(z):
        return jnp.where(z[0] > 3.0, jnp.nan, 1.0) * (10.0 * z[0] - 0.1 * jnp.sum(z**2))

    jax.clear_caches()
    with counted() as adapted:
        fit = vi.fit(heavy, EXAMPLE, key)
    assert fit.source == "importance resampled"
    assert len(adapted) <= 3
    rule = {"family": vi.mean_field, "optimizer": optax.sgd(0.1), "num_restarts": 1}
    with counted() as failed:
        fit = vi.fit(fragile, EXAMPLE, key, num_steps=200, **rule)
    assert fit.verdict is vi.Verdict.NOT_FINITE
    assert len(failed) <= 5


def test_fit_by_a_line_search_compiles_once_for_an_optimizer(key):
    rule = {"family": vi.mean_field, "optimizer": optax.lbfgs(), "num_samples": 64, "num_steps": 5}
    vi.fit(density(1.0), EXAMPLE, key, **rule)
    with counted() as again:
        vi.fit(density(2.0), EXAMPLE, key, **rule)
    assert not again


def test_posterior_draws_is_one_program_for_each_source(key):
    jax.clear_caches()
    fits = [
        vi.fit(lambda z: -jnp.sum(z**2), EXAMPLE, key),
        vi.fit(lambda z: -2.5 * jnp.sum(jnp.log1p(z**2)), EXAMPLE, key),
    ]
    assert fits[0].source != fits[1].source
    for fit in fits:
        with counted() as first:
            vi.posterior_draws(fit, key, 10)
        assert len(first) == 1
        with counted() as again:
            vi.posterior_draws(fit, key, 10)
        assert not again


def test_reports_of_a_fit_are_one_program_each(key):
    fit = vi.fit(lambda z: -jnp.sum(z**2), EXAMPLE, key)
    for report in (lambda: str(vi.summary(fit)), lambda: vi.to_arviz(fit, key, 10)):
        jax.clear_caches()
        with counted() as first:
            report()
        assert len(first) == 1


def test_calibrate_compiles_for_one_simulation_what_it_does_for_all(key):
    def calibrate(num_simulations):
        jax.clear_caches()
        with counted() as compiled:
            vi.calibrate(
                jax.random.normal,
                lambda z, key: z + jax.random.normal(key, (5,)),
                lambda z, x: -0.5 * z**2 - 0.5 * jnp.sum((x - z) ** 2),
                key,
                num_simulations=num_simulations,
            )
        return len(compiled)

    assert calibrate(20) == calibrate(40) <= 8


FULL = vi.full_rank(EXAMPLE)
CALLS = {
    "elbo": lambda log_p, q, key: vi.elbo(log_p, FULL, q, key, num_samples=4),
    "elbo_terms": lambda log_p, q, key: vi.elbo_terms(
        log_p, (FULL, q), FULL, q, key, num_samples=4, likelihood_scale=2.0
    ),
    "elbo_terms_sampled": lambda log_p, q, key: vi.elbo_terms(
        log_p, log_p, FULL, q, key, num_samples=4
    ),
    "kl_divergence": lambda _, q, __: vi.kl_divergence(FULL, q, FULL, q),
    "importance_weighted_bound": lambda log_p, q, key: vi.importance_weighted_bound(
        log_p, FULL, q, key, num_importance_samples=3
    ),
    "renyi_bound": lambda log_p, q, key: vi.renyi_bound(
        log_p, FULL, q, key, alpha=0.5, num_importance_samples=3
    ),
    "diagnose": lambda log_p, q, key: vi.diagnose(log_p, FULL, q, key, num_samples=200),
    "gradient_variance": lambda log_p, q, key: vi.gradient_variance(
        lambda params, k: vi.elbo(log_p, FULL, params, k, num_samples=4), q, key, num_repeats=3
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_measurement_is_one_program_whatever_it_closes_over(name, key):
    q, call = FULL.init(), CALLS[name]
    jax.clear_caches()
    with counted() as first:
        call(density(1.0), q, key)
    assert len(first) == 1
    with counted() as again:
        call(density(2.0), q, key)
    assert not again


def test_a_cell_that_runs_a_hundred_times_leaves_nothing_behind(key):
    q = FULL.init()

    def cell(scale):
        vi.elbo(density(scale), FULL, q, key, num_samples=4)
        if scale < 10:
            vi.fit(density(scale), EXAMPLE, key, **options("mean_field_by_adam"))

    cell(0.5)
    programs, arrays = len(module.seen), len(jax.live_arrays())
    with counted() as compiled:
        for scale in range(1, 101):
            cell(float(scale))
    assert not compiled
    assert len(module.seen) == programs
    assert len(jax.live_arrays()) == arrays
