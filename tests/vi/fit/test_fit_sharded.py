"""A fit of data that is spread over eight devices is the fit of the same data on one."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from equipoise import vi
from equipoise.vi._fit import target as module

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
outcome = np.random.default_rng(0).normal(3.0, 2.0, size=4096)

def make(data):
    def log_density(z):
        residual = (data - z["mean"]) * jnp.exp(-z["log_sd"])
        return -0.5 * jnp.sum(residual**2) - data.shape[0] * z["log_sd"]
    return log_density

spread = jax.device_put(jnp.asarray(outcome), NamedSharding(mesh, PartitionSpec("data")))
assert len(spread.sharding.device_set) == 8
example = {"mean": jnp.zeros(()), "log_sd": jnp.zeros(())}
fits = [vi.fit(make(data), example, jax.random.key(0)) for data in (jnp.asarray(outcome), spread)]
# The program that a fit asks its log density by: each device has an eighth of the data, and sums.
target = module.trace(make(spread), vi.mean_field(example))
asked = module._evaluate.lower(target, np.int32(1), np.zeros((512, 2)), np.int32(0))
text = asked.compile().as_text()
assert "all-reduce" in text and "f64[512]" in text and "f64[4096]" not in text
for one, eight in zip(*map(jax.tree.leaves, [fit.params for fit in fits])):
    # Sums of 4096 terms in another order differ by 4096 eps = 1e-12 of their terms, times the sum
    # of the absolute weights of the sparse grid, a few dozen.
    np.testing.assert_allclose(eight, one, rtol=1e-10, atol=1e-10)
assert fits[0].trusted and fits[1].trusted
"""


@pytest.mark.slow
def test_fit_of_sharded_data_equals_one_device():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=environment)
