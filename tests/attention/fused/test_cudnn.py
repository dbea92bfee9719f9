"""The calls of cuDNN, and what a program for another platform holds in their place."""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from equipoise.attention._fused import trial
from tests.attention.fused import stand_in
from tests.attention.fused.test_tower import ARRAYS, REQUESTS, SERVED, loss


def text(attend, options, arrays, *platforms):
    slope = jax.grad(functools.partial(loss, attend, options))
    return jax.jit(slope).trace(arrays).lower(lowering_platforms=platforms).as_text()


def calls(program):
    """Each call of cuDNN: its name, configuration, layouts and types."""
    lines = [line for line in program.splitlines() if "@__cudnn" in line]
    # Versions of JAX differ in whether they write down an empty list of queues to wait for.
    queues = r"\\22wait_on_operation_queues\\22: \[\], "
    return [re.sub(queues, "", re.sub(r"%\w+(:\d+|#\d+)?", "%", line.strip())) for line in lines]


@pytest.mark.parametrize(
    "name",
    ["full", "causal", "window beyond the keys", "lengths", "causal lengths", "bias", "float16"],
)
def test_dot_product_attention_calls_cudnn_as_jax_does(monkeypatch, name):
    module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91000)
    arrays, options = SERVED[name]
    theirs = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if options.get("local_window_size") == 5:
        options = options | {"local_window_size": (5, 0)}
    with jax.numpy_dtype_promotion("standard"):
        wanted = calls(text(theirs, options, arrays, "cuda"))
    found = calls(text(attention.dot_product_attention, options, arrays, "cuda"))
    assert len(found) == 2
    assert found == wanted


def test_dot_product_attention_chooses_kernels_by_the_platform_it_is_lowered_for():
    lowered = functools.partial(text, attention.dot_product_attention, {"is_causal": True}, ARRAYS)
    for platforms in (("cpu",), ("tpu",), ("rocm",)):
        assert not calls(lowered(*platforms)), platforms
    for platforms in (("cuda",), ("cuda", "cpu"), ("tpu", "rocm", "cuda")):
        assert len(calls(lowered(*platforms))) == 2, platforms


def test_dot_product_attention_exports_blocks_which_later_versions_can_run():
    attend = jax.jit(functools.partial(attention.dot_product_attention, is_causal=True))
    exported = jax.export.export(attend, platforms=["cpu", "cuda"])(*ARRAYS.values())
    assert not calls(exported.mlir_module())
    found, wanted = (np.asarray(f(*ARRAYS.values()), float) for f in (exported.call, attend))
    np.testing.assert_array_equal(found, wanted)


def test_dot_product_attention_leaves_to_the_blocks_what_xla_divides_between_devices():
    """Lowered for eight devices; inside of shard_map each has kernels of its own."""
    devices = jax.sharding.AbstractMesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec
    x = jax.ShapeDtypeStruct(
        (8, 16, 2, 8), jnp.bfloat16, sharding=jax.sharding.NamedSharding(devices, P("i"))
    )
    attend = functools.partial(attention.dot_product_attention, is_causal=True)
    divided = jax.jit(attend).trace(x, x, x).lower(lowering_platforms=("cuda",)).as_text()
    assert not calls(divided)
    local = jax.shard_map(attend, mesh=devices, in_specs=P("i"), out_specs=P("i"))
    whole = jax.jit(local).trace(x, x, x).lower(lowering_platforms=("cuda",)).as_text()
    assert len(calls(whole)) == 1


@pytest.fixture
def machine(monkeypatch):
    """A machine whose CUDA device is the CPU, with stand-ins for its kernels."""
    trial.cached_fault.cache_clear()
    device = jax.devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda backend: [device])
    yield
    trial.cached_fault.cache_clear()


def tried(arrays, options, *, backward=True):
    """Takes the trial of what is lowered for a gradient or for values."""
    with stand_in.as_cuda() as made:
        slope = jax.grad(functools.partial(loss, attention.dot_product_attention, options))
        values = lambda x: attention.dot_product_attention(**x, **options)  # noqa: E731
        return jax.jit(slope if backward else values).lower(arrays), made


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.usefixtures("machine")
def test_dot_product_attention_trusts_kernels_that_give_the_definition(name, caplog):
    arrays, options = SERVED[name]
    _, made = tried(arrays, options)
    assert not caplog.records
    # The trial compiles what is asked for and runs a small one, forward and then both.
    assert made.count("backward") > 1


def raises(*_):
    raise RuntimeError("no such kernel")


def wrong_forward(plan, arrays, forward=stand_in.forward):
    out, lse = forward(plan, arrays)
    return out * 1.05, lse


def wrong_backward(*args, backward=stand_in.backward):
    grads = backward(*args)
    return grads | {"key": grads["key"] * 0.9}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"forward": raises}, "raises RuntimeError: no such kernel"),
        ({"forward": wrong_forward}, "its output is off by"),
        ({"backward": raises}, "raises RuntimeError: no such kernel"),
        ({"backward": wrong_backward}, "its cotangent of key is off by"),
    ],
    ids=["forward raises", "forward differs", "backward raises", "backward differs"],
)
def test_dot_product_attention_switches_a_kernel_off_and_logs_why(
    monkeypatch, caplog, broken, reason
):
    for name, function in broken.items():
        monkeypatch.setattr(stand_in, name, function)
    wanted = jax.jit(jax.grad(functools.partial(loss, attention.dot_product_attention, {})))(ARRAYS)
    with caplog.at_level(logging.WARNING, "equipoise.attention"):
        lowered, _ = tried(ARRAYS, {})
    found = lowered.compile()(ARRAYS)
    assert any(reason in record.getMessage() for record in caplog.records)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        # One rounding to bfloat16 of o where a kernel gave it, times numbers of order one.
        np.testing.assert_allclose(*(np.asarray(x, float) for x in (a, b)), rtol=0, atol=0.03)
    caplog.clear()
    tried(ARRAYS, {}, backward=False)
    assert not caplog.records, "a reason is logged once"
    forced = functools.partial(attention.dot_product_attention, implementation="cudnn")
    slope = jax.jit(jax.grad(functools.partial(loss, forced, {})))
    with stand_in.as_cuda(), pytest.raises(ValueError, match=f"the kernel serves; got.*{reason}"):
        slope(ARRAYS)
