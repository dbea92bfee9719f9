"""Run in a process of its own: what is counted as sent, against the compiled collectives."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from equipoise import cost

P = PartitionSpec
MESH = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
RING = {  # of one collective: bytes of its operand on a device, and devices in a group
    "all-reduce": lambda m, n: 2 * m * (n - 1) / n,
    "all-gather": lambda m, n: m * (n - 1),
    "reduce-scatter": lambda m, n: m * (n - 1) / n,
    "all-to-all": lambda m, n: m * (n - 1) / n,
    "collective-permute": lambda m, n: m,
}
BYTES = {"f32": 4, "s32": 4}


def tensor_parallel(x, w1, w2):
    return lax.psum(jax.nn.relu(x @ w1) @ w2, "y")


def data_parallel(w, x):
    return lax.psum(jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w), ("x", "y"))


def gathered(w, x):
    return x @ lax.all_gather(w, "x", axis=0, tiled=True)


def sharded_gradient(w, x):
    g = jax.grad(lambda w: jnp.sum(jnp.sin(x @ w)))(lax.all_gather(w, "x", axis=0, tiled=True))
    return lax.psum_scatter(g, "x", scatter_dimension=0, tiled=True)


def routed(x):
    return jnp.tanh(lax.all_to_all(x, "x", 1, 0, tiled=True))


def ring(x):
    step = [(i, (i + 1) % 4) for i in range(4)]
    for _ in range(3):
        x = jnp.sin(lax.ppermute(x, "x", step))
    return x


def looped(x):
    return lax.scan(lambda c, r: (c + lax.psum(r, "y"), None), jnp.zeros_like(x[0]), x)[0]


PAIRS = [[0, 1], [2, 3]]
ROWS, ALL, NONE = P("x"), P(("x", "y")), P()
W = "f32[64,64]"
CASES = {
    "tensor parallel": (tensor_parallel, (P("x"), P(None, "y"), P("y")), P("x"), (W, W, W)),
    "data parallel": (data_parallel, (NONE, ALL), NONE, (W, "f32[64,64]")),
    "gathered weights": (gathered, (ROWS, P("y")), P("y"), (W, W)),
    "sharded gradient": (sharded_gradient, (ROWS, ROWS), ROWS, (W, W)),
    "experts": (routed, (ROWS,), ROWS, (W,)),
    "ring": (ring, (ROWS,), ROWS, (W,)),
    "maximum": (lambda x: lax.pmax(x, "x"), (ROWS,), NONE, (W,)),
    "mean": (lambda x: lax.pmean(x, ("x", "y")), (ALL,), NONE, (W,)),
    "halves": (lambda x: lax.psum(x * 2, "y"), (P("y"),), NONE, ("i32[64,32]",)),
    "loop": (looped, (P(None, "y"),), NONE, (W,)),
    "two axes": (lambda x: lax.psum(lax.psum(x, "x") * 3, "y"), (ALL,), NONE, (W,)),
    "pairs": (lambda x: lax.psum(x, "x", axis_index_groups=PAIRS), (ROWS,), NONE, (W,)),
    "gathered by pairs": (
        lambda x: lax.all_gather(x, "x", axis_index_groups=PAIRS, tiled=True),
        (ROWS,),
        ROWS,
        (W,),
    ),
    "dealt by pairs": (
        lambda x: lax.all_to_all(x, "x", 1, 0, axis_index_groups=PAIRS, tiled=True),
        (ROWS,),
        ROWS,
        (W,),
    ),
    "scattered": (
        lambda x: lax.psum_scatter(x, ("x", "y"), tiled=True),
        (P(None, "y"),),
        ALL,
        (W,),
    ),
}


def sizes_in(text):
    found = re.findall(r"(f32|s32)\[([\d,]*)\]", text)
    return sum(BYTES[t] * math.prod(int(d) for d in dims.split(",") if d) for t, dims in found)


def devices_in(line):
    """How many devices take part in each group of a collective, by any of XLA's notations."""
    if axes := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\S+)? \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        taken = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2])  # a part of an axis has its size
        return math.prod(int(part or sizes[axis]) for axis, part in taken)
    if numbers := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(numbers[1])
    members = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(members[1].split(",")) if members else 1  # a permutation has pairs instead


def compiled(program, trips):
    """Bytes that a device sends by the collectives in the compiled program, by kind."""
    sums = {}
    for line in program.splitlines():
        match = re.search(rf" = (.*?) ({'|'.join(RING)})(?:-start)?\((.*?)\), ", line)
        if match is None:
            continue
        made, kind, _ = match.groups()
        devices = devices_in(line)
        size = sizes_in(made)
        size = {"all-gather": size / devices, "reduce-scatter": size * devices}.get(kind, size)
        times = trips if "while" in line else 1
        kind = kind.replace("collective-", "")
        name = {"permute": "collective-permute"}.get(kind, kind)
        sums[kind] = sums.get(kind, 0) + times * RING[name](size, devices)
    return sums


def main():
    for name, (fn, inside, outside, shapes) in CASES.items():
        mapped = jax.jit(
            jax.shard_map(fn, mesh=MESH, in_specs=inside, out_specs=outside, check_vma=False)
        )
        dtypes = {"f32": jnp.float32, "i32": jnp.int32}
        args = [
            jax.ShapeDtypeStruct(eval(shape[shape.index("[") :]), dtypes[shape.split("[")[0]])
            for shape in shapes
        ]
        counted = {}
        for part in cost.analyze(mapped, *shapes).communication:
            counted[part.kind] = counted.get(part.kind, 0) + part.ring_bytes.evaluate()
        expected = compiled(mapped.lower(*args).compile().as_text(), trips=64)
        assert counted.keys() == expected.keys(), (name, counted, expected)
        for kind, size in expected.items():
            np.testing.assert_allclose(float(counted[kind]), size, err_msg=f"{name}: {kind}")
        print(name, {k: float(v) for k, v in counted.items()})


if __name__ == "__main__":
    main()
