"""Meshes: with names the expressions of every mesh with numbers; and what one device does."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from equipoise import cost

P = PartitionSpec
NAMES = {"data": "d", "model": "m"}


def mapped(fn, inside, outside):
    return lambda *xs: jax.shard_map(fn, in_specs=inside, out_specs=outside, check_vma=False)(*xs)


def megatron(x, w1, w2):
    return lax.psum(jax.nn.relu(x @ w1) @ w2, "model")


def gathered(x, w):
    return x @ lax.all_gather(w, "model", axis=0, tiled=True)


def trained(w, x):
    def loss(w):
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    g = jax.grad(loss)(lax.all_gather(w, "data", axis=0, tiled=True))
    g = lax.psum_scatter(g, "data", scatter_dimension=0, tiled=True)
    return w - 0.1 * lax.pmean(g, "model") / lax.axis_size("data")


def looped(x):
    size = lax.axis_size("data")
    return lax.scan(lambda c, _: (lax.psum(c, "model") / size, None), x, length=size)[0]


def attended(q, k):
    k = lax.all_to_all(k, "model", 1, 0, tiled=True)
    rows = lax.all_gather(k, "data", axis=0, tiled=True)
    return jax.nn.softmax(q @ rows.T) @ rows


CASES = {
    "megatron": (
        mapped(megatron, (P("data"), P(None, "model"), P("model")), P("data")),
        "f32[d*b,h]",
        "f32[h,4*m*h]",
        "f32[4*m*h,h]",
    ),
    "gathered": (
        mapped(gathered, (P("data"), P("model")), P("data")),
        "f32[2*d*b,m*h]",
        "f32[m*h,3]",
    ),
    "trained": (mapped(trained, (P("data"), P("data")), P("data")), "f32[d*h,k]", "f32[d*b,d*h]"),
    "looped": (mapped(looped, P("data"), P("data")), "f32[d*b,h]"),
    "attended": (
        mapped(attended, (P("data"), P(("data", "model"), None)), P("data")),
        "f32[d*b,h]",
        "f32[d*m*b,m*h]",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("devices", [(4, 2), (2, 8)])
def test_analyze_with_a_named_mesh_is_that_of_every_mesh(name, devices):
    fn, *shapes = CASES[name]
    named, sizes = cost.analyze(fn, *shapes, mesh=NAMES), dict(zip("dm", devices, strict=True))
    numbers = [s.replace("d*", f"{sizes['d']}*").replace("m*", f"{sizes['m']}*") for s in shapes]
    known = cost.analyze(fn, *numbers, mesh=dict(zip(NAMES, devices, strict=True)))
    rest = {"b": 3, "h": 16, "k": 5} | sizes
    for field in dataclasses.fields(named):
        value = getattr(named, field.name)
        if isinstance(value, cost.Expression):
            assert value.evaluate(**rest) == getattr(known, field.name).evaluate(**rest), field.name
    pairs = zip(named.communication, known.communication, strict=True)
    for ours, theirs in pairs:
        assert (ours.kind, ours.axes) == (theirs.kind, theirs.axes)
        assert ours.ring_bytes.evaluate(**rest) == theirs.ring_bytes.evaluate(**rest)
        assert ours.tree_bytes.evaluate(**rest) == theirs.tree_bytes.evaluate(**rest)
    assert named.residual_bytes.evaluate(**rest) == known.residual_bytes.evaluate(**rest)


def test_analyze_says_what_a_device_sends_in_the_sizes_of_the_mesh():
    fn, *shapes = CASES["megatron"]
    (found,) = cost.analyze(fn, *shapes, mesh=NAMES).communication
    assert (found.kind, found.axes) == ("all-reduce", ("model",))
    assert str(found.ring_bytes) == "8*b*h - 8*b*h/m"  # 2 · 4bh · (m − 1)/m
    assert str(found.tree_bytes) == "4*b*h*ceil_log2(m)"


def test_analyze_takes_a_mesh_as_jax_has_it():
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    fn, *shapes = CASES["megatron"]
    numbers = [s.replace("d*", "4*").replace("m*", "2*") for s in shapes]
    assert (
        cost.analyze(fn, *numbers, mesh=mesh).flops
        == cost.analyze(fn, *numbers, mesh={"data": 4, "model": 2}).flops
    )


def test_analyze_follows_sizes_of_the_mesh_through_shapes():
    def blocks(x):  # one row more than there are devices, and half as many
        n = lax.axis_size("data")
        return jnp.zeros((n + 1, x.shape[0] % (3 * n)), x.dtype) + jnp.sum(x)

    fn = mapped(blocks, P("data"), P())
    found = cost.analyze(fn, "f32[d*b+d]", mesh={"data": "d"})
    for d in (2, 6):
        known = cost.analyze(fn, f"f32[{d}*b+{d}]", mesh={"data": d})
        for b in (1, 40):
            assert found.bytes_written.evaluate(d=d, b=b) == known.bytes_written.evaluate(b=b)


def test_analyze_refuses_meshes_that_it_cannot_follow():
    def ring(x):
        for _ in range(lax.axis_size("data")):
            x = lax.ppermute(x, "data", [(0, 1)])
        return x

    spread = mapped(ring, P("data"), P("data"))
    with pytest.raises(ValueError, match=r"`mesh` must have numbers where .* names for d\."):
        cost.analyze(spread, "f32[d*b]", mesh={"data": "d"})
    (sent,) = cost.analyze(spread, "f32[4*b]", mesh={"data": 4}).communication
    assert str(sent.ring_bytes) == "16*b"
    with pytest.raises(ValueError, match=r"not evenly divisible .* says so in its shape"):
        cost.analyze(spread, "f32[b]", mesh={"data": "d"})
    with pytest.raises(ValueError, match="must have a positive size of 'data'; got 0"):
        cost.analyze(spread, "f32[b]", mesh={"data": 0})
    with pytest.raises(ValueError, match="a number or a name for the size of 'data'"):
        cost.analyze(spread, "f32[b]", mesh={"data": "1x"})
    with pytest.raises(TypeError, match="must be a mesh or the sizes of its axes"):
        cost.analyze(spread, "f32[b]", mesh=3)
    with pytest.raises(ValueError, match="6 names in its sizes at most"):
        cost.analyze(spread, "f32[b]", mesh={name: name for name in "tuvwxyz"})


PROCESSES = ["partition_process", "parallel_process", "moves_process"]


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
def test_per_device_is_what_the_compiler_makes(process):
    root = pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", f"tests.cost.{process}"], check=True, cwd=root)


def predict(w1, w2, x):
    return jax.nn.relu(x @ w1) @ w2


DIVIDED = ("f32[h,m*k@model]", "f32[m*k@model,h]", "f32[d*b@data,h]")


def test_per_device_divides_work_and_memory_by_the_sizes_of_the_mesh():
    found = cost.analyze(predict, *DIVIDED, mesh=NAMES)
    assert str(found.matmul_flops) == "4*b*d*h*k*m"
    assert str(found.per_device.matmul_flops) == "4*b*h*k"
    assert str(found.per_device.input_bytes) == "4*b*h + 8*h*k"
    (sent,) = found.communication
    assert (sent.kind, str(sent.ring_bytes)) == ("all-reduce", "8*b*h - 8*b*h/m")
    lines = found.by("line", measure="bytes_sent")
    assert list(lines.values()) == [sent.ring_bytes]
    assert "relu(x @ w1) @ w2" in lines.code[0]
    assert cost.analyze(predict, "f32[h,k]", "f32[k,h]", "f32[b,h]").per_device is None


def test_per_device_is_the_same_by_strings_by_shardings_and_by_explicit_types():
    plain = ("f32[6,20@model]", "f32[20@model,6]", "f32[8@data,6]")
    texts = cost.analyze(predict, *plain, mesh={"data": 4, "model": 2}).per_device
    shapes = ((6, 20), P(None, "model")), ((20, 6), P("model")), ((8, 6), P("data"))
    for types in (AxisType.Auto, AxisType.Explicit):
        mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(types,) * 2)
        *weights, x = (
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
            for shape, spec in shapes
        )

        def called(w1, w2, x, types=types):
            if types is AxisType.Auto:
                return predict(w1, w2, x)
            inner = jax.nn.relu(x @ w1)
            return jnp.einsum("bk,kh->bh", inner, w2, out_sharding=P("data"))

        found = cost.analyze(called, *weights, x).per_device
        assert (found.flops, found.input_bytes) == (texts.flops, texts.input_bytes)
        assert found.communication == texts.communication


def test_per_device_of_an_array_is_that_of_its_sharding():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.device_put(jnp.ones((4, 3)), NamedSharding(mesh, P("data")))
    found = cost.analyze(lambda x: jnp.sum(x * 2), x)
    assert found.per_device.flops == found.flops
    assert found.communication == ()  # it is alone


def test_per_device_of_a_shard_map_is_its_program():
    fn, *shapes = CASES["megatron"]
    found = cost.analyze(fn, *shapes, mesh=NAMES)
    d, m = cost.Expression("d"), cost.Expression("m")
    assert found.per_device.matmul_flops * d * m == found.matmul_flops
    assert found.per_device.communication == found.communication
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    inside, outside = (P("data"), P(None, "model"), P("model")), P("data")
    own = jax.shard_map(megatron, mesh=mesh, in_specs=inside, out_specs=outside)
    found = cost.analyze(own, "f32[4*b,h]", "f32[h,8*k]", "f32[8*k,h]")
    assert str(found.per_device.matmul_flops) == "16*b*h*k"
    assert str(found.per_device.input_bytes) == "4*b*h + 32*h*k"


def test_per_device_follows_loops_branches_and_constraints():
    def looped(x, w):
        def body(carry):
            i, h = carry
            return i + 1, jnp.tanh(lax.with_sharding_constraint(h @ w, P("data", "model")))

        h = lax.while_loop(lambda c: c[0] < 7, body, (0, x))[1]
        return lax.cond(jnp.sum(h) > 0, lambda h: h @ w, lambda h: h, h)

    shapes = ("f32[d*b@data,m*h]", "f32[m*h,m*h@model]")
    found = cost.analyze(looped, *shapes, mesh=NAMES, trips=[7])
    assert found.matmul_flops == 8 * cost.analyze(jnp.matmul, "f32[d*b,m*h]", "f32[m*h,m*h]").flops
    d, m = cost.Expression("d"), cost.Expression("m")
    assert found.per_device.matmul_flops * d * m == found.matmul_flops
    assert {part.kind for part in found.communication} == {"all-gather", "all-reduce"}
    assert any("the partitioner decides" in note for note in found.assumptions)


def test_per_device_computes_whole_what_it_cannot_divide():
    def solved(a, b):
        return jnp.linalg.solve(a, b)

    found = cost.analyze(solved, "f32[d*n@data,d*n]", "f32[d*n]", mesh={"data": "d"})
    assert found.per_device.other_flops == found.other_flops
    batch = cost.analyze(solved, "f32[d*b@data,n,n]", "f32[d*b@data,n,1]", mesh={"data": "d"})
    assert batch.per_device.other_flops * cost.Expression("d") == batch.other_flops
    assert batch.communication == ()


CHANGES = {  # from, to, and what a device sends of its part of M bytes
    "cut": ("f32[d*n,m*k]", P("data"), []),
    "gathered": ("f32[d*n@data,m*k]", P(), ["all-gather"]),
    "passed on": ("f32[d*n@data,d*m*k]", P(None, "data"), ["all-to-all"]),
    "exchanged": ("f32[d*m*n@(data,model),k]", P(("model", "data")), ["permute"]),
    "moved inward": ("f32[d*m*n@(data,model),k]", P("model"), ["all-gather", "permute"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_communication_of_a_change_of_sharding_is_known_where_one_thing_is_to_be_done(name):
    shape, after, kinds = CHANGES[name]

    def change(x):
        return lax.with_sharding_constraint(x, after)

    found = cost.analyze(change, shape, mesh=NAMES)
    assert sorted(part.kind for part in found.communication) == kinds
    assert not any("partitioner decides" in note for note in found.assumptions)


def test_communication_is_a_bound_where_the_partitioner_has_a_choice():
    def change(x):
        return lax.with_sharding_constraint(x, P(None, "model"))

    found = cost.analyze(change, "f32[d*n@data,m*k]", mesh=NAMES)
    gather, permute = found.communication
    # All that the others have, 4·n·m·k bytes each, and the part that is kept once more.
    assert (gather.kind, str(gather.ring_bytes)) == ("all-gather", "4*d*k*m*n - 4*k*m*n")
    assert (permute.kind, str(permute.ring_bytes)) == ("permute", "4*d*k*n")
    assert any("counted is the most that it sends" in note for note in found.assumptions)


def test_per_device_of_rows_that_are_looked_up_is_their_share():
    def step(table, words):
        return table - jax.grad(lambda table: jnp.sum(table[words] ** 2))(table)

    found = cost.analyze(step, "f32[m*v@model,h]", "i32[d*b@data]", mesh=NAMES)
    reduced = {part.axes: part for part in found.communication}
    assert set(reduced) == {("model",), ("data",)}
    # The gradient of a device's rows is summed over the batch: 2·4·v·h·(d − 1)/d.
    assert str(reduced["data",].ring_bytes) == "8*h*v - 8*h*v/d"
    assert str(reduced["model",].ring_bytes) == "8*b*h - 8*b*h/m"


def test_per_device_of_a_map_along_one_axis_is_divided_along_the_others():
    def partly(w, x):
        y = jnp.tanh(x @ w)
        return lax.psum(y, "data")

    def mapped_along(x, w):
        maps = {"in_specs": (P(), P("data")), "out_specs": P(), "axis_names": {"data"}}
        return jax.shard_map(partly, check_vma=False, **maps)(w, x)

    found = cost.analyze(mapped_along, "f32[d*b@data,h]", "f32[h,m*k@model]", mesh=NAMES)
    assert str(found.matmul_flops) == "2*b*d*h*k*m"
    assert str(found.per_device.matmul_flops) == "2*b*h*k"
    (sent,) = found.communication
    assert (sent.axes, str(sent.ring_bytes)) == (("data",), "8*b*k - 8*b*k/d")


def test_analyze_takes_shard_maps_with_meshes_of_their_own_on_arrays_that_lie_there():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    own = jax.shard_map(jnp.sin, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    shape = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    assert cost.analyze(own, shape).per_device.flops == 4
    # Where the mesh that is stated is another one, JAX takes neither.
    with pytest.raises(ValueError, match=r"Give that mesh itself, as in mesh=mesh"):
        cost.analyze(own, "f32[4]", mesh={"data": 1})


def test_analyze_refuses_axes_that_the_mesh_does_not_have():
    with pytest.raises(ValueError, match=r"`mesh` must have the axes of `args\[0\]`; got none"):
        cost.analyze(jnp.sin, "f32[n@data]")
    with pytest.raises(ValueError, match=r"divided along each axis once; got data, data"):
        cost.analyze(jnp.sin, "f32[n@data,k@data]", mesh={"data": 4})
    with pytest.raises(ValueError, match=r"`args\[0\]` must have a size that data divide; got b"):
        cost.analyze(jnp.sin, "f32[b@data]", mesh={"data": "d"})
    halves = cost.analyze(
        jnp.sin, "f32[b@data]", mesh={"data": "d"}, constraints=["mod(b, d) == 0"]
    )
    assert halves.per_device.flops.evaluate(b=12, d=4) == 3
