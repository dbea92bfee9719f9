"""Inputs for the contract test, one entry for each name in ``vi.__all__``."""

import jax
import jax.numpy as jnp

from equipoise import vi
from tests.contract import Case, Pytree

EXAMPLE = {"a": jnp.zeros(2), "b": jnp.zeros(())}
POSITION = {"a": jnp.array([0.3, -0.4]), "b": jnp.array(0.9)}
VECTOR = jnp.array([0.1, -0.2, 0.3])


def log_density(position):
    return -jnp.sum((position["a"] - 1) ** 2) - jnp.cosh(position["b"])


def density_of(family):
    def fn(params, position):
        return family.log_prob(params, position), family.entropy(params)

    return fn


FULL = vi.full_rank(EXAMPLE)
MEAN = vi.mean_field(EXAMPLE)
MEAN_PARAMS = {"mean": VECTOR, "log_scale": -VECTOR}

CASES = {
    "elbo": Case(
        lambda params, key: vi.elbo(log_density, MEAN, params, key, num_samples=8),
        (MEAN_PARAMS, jax.random.key(0)),
    ),
    "mean_field": Case(density_of(MEAN), (MEAN_PARAMS, POSITION)),
    "full_rank": Case(density_of(FULL), ({**MEAN_PARAMS, "lower": VECTOR}, POSITION)),
    "Estimate": Pytree(vi.Estimate(jnp.array(1.0), jnp.array(0.1))),
    "Family": Pytree(MEAN),
}
