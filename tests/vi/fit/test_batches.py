"""Fits to batches: the verdict is on all data, and the answer that of a fit to all of it."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import vi
from equipoise.vi._target.batches import batches_of, expanded, lacking
from equipoise.vi._target.target import trace
from tests.vi.programs import counted

NUM_ROWS = 230


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 2))
    y = rng.poisson(np.exp(x @ [0.5, -0.3] + 0.2))
    return {"x": x, "y": y}


def counts(z, batch, scale):
    log_rate = batch["x"] @ z["slope"] + jnp.log(z["rate"])
    prior = -0.5 * jnp.sum(z["slope"] ** 2) - z["rate"]
    return prior + scale * jnp.sum(batch["y"].astype(float) * log_rate - jnp.exp(log_rate))


EXAMPLE = {"slope": jnp.zeros(2), "rate": jnp.ones(())}
SUPPORT = {"rate": vi.positive()}
FAMILY = vi.full_rank(EXAMPLE, support=SUPPORT)
POSITION = {"slope": jnp.array([0.4, -0.1]), "rate": jnp.array(1.3)}


def on_all(data):
    arrays = jax.tree.map(jnp.asarray, data)
    return lambda z: counts(z, arrays, 1.0)


@pytest.mark.parametrize("batch_size", [1, 23, 50, NUM_ROWS])
def test_the_density_on_all_batches_is_that_on_all_data(data, batch_size):
    batches = batches_of(counts, FAMILY, data, batch_size)
    rows, rest = batches.all_rows()
    np.testing.assert_array_equal(np.sort(np.append(rows, rest)), np.arange(NUM_ROWS))
    found = jax.value_and_grad(batches.on(rows, rest))(POSITION)
    # The order of a sum of 230 terms.
    chex.assert_trees_all_close(found, jax.value_and_grad(on_all(data))(POSITION), rtol=1e-12)


def test_the_density_on_random_batches_is_right_on_average_and_to_first_order(data):
    batches = batches_of(counts, FAMILY, data, 1)
    center = FAMILY.ravel(EXAMPLE)
    whole = expanded(batches, batches.all_rows(), center)
    single = jnp.arange(NUM_ROWS, dtype=jnp.int32)[:, None]

    @jax.jit
    def of_rows(z):
        return jax.vmap(lambda row: batches.on_batch(row, whole)(z))(single)

    exact = on_all(data)
    np.testing.assert_allclose(of_rows(POSITION).mean(), exact(POSITION), rtol=1e-12)
    np.testing.assert_allclose(of_rows(EXAMPLE), exact(EXAMPLE), rtol=1e-12)
    slopes = jax.jacobian(lambda u: of_rows(FAMILY.unravel(u)) + FAMILY.log_volume(u))(center)
    np.testing.assert_allclose(slopes, np.tile(whole.slope, (NUM_ROWS, 1)), rtol=1e-9, atol=1e-9)
    few, rest = batches.some_rows(np.random.default_rng(0), 10)
    assert len(np.unique(few)) == 10
    assert not rest.size


def test_rows_around_an_anchor_are_right_to_second_order(data):
    batches = batches_of(counts, FAMILY, data, 10)
    center, some = FAMILY.ravel(POSITION), batches.some_rows(np.random.default_rng(1), 3)
    whole, part = (
        expanded(batches, r, center, np.ones_like(center)) for r in (batches.all_rows(), some)
    )
    flat = trace(batches.on(*some), FAMILY, lacking(whole, part)).flat
    on_rows = on_all(data)

    @jax.jit
    def off(step):
        u = center + step * jnp.array([0.3, -0.5, 0.8])
        return flat(u) - on_rows(FAMILY.unravel(u)) - FAMILY.log_volume(u)

    # The value is of the order of 300, whose rounding is 1e-13.
    np.testing.assert_allclose(off(0.0), 0.0, atol=1e-11)
    # What is left falls with the third power of the distance, up to one more at these lengths.
    near, far = off(0.01), off(0.02)
    assert abs(near) > 1e-9
    np.testing.assert_allclose(far / near, 8.0, rtol=0.1)


def assert_equal_within_errors(one, other):
    one, other = vi.summary(one), vi.summary(other)
    both = np.hypot(one.mean_error, other.mean_error), np.hypot(one.sd_error, other.sd_error)
    assert np.all(np.abs(one.mean - other.mean) < 4 * both[0])
    assert np.all(np.abs(one.sd - other.sd) < 4 * both[1])


def test_fit_of_batches_is_that_of_all_data(data, key):
    options = {"data": data, "batch_size": 20, "support": SUPPORT}
    fit = vi.fit(counts, EXAMPLE, key, **options)
    whole = vi.fit(on_all(data), EXAMPLE, key, support=SUPPORT)
    assert fit.trusted
    assert fit.elbo.error_bound is None
    assert_equal_within_errors(fit, whole)
    # Both are the optimum, that of the batches up to 1e-3 nats.
    gap = vi.kl_divergence(FAMILY, fit.params, FAMILY, whole.params)
    assert gap < 0.01
    # Other data of the same shapes are other operands of the same programs.
    reversed_rows = jax.tree.map(lambda leaf: leaf[::-1], data)
    with counted() as again:
        vi.fit(counts, EXAMPLE, key, **(options | {"data": reversed_rows}))
    assert not again
    half = vi.fit(counts, EXAMPLE, key, num_steps=1, **options)
    rest = vi.fit(counts, EXAMPLE, key, state=half.state, **options)
    chex.assert_trees_all_equal(rest.state, fit.state)


def test_an_optimizer_on_batches_resumes_to_the_same_bits(data, key):
    options = {
        "data": data, "batch_size": 20, "support": SUPPORT, "family": vi.mean_field,
        "optimizer": optax.adam(optax.cosine_decay_schedule(0.02, 400)), "num_samples": 4,
    }  # fmt: skip
    whole = vi.fit(counts, EXAMPLE, key, num_steps=400, **options)
    half = vi.fit(counts, EXAMPLE, key, num_steps=130, **options)
    rest = vi.fit(counts, EXAMPLE, key, num_steps=400, state=half.state, **options)
    chex.assert_trees_all_equal(rest.state, whole.state)
    best = vi.fit(on_all(data), EXAMPLE, key, support=SUPPORT, family=vi.mean_field)
    gap = vi.kl_divergence(whole.family, whole.params, whole.family, best.params)
    # An error of a mean of a fifth of an sd is 0.02 nats.
    assert gap < 0.02
    assert whole.trusted


@pytest.mark.slow
def test_fit_of_batches_finds_modes_of_all_data():
    rng = np.random.default_rng(0)
    y = rng.normal(size=600) + 3 * rng.choice([-1, 1], size=600)

    def mixture(z, batch, scale):
        parts = jnp.stack([-0.5 * (batch - z) ** 2, -0.5 * (batch + z) ** 2])
        return scale * jnp.sum(jax.nn.logsumexp(parts, axis=0)) - 0.005 * z**2

    key, options = jax.random.key(0), {"data": y, "batch_size": 50, "start": 0.1}
    fit = vi.fit(mixture, jnp.zeros(()), key, num_restarts=8, **options)
    draws = vi.posterior_draws(fit, key, 1000)
    assert fit.trusted
    assert 0.4 < np.mean(draws > 0) < 0.6


BAD_DATA = {
    "rows": (
        {"data": {"x": np.zeros((5, 2)), "y": np.zeros(4)}, "batch_size": 2},
        r"vi.fit: `data\['y'\]` must have 5 rows as the leaves before",
    ),
    "size": (
        {"data": np.zeros(4), "batch_size": 5},
        "`batch_size` must be at most the 4 rows of `data`; got 5. All of them at once need no ba",
    ),
    "no size": ({"data": np.zeros(4)}, "`batch_size` must be given where `data` is; got None. Try"),
    "no data": ({"batch_size": 4}, "`batch_size` must be None without `data`; got int 4"),
    "scalar": ({"data": 3.0, "batch_size": 1}, "`data` must have rows in front; got float64"),
    "empty": ({"data": {}, "batch_size": 1}, "`data` must have at least one array leaf"),
    "none": ({"data": np.zeros(4), "batch_size": 0}, "`batch_size` must be at least 1"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_fit_rejects_data_that_do_not_fit(name, key):
    options, words = BAD_DATA[name]
    with pytest.raises(ValueError, match=words):
        vi.fit(lambda z, batch, scale: -(z**2), jnp.zeros(()), key, **options)


def test_fit_of_batches_asks_for_one_number_of_three_arguments(key):
    words = "vi.fit: `log_density` must take a position, a batch and a scale where `data` is given"
    with pytest.raises(TypeError, match=words):
        vi.fit(lambda z: -(z**2), jnp.zeros(()), key, data=np.ones(9), batch_size=3)
    with pytest.raises(ValueError, match="`log_density` must return one floating-point number"):
        vi.fit(lambda z, y, s: -((y - z) ** 2), jnp.zeros(()), key, data=np.ones(9), batch_size=3)


MILLION = """
import jax, jax.numpy as jnp, numpy as np
from equipoise import vi

