"""PyMC's models by PyMC's own log density in JAX, by the recipe of ``docs/guide/moving.md``."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from tests.test_docs import ROOT, code_blocks

# PyMC is no need of the tests: it brings a compiler of its own.
pytest.importorskip("pymc")


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_of_the_page_fits_a_model_of_pymc():
    blocks = code_blocks(ROOT / "docs" / "guide" / "moving.md", "py")
    (recipe,) = (block for block in blocks if "import pymc" in block)
    found = {"jax": jax, "jnp": jnp, "vi": vi}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(compile(recipe, "moving.md", "exec"), found)
    assert found["fit"].trusted
    y = np.array([float(word) for word in re.search(r"observed=\[(.*)\]", recipe)[1].split(",")])

    def log_density(z):
        prior = -0.5 * (z["mean"] / 2) ** 2 - 0.5 * z["sd"] ** 2
        return prior - 0.5 * jnp.sum(((y - z["mean"]) / z["sd"]) ** 2) - 6 * jnp.log(z["sd"])

    example, support = {"mean": 0.0, "sd": 1.0}, {"sd": vi.positive()}
    own = vi.summary(vi.fit(log_density, example, jax.random.key(2), support=support))
    for name, mean, sd in zip(("mean", "sd"), own.mean, own.sd, strict=True):
        # Four errors of 4000 draws and of as many effective ones.
        drawn = found["posterior"][name]
        np.testing.assert_allclose(drawn.mean(), mean, atol=4 * sd * (2 / 4000) ** 0.5)
