"""One program for each rule of the peak of memory, against XLA's own figure on the CPU."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from equipoise import cost
from tests.cost import programs
from tests.cost.models import usual
from tests.cost.test_peak import from_0_10


def dropped(x, w, v):
    """Random bits are two words until they are read."""
    for i, weights in enumerate((w, v)):
        kept = jax.random.bernoulli(jax.random.key(i), 0.9, (x.shape[0], weights.shape[1]))
        x = jnp.where(kept, jax.nn.relu(x @ weights), 0.0)
    return x @ w.T


def noised(x, w):
    """Normal noise that is read twice is computed again from its logarithm and the bits."""
    noise = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    return jnp.tanh(jnp.tanh((x + noise) @ w) @ w.T) - noise


def descended(w, x):
    """The derivative of a loop builds nothing for what nothing is derived of."""

    def energy(x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w.T))

    def step(y, _):
        return y - 0.01 * jax.grad(energy)(y), None

    y = lax.stop_gradient(lax.scan(step, x, None, length=10)[0])
    return energy(x) - energy(y)


def filtered(kernels, x):
    """Kernels whose gradients all read one copy of the signal."""

    def convolved(kernel):
        order = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(x, kernel, (1,), [(2, 0)], (1,), (2,), order)

    return sum(jnp.sum(jnp.tanh(convolved(kernel))) for kernel in kernels)


def ordered(x, w):
    """A sort writes over what it reads."""
    return jnp.sort(jnp.tanh(x @ w), -1)


def placed_back(x, w):
    """Places of each line are read together with the line's."""
    scores = x @ w
    return jnp.take_along_axis(scores, jnp.argsort(scores, -1), -1) @ w.T


def combined(x, w):
    """A loop computes a value at no more than fifteen places, and puts pieces together at one."""
    decay = jnp.exp(-jnp.abs(x @ w)).reshape(16, 64, 512)
    push = jnp.tanh(x @ w).reshape(16, 64, 512)
    pairs = lax.associative_scan(
        lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (decay, push), axis=1
    )
    return pairs[1]


W, X, KERNEL = "f32[128,512]", "f32[1024,128]", "f32[2,64,64]"
PROGRAMS = {
    "dropped": (dropped, X, W, "f32[512,512]"),
    "noised": (noised, X, W),
    "ordered": (ordered, X, W),
    "placed back": (jax.grad(lambda x, w: jnp.sum(placed_back(x, w))), X, W),
    "combined": (jax.grad(lambda x, w: jnp.sum(combined(x, w))), X, W),
    "descended": (jax.grad(descended), W, X),
    "filtered": (jax.grad(filtered), [KERNEL] * 6, "f32[8,512,64]"),
}


@from_0_10
@pytest.mark.parametrize("name", PROGRAMS)
@usual()
def test_analyze_peak_bytes_keep_the_rules_of_xla(name):
    fn, *args = PROGRAMS[name]
    memory = jax.jit(fn).lower(*programs.with_sizes(args, {})).compile().memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    ratio = cost.analyze(fn, *args).peak_bytes.evaluate() / (kept + memory.temp_size_in_bytes)
    assert 0.95 <= ratio <= 1.25


def test_analyze_peak_bytes_sort_all_where_only_some_of_the_largest_are_read():
    # So does XLA of jax 0.10, in which a slice of the largest is one of what is sorted.
    some = cost.analyze(lambda x: lax.slice_in_dim(lax.top_k(x, 8)[0], 7, 8, axis=1), "f32[n,64]")
    both = cost.analyze(lambda x: tuple(lax.top_k(x, 8)), "f32[n,64]")
    assert str(some.peak_bytes) == "516*n"  # 4·(64 + 64 + 1) a line
    assert str(both.peak_bytes) == "320*n"  # 4·(64 + 8 + 8)


def test_per_device_keeps_a_donated_part_of_another_size_than_the_result():
    def gathered(w):
        return lax.with_sharding_constraint(2 * w, jax.sharding.PartitionSpec())

    kept, given = (
        cost.analyze(gathered, "f32[d*n@data,k]", mesh={"data": "d"}, donate=donate)
        for donate in ((), 0)
    )
    assert given.per_device.peak_bytes == kept.per_device.peak_bytes
    assert given.peak_bytes != kept.peak_bytes