rng = np.random.default_rng(0)
n, d = 10**6, 50
x = rng.standard_normal((n, d), np.float32)
beta = rng.normal(size=d).astype(np.float32) / 7
y = (rng.random(n, np.float32) < 1 / (1 + np.exp(-(x @ beta)))).astype(np.float32)
data = jax.block_until_ready({"x": jnp.array(x), "y": jnp.array(y)})
del x, y

def mebibytes(name):  # of this process alone: getrusage would begin at the peak of its parent
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(name))
    return int(line.split()[1]) / 2**10

before = mebibytes("VmRSS")

def log_density(z, batch, scale):
    logits = batch["x"] @ z
    return -0.5 * jnp.sum(z**2) + scale * jnp.sum(batch["y"] * logits - jnp.logaddexp(0.0, logits))

fit = vi.fit(log_density, jnp.zeros(d), jax.random.key(0), data=data, batch_size=1000)
grown = mebibytes("VmHWM") - before
assert fit.trusted, fit.reason
# The data are 204 MB and were there twice before; compilers take more than the fit does.
assert grown < 300, grown
found = vi.summary(fit)
assert np.all(np.abs(found.mean - beta) < 5 * found.sd)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fit_of_a_million_rows_stays_within_bounded_memory():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    subprocess.run([sys.executable, "-c", MILLION], check=True, env=environment)
