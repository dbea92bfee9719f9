"""What devices send each other, against the compiled program and by hand."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from equipoise import cost

ROWS, WHOLE = PartitionSpec("i"), PartitionSpec()


def mesh(devices):
    return jax.sharding.AbstractMesh((devices,), ("i",), axis_types=(AxisType.Auto,))


def mapped(fn, devices=8, out=WHOLE):
    return jax.shard_map(fn, mesh=mesh(devices), in_specs=ROWS, out_specs=out, check_vma=False)


def test_communication_is_that_of_the_compiled_program_for_twelve_shardings():
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
