"""Ring attention equals one device: in one process, on 8 devices, and in two processes."""

import functools
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from equipoise.attention._kernel.grid import Grid
from equipoise.attention._kernel.schedule import schedule_of
from equipoise.attention._masks.placed import Placed, part_of
from equipoise.attention._request import problem_of
from tests.attention import ring_process
from tests.attention.meshes.process import finished
from tests.thinned import slow_but

ROOT = pathlib.Path(__file__).parents[2]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.attention.ring_process", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_ring_attention_on_one_device_is_attention():
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("ring",))
    (q, k, v), (bias, _), ids = ring_process.problem(12)
    arrays = (*map(jnp.asarray, (q, k, v, bias)), ids)
    y = jax.jit(ring_process.ring(mesh, ring_process.ROWS, **ring_process.OPTIONS))(*arrays)
    expected = ring_process.single(*arrays, **ring_process.OPTIONS)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("layout", slow_but(["contiguous", "zigzag"], "contiguous"))
def test_ring_attention_is_a_program_of_one_size_for_any_number_of_devices(layout):
    """Value, gradient and Hessian-vector product: one loop around the devices each."""
    split, auto = jax.sharding.PartitionSpec(None, "ring"), (jax.sharding.AxisType.Auto,)

    def lines(devices):
        ring = jax.shard_map(
            functools.partial(
                attention.ring_attention,
                axis_name="ring",
                is_causal=True,
                layout=layout,
                block_size=4,
            ),
            mesh=jax.sharding.AbstractMesh((devices,), ("ring",), axis_types=auto),
            in_specs=(split,) * 3,
            out_specs=split,
        )
        gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(ring(*a))), (0, 1, 2))
        x = jax.ShapeDtypeStruct((1, 8 * devices, 2, 4), jnp.float32)
        for order in (ring, gradient, lambda *a: jax.jvp(gradient, a, a)[1]):
            traced = jax.jit(order).trace(x, x, x)
            yield traced.lower(lowering_platforms=("cpu",)).as_text().count("\n")

    few, *more = (list(lines(devices)) for devices in (2, 4, 8))
    assert more == [few, few]


def test_ring_attention_in_zigzag_has_the_same_causal_work_on_all_devices():
    """Of 2·d halves each device has one that reads r + 1 of them and one that reads 2·d − r."""
    devices, t = 4, 6
    x = jnp.ones((t, 1, 2))

    def computed(device, *, zigzag):
        rows = part_of(jnp.int32(device), t, devices, zigzag=zigzag)
        total = 0
        for source in range(devices):
            keys = part_of(jnp.int32(source), t, devices, zigzag=zigzag)
            mask = Placed(attention.causal(), rows, keys, contiguous=not zigzag)
            grid = Grid(1, t, t, 1, t // 2, t // 2)
            total += int(schedule_of(problem_of(x, x, x, mask=mask), grid).stop[-1])
        return total

    assert [computed(r, zigzag=True) for r in range(devices)] == [2 * devices + 1] * devices
    assert [computed(r, zigzag=False) for r in range(devices)] == [3, 7, 11, 15]


@pytest.mark.slow
def test_ring_attention_on_eight_devices_equals_one():
    process = start("devices")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.endswith("equal\n")


@pytest.mark.slow
def test_ring_attention_with_every_option_equals_one_device():
    finished("tests.attention.ring_options")


@pytest.mark.slow
def test_ring_attention_in_two_processes_equals_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start("process", address, str(index)) for index in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        assert output.endswith("equal\n")


@pytest.mark.parametrize(
    ("kind", "shapes", "options", "message"),
    [
        (ValueError, [(7, 2, 4)] * 3, {"layout": "zigzag"}, "`layout` must halve the 7 rows"),
        (TypeError, [(8, 2, 4)] * 3, {"causal": True}, "`causal` is not an argument"),
        (ValueError, [(8, 2, 4)] * 3, {"layout": "striped"}, "`layout` must be one of"),
        (ValueError, [(8, 2, 4)] * 3, {"mask": jnp.ones((8, 5), bool)}, "`mask` must have 8"),
        (ValueError, [(8, 2, 4)] * 3, {"mask": attention.segments([1, 2])}, "must have arrays"),
        (ValueError, [(8, 2, 4)] * 3, {"bias": jnp.ones((8, 5))}, "`bias` must have 8"),
        (ValueError, [(8, 3, 4), (8, 2, 4), (8, 2, 4)], {}, "multiple of `key`"),
        (TypeError, [(8, 2, 4)] * 3, {"bias": jnp.ones((8, 8), int)}, "`bias` must be a floating"),
    ],
)
def test_ring_attention_rejects_wrong_arguments(kind, shapes, options, message):
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("ring",))
    bias = options.pop("bias", None)
    spec = jax.sharding.PartitionSpec()

    def local(q, k, v):
        return attention.ring_attention(q, k, v, bias, axis_name="ring", **options)

    with pytest.raises(kind, match=message):
        jax.shard_map(local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec)(
            *(jnp.ones(shape) for shape in shapes)
        )
