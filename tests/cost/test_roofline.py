"""How long at best: by hand for programs that one resource bounds."""

import jax
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
