"""What devices send each other, against the compiled program and by hand."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from equipoise import cost

ROWS, WHOLE = PartitionSpec("i"), PartitionSpec()


def mesh(devices):
    return jax.sharding.AbstractMesh((devices,), ("i",), axis_types=(AxisType.Auto,))


def mapped(fn, devices=8, out=WHOLE):
    return jax.shard_map(fn, mesh=mesh(devices), in_specs=ROWS, out_specs=out, check_vma=False)


def test_communication_is_that_of_the_compiled_program_for_fifteen_shardings():
    script = pathlib.Path(__file__).with_name("mesh_process.py")
    subprocess.run([sys.executable, script], check=True)


def test_communication_follows_the_sizes_and_the_algorithm():
    (found,) = cost.analyze(mapped(lambda x: lax.psum(x, "i")), "f32[8*n,d]").communication
    assert (found.kind, found.axes) == ("all-reduce", ("i",))
    assert str(found.ring_bytes) == "7*d*n"  # 2 · 4nd · 7/8
    assert str(found.tree_bytes) == "12*d*n"  # 4nd · log₂ 8
    (found,) = cost.analyze(
        mapped(lambda x: lax.all_to_all(x, "i", 1, 0, tiled=True)), "f32[8*n,8*d]"
    ).communication
    assert (str(found.ring_bytes), str(found.tree_bytes)) == ("28*d*n", "48*d*n")


HALVES = [[0, 1, 2, 3], [4, 5, 6, 7]]
RING = [(i, (i + 1) % 8) for i in range(8)]
# Of 64·n by 8·d numbers in rows on 8 devices: M = 256·d·n bytes on each.
BY_HAND = {
    "psum": (lambda x: lax.psum(x, "i"), "all-reduce", "448*d*n", "768*d*n"),  # 2M·7/8, 3M
    "pmax": (lambda x: lax.pmax(x, "i"), "all-reduce", "448*d*n", "768*d*n"),
    "pmin": (lambda x: lax.pmin(x, "i"), "all-reduce", "448*d*n", "768*d*n"),
    "all_gather": (lambda x: lax.all_gather(x, "i"), "all-gather", "1792*d*n", "1792*d*n"),  # 7M
    "psum_scatter": (
        lambda x: lax.psum_scatter(x, "i", scatter_dimension=1, tiled=True),
        "reduce-scatter",
        "224*d*n",  # 7/8·M
        "224*d*n",
    ),
    "all_to_all": (
        lambda x: lax.all_to_all(x, "i", 1, 0, tiled=True),
        "all-to-all",
        "224*d*n",  # 7/8·M
        "384*d*n",  # 3/2·M
    ),
    "ppermute": (lambda x: lax.ppermute(x, "i", RING), "permute", "256*d*n", "256*d*n"),
    "groups": (
        lambda x: lax.psum(x, "i", axis_index_groups=HALVES),
        "all-reduce",
        "384*d*n",  # 2M·3/4
        "512*d*n",  # 2M
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_communication_of_each_collective_is_what_a_hand_counts(name):
    fn, kind, ring, tree = BY_HAND[name]
    (found,) = cost.analyze(mapped(fn, out=ROWS), "f32[64*n,8*d]").communication
    assert (found.kind, found.axes) == (kind, ("i",))
    assert (str(found.ring_bytes), str(found.tree_bytes)) == (ring, tree)


NAMED = {  # M = 4·k·n bytes on each of p devices
    "psum": (lambda x: lax.psum(x, "i"), "8*k*n - 8*k*n/p", "4*k*n*ceil_log2(p)"),
    "pmax": (lambda x: lax.pmax(x, "i"), "8*k*n - 8*k*n/p", "4*k*n*ceil_log2(p)"),
    "all_gather": (
        lambda x: lax.all_gather(x, "i", tiled=True),
        "4*k*n*p - 4*k*n",
        "4*k*n*p - 4*k*n",
    ),
    "psum_scatter": (
        lambda x: lax.psum_scatter(x, "i", scatter_dimension=1, tiled=True),
        "4*k*n*p - 4*k*n",  # M·p on each before
        "4*k*n*p - 4*k*n",
    ),
    "all_to_all": (
        lambda x: lax.all_to_all(x, "i", 1, 0, tiled=True),
        "4*k*n*p - 4*k*n",
        "2*k*n*p*ceil_log2(p)",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_communication_of_each_collective_in_the_size_of_the_mesh(name):
    fn, ring, tree = NAMED[name]
    wide = "f32[p*n,k*p]" if name in ("psum_scatter", "all_to_all") else "f32[p*n,k]"

    def spread(x):
        return jax.shard_map(fn, in_specs=ROWS, out_specs=ROWS, check_vma=False)(x)

    (found,) = cost.analyze(spread, wide, mesh={"i": "p"}).communication
    assert (str(found.ring_bytes), str(found.tree_bytes)) == (ring, tree)


def test_communication_counts_every_iteration_and_lies_where_it_is_asked_for():
    def step(x):
        return lax.scan(lambda c, r: (c + lax.psum(r, "i"), None), jnp.zeros_like(x[0]), x)[0]

    found = cost.analyze(mapped(step), "f32[8*n,d]")
    assert str(found.communication[0].ring_bytes) == "7*d*n"
    parts = found.by("primitive", measure="bytes_sent")
    assert sum(parts.values()) == found.communication[0].ring_bytes
    assert list(parts) == ["psum"]


def test_communication_of_a_constraint_is_a_bound_and_says_so():
    sharding = NamedSharding(mesh(4), ROWS)
    found = cost.analyze(lambda x: lax.with_sharding_constraint(x, sharding), "f32[4*n]")
    assert found.communication[0].kind == "resharding"
    assert str(found.communication[0].ring_bytes) == "12*n"
    assert any("partitioner decides" in note for note in found.assumptions)


def test_communication_is_none_on_one_device():
    (found,) = cost.analyze(mapped(lambda x: lax.psum(x, "i"), 1), "f32[n]").communication
    assert found.ring_bytes == found.tree_bytes == 0
    assert cost.analyze(jnp.sin, "f32[n]").communication == ()
