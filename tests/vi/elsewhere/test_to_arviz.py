"""The real ArviZ takes draws as they come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi


@pytest.fixture(scope="module")
def arviz():
    """Imported by the one process that needs it: it takes seconds."""
    return pytest.importorskip("arviz")


@pytest.fixture(scope="module")
def fit():
    def log_density(z):
        return -0.5 * jnp.sum(z["a"] ** 2) - 0.5 * jnp.sum((z["b"]["c"] - 1) ** 2)

    return vi.fit(log_density, {"a": jnp.zeros(2), "b": {"c": 0.0}}, jax.random.key(0))


def test_groups_become_the_data_of_arviz(arviz, fit):
    groups = vi.to_arviz(fit, jax.random.key(1), 500)
    if arviz.__version__.startswith("0."):
        data = arviz.from_dict(**groups)
    else:
        data = arviz.from_dict(groups)
    draws = vi.posterior_draws(fit, jax.random.key(1), 500)
    assert data.posterior.sizes["chain"] == 1
    assert data.posterior.sizes["draw"] == 500
    np.testing.assert_array_equal(data.posterior["a"][0], draws["a"])
    np.testing.assert_array_equal(data.posterior["b.c"][0], draws["b"]["c"])


def test_a_position_of_one_array_has_a_name():
    fit = vi.fit(lambda z: -0.5 * z**2, 0.0, jax.random.key(0))
    assert list(vi.to_arviz(fit, jax.random.key(1), 10)["posterior"]) == ["position"]
