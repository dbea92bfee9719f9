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
from equipoise.vi._target import target as module

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
asked = module.evaluate.lower(target, np.int32(1), np.zeros((512, 2)), np.int32(0))
text = asked.compile().as_text()
assert "all-reduce" in text and "f64[512]" in text and "f64[4096]" not in text
for one, eight in zip(*map(jax.tree.leaves, [fit.params for fit in fits])):
    # Sums of 4096 terms in another order differ by 4096 eps = 1e-12 of their terms, times the sum
    # of the absolute weights of the sparse grid, a few dozen.
    np.testing.assert_allclose(eight, one, rtol=1e-10, atol=1e-10)
assert fits[0].trusted and fits[1].trusted
"""

BATCHES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from equipoise import vi
from equipoise.vi._target import batches as module, target

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
x = rng.normal(size=(4104, 2))
data = {"x": x, "y": rng.poisson(np.exp(x @ [0.5, -0.3])).astype(float)}

def log_density(z, batch, scale):
    log_rate = batch["x"] @ z
    return -0.5 * jnp.sum(z**2) + scale * jnp.sum(batch["y"] * log_rate - jnp.exp(log_rate))

def fitted(data):
    return vi.fit(log_density, jnp.zeros(2), jax.random.key(0), data=data, batch_size=64)

one = fitted(data)
assert one.trusted
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    spread = jax.device_put(data, NamedSharding(mesh, PartitionSpec("data")))
    eight = fitted(spread)
    # Sums of 4104 terms in another order.
    for ours, theirs in zip(*map(jax.tree.leaves, (eight.params, one.params))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    # Each device has an eighth of the rows and of a batch, and nowhere all rows are gathered.
    batches = module.batches_of(log_density, one.family, spread, 64)
    whole = target.trace(batches.on(*batches.all_rows()), one.family)
    asked = target.evaluate.lower(whole, np.int32(1), np.zeros((512, 2)), np.int32(0))
    text = asked.compile().as_text()
    assert "all-reduce" in text and "f64[513,2]" in text and "f64[8,2]" in text
    assert "f64[4104,2]" not in text
"""


@pytest.mark.parametrize("program", [PROGRAM, BATCHES], ids=["captured", "batches"])
def test_fit_of_sharded_data_equals_one_device(program):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
