"""What a first hour gets wrong: each message names the argument and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi

KEY = jax.random.key(0)
EXAMPLE = np.zeros(2)
FAMILY = vi.mean_field(EXAMPLE)
FLOW = vi.flow(EXAMPLE, num_layers=1, hidden_size=1)
MAKE_A_KEY = r"`key` must be a key; got .*\. Make one: jax\.random\.key\(0\)\."


def log_density(z):
    return -0.5 * jnp.sum(z**2)


def of_rows(z, batch, scale):
    return log_density(z) - scale * jnp.sum((batch["x"] - z) ** 2)


BOUNDS = {
    "elbo": {"num_samples": 4},
    "importance_weighted_bound": {"num_importance_samples": 3},
    "renyi_bound": {"num_importance_samples": 3, "alpha": 0.5},
    "annealed_bound": {"num_temperatures": 2, "num_samples": 2},
    "diagnose": {"num_samples": 200},
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_rejects_an_integer_as_key_and_a_function_as_family(name):
    bound, options, params = getattr(vi, name), BOUNDS[name], FAMILY.init()
    with pytest.raises(TypeError, match=rf"vi\.{name}: {MAKE_A_KEY}"):
        bound(log_density, FAMILY, params, 0, **options)
    made = r"`family` must be a Family; got .* Make it of an example: vi\.mean_field\(example\)\."
    with pytest.raises(TypeError, match=rf"vi\.{name}: {made}"):
        bound(log_density, vi.mean_field, params, KEY, **options)


CALLS = {
    "fit, an integer for a key": (
        lambda: vi.fit(log_density, EXAMPLE, 0),
        TypeError,
        rf"vi\.fit: {MAKE_A_KEY}",
    ),
    "fit, no density": (
        lambda: vi.fit(1.0, EXAMPLE, KEY),
        TypeError,
        r"vi\.fit: `log_density` must be a function of a position; got float 1\.0\.",
    ),
    "fit, a density of nothing": (
        lambda: vi.fit(lambda _: None, EXAMPLE, KEY),
        ValueError,
        r"vi\.fit: `log_density` must return one floating-point number .* got NoneType None",
    ),
    "fit, a start like no position": (
        lambda: vi.fit(log_density, EXAMPLE, KEY, start={"a": 1.0}),
        ValueError,
        r"vi\.fit: `start` must have the structure of `example`",
    ),
    "fit, an estimator that is not used": (
        lambda: vi.fit(log_density, EXAMPLE, KEY, gradient="nonsense"),
        ValueError,
        r"vi\.fit: `gradient` must be one of 'closed_form_entropy', .* got nonsense",
    ),
    "fit, a number to show progress": (
        lambda: vi.fit(log_density, EXAMPLE, KEY, progress=1),
        TypeError,
        r"vi\.fit: `progress` must be a boolean or a function .* Try True\.",
    ),
    "fit, leaves that differ in rows": (
        lambda: vi.fit(of_rows, EXAMPLE, KEY, data={"x": EXAMPLE, "y": np.zeros(3)}, batch_size=1),
        ValueError,
        r"vi\.fit: `data\['y'\]` must have 2 rows as the leaves before; .* close over those",
    ),
    "fit, a list for data": (
        lambda: vi.fit(of_rows, EXAMPLE, KEY, data={"x": [1.0, 2.0]}, batch_size=1),
        ValueError,
        r"vi\.fit: `data\['x'\]\[0\]` must have rows in front; .* jnp\.asarray makes an array",
    ),
    "fit, a batch larger than the data": (
        lambda: vi.fit(of_rows, EXAMPLE, KEY, data={"x": EXAMPLE}, batch_size=3),
        ValueError,
        r"vi\.fit: `batch_size` must be at most the 2 rows of `data`; got 3\. .* close over",
    ),
    "posterior_draws, params for a fit": (
        lambda: vi.posterior_draws(FAMILY.init(), KEY, 3),
        TypeError,
        r"vi\.posterior_draws: `fit` must be a Fit; got dict .* Give what vi\.fit returned\.",
    ),
    "summary, a family for a fit": (
        lambda: vi.summary(FAMILY),
        TypeError,
        r"vi\.summary: `fit` must be a Fit; got Family mean_field",
    ),
    "summary, one level": (
        lambda: vi.summary(vi.fit(log_density, EXAMPLE, KEY), levels=0.5),
        TypeError,
        r"vi\.summary: `levels` must be a sequence of numbers; got float 0\.5\.",
    ),
    "sample, an integer for a key": (
        lambda: FAMILY.sample(FAMILY.init(), 0, 3),
        TypeError,
        rf"vi\.mean_field: {MAKE_A_KEY}",
    ),
    "init, an integer for a key": (lambda: FLOW.init(0), TypeError, rf"vi\.flow: {MAKE_A_KEY}"),
    "interval, a word for a bound": (
        lambda: vi.interval("low", 1.0),
        TypeError,
        r"vi\.interval: `low` must be a number; got low\.",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_mistake_is_named_with_its_remedy(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call()


def test_fit_gives_supports_to_a_function_that_makes_a_family():
    fit = vi.fit(
        lambda z: jnp.sum(jnp.log(z) - z), EXAMPLE, KEY, family=vi.mean_field, support=vi.positive()
    )
    assert {one.name for one in fit.family.positions.supports} == {"positive"}
