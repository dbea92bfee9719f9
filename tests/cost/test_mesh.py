"""Meshes with names for sizes: the expressions are those of every mesh with numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

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
