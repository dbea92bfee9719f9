"""How long at best: by hand for programs that one resource bounds."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from equipoise import cost

PRODUCT = cost.analyze(lambda a, b: a @ b, "bf16[n,n]", "bf16[n,n]")
PLAIN = cost.Device(name="plain", flops=1e9, byte_flops=2e9, memory=1e9, bandwidth=1e8, links=1e6)


def test_roofline_is_bound_by_arithmetic_where_matrices_are_large():
    found = cost.roofline(PRODUCT, PLAIN, n=100)
    assert found.matmul_seconds == 2 * 100**3 / 1e9
    assert found.memory_seconds == 3 * 2 * 100**2 / 1e8
    assert (found.bound_by, found.seconds) == ("matrix units", found.matmul_seconds)
    assert cost.roofline(PRODUCT, PLAIN, n=10).bound_by == "memory"
    assert cost.roofline(PRODUCT, PLAIN, num_devices=4, n=100).seconds == found.seconds / 4


def test_roofline_counts_bytes_by_their_own_rate_and_both_passes_of_training():
    small = cost.analyze(lambda a, b: a @ b, "i8[n,n]", "i8[n,n]")
    assert cost.roofline(small, PLAIN, n=100).matmul_seconds == 2 * 100**3 / 2e9
    trained = cost.analyze_training(lambda a, b: a @ b, "f32[n,n]", "f32[n,n]")
    assert cost.roofline(trained, PLAIN, n=100).matmul_seconds == 6 * 100**3 / 1e9


def test_roofline_is_bound_by_links_where_devices_talk():
    mesh = AbstractMesh((4,), ("i",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("i"), PartitionSpec()
    talking = cost.analyze(
        jax.shard_map(lambda x: lax.psum(x, "i"), mesh=mesh, in_specs=rows, out_specs=whole),
        "f32[4*n]",
    )
    found = cost.roofline(talking, PLAIN, num_devices=4, n=1000)
    assert (found.bound_by, found.communication_seconds) == ("links", 6000 / 1e6)
    assert cost.roofline(talking, "TPU v5e", num_devices=4, n=1000).seconds > 0


@pytest.mark.parametrize("name", ["A100", "H100", "H200", "TPU v5e", "TPU v5p", "TPU v6e"])
def test_roofline_knows_published_devices(name):
    device = cost.roofline(PRODUCT, name, n=10).device
    assert device.name == name
    # All of them do some hundred operations in the time of moving a byte.
    assert 100 < device.flops / device.bandwidth < 600


def test_roofline_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"cost\.roofline: `device` must be"):
        cost.roofline(PRODUCT, "H1000", n=1)
    with pytest.raises(TypeError, match="`device` must be a Device"):
        cost.roofline(PRODUCT, 3, n=1)
    with pytest.raises(TypeError, match="`cost` must be a Cost"):
        cost.roofline(PRODUCT.flops, "H100", n=1)
    with pytest.raises(ValueError, match="`n` must be given a size"):
        cost.roofline(PRODUCT, "H100")
    with pytest.raises(ValueError, match="`num_devices`"):
        cost.roofline(PRODUCT, "H100", num_devices=0, n=1)


def test_measure_device_is_a_device_to_compare_with():
    here = cost.measure_device(32, repeats=1)
    assert here.flops > 0 < here.bandwidth
    assert cost.roofline(PRODUCT, here, n=10).seconds > 0


def layered(params, x):
    with jax.named_scope("mix"):
        x = x + jnp.tanh(x @ params["a"]) @ params["b"]
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["ws"])[0]


PARAMS = {"a": "f32[d,k]", "b": "f32[k,d]", "ws": "f32[3,d,d]"}


@pytest.mark.parametrize("kind", ["line", "scope", "primitive", "dtype"])
def test_roofline_by_sums_to_the_whole(kind):
    found = cost.roofline(cost.analyze(layered, PARAMS, "f32[n,d]"), PLAIN, n=8, d=16, k=32)
    parts = found.by(kind)
    assert sum(parts.matmul_seconds) == pytest.approx(found.matmul_seconds)
    assert sum(parts.memory_seconds) == pytest.approx(found.memory_seconds)
    assert found.seconds <= parts.in_turn * (1 + 1e-12)
    for label, *each in zip(
        parts, parts.matmul_seconds, parts.memory_seconds, parts.communication_seconds, strict=True
    ):
        assert parts[label] == max(each)


def test_roofline_by_says_which_line_waits_for_what():
    found = cost.roofline(cost.analyze(layered, PARAMS, "f32[n,d]"), PLAIN, n=1000, d=64, k=32)
    parts = found.by("line")
    bound = dict(zip(parts.code, parts.bound_by, strict=True))
    (mixing,) = (line for line in bound if "jnp.tanh(x @ params" in line)
    assert bound[mixing] == "matrix units"  # 8.2 ms, against 2.7 ms for reading x and weights
    narrow = cost.roofline(found.cost, PLAIN, n=1000, d=64, k=1).by("line")
    assert dict(zip(narrow.code, narrow.bound_by, strict=True))[mixing] == "memory"
    assert "bound by" in str(parts)


def test_roofline_of_a_mesh_is_that_of_one_device():
    found = cost.analyze(
        lambda w, x: x @ w, "f32[m*k@model,h]", "f32[n,m*k@model]", mesh={"model": "m"}
    )
    bound = cost.roofline(found, PLAIN, m=4, k=10, h=20, n=30)
    assert bound.matmul_seconds == 2 * 30 * 10 * 20 / 1e9
    assert bound.communication_seconds == 2 * (3 / 4) * 4 * 30 * 20 / 1e6
    assert bound.by("primitive")["psum"] == bound.communication_seconds
    even = cost.roofline(found, PLAIN, num_devices=4, m=4, k=10, h=20, n=30)
    assert even.matmul_seconds == bound.matmul_seconds
    assert cost.fits(found, "1 GB", m=4, k=10, h=20, n=30).peak_bytes == (
        found.per_device.peak_bytes.evaluate(m=4, k=10, h=20, n=30)
    )


def test_boundary_bytes_lie_where_arguments_are_first_read():
    found = cost.analyze(lambda e, w, i: (e[i] @ w, w), "f32[v,d]", "f32[d,d]", "i32[n]")
    parts = found.by("primitive", measure="boundary_bytes")
    assert str(parts["gather"]) == "min(4*d*n, 4*d*v)"  # rows that are looked up, at most all
    assert str(parts["dot_general"]) == "4*d^2 + 4*d*n"
