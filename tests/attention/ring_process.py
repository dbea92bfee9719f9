"""Ring attention against one device; run as a script, alone with 8 devices or as one of two.

``python -m tests.attention.ring_process devices`` or ``... process ADDRESS INDEX``.
"""

import functools
import os
import sys

if __name__ == "__main__" and sys.argv[1] == "devices":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention

SPLIT = jax.sharding.PartitionSpec(None, "ring")
ROWS = jax.sharding.PartitionSpec(None, None, "ring", None)
KEYS = jax.sharding.PartitionSpec(None, None, None, "ring")
OPTIONS = {"is_causal": True, "local_window_size": (11, 0), "logits_soft_cap": 4.0}


def problem(tokens):
    rng = np.random.default_rng(3)
    q, k, v = (rng.normal(size=(2, tokens, heads, 4)) for heads in (4, 2, 2))
    segments = np.repeat([[0, 1, 2, 3]], tokens // 4, axis=1).reshape(1, -1)
    segments = np.concatenate([np.sort(segments), np.zeros_like(segments)])
    biases = rng.normal(size=(1, 4, tokens, tokens)), rng.normal(size=(2, 1, 1, tokens))
    return (q, k, v), biases, segments.astype(np.int32)


def ring(mesh, bias_spec, **options):
    """Ring attention of global arrays (q, k, v, bias, segments)."""

    def local(q, k, v, bias, ids):
        return attention.ring_attention(q, k, v, bias, axis_name="ring", segment_ids=ids, **options)

    specs = (SPLIT, SPLIT, SPLIT, bias_spec, SPLIT)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=SPLIT)


def single(q, k, v, bias, ids, **options):
    """One device, by the definition."""
    return attention.reference_attention(q, k, v, bias, segment_ids=ids, **options)


def value_and_derivatives(f, arrays, ids):
    """Output, gradient and tangent, the tangent of each array being itself."""

    def loss(arrays):
        return jnp.sum(jnp.sin(f(*arrays, ids)))

    y, tangent = jax.jvp(lambda arrays: f(*arrays, ids), (arrays,), (arrays,))
    return y, tangent, jax.grad(loss)(arrays)


def check_equal(mesh):
    (q, k, v), biases, ids = problem(32)
    for bias, spec in zip(biases, (ROWS, KEYS), strict=True):
        arrays = tuple(map(jnp.asarray, (q, k, v, bias)))
        split = jax.jit(functools.partial(value_and_derivatives, ring(mesh, spec, **OPTIONS)))(
            arrays, ids
        )
        whole = jax.jit(
            functools.partial(value_and_derivatives, functools.partial(single, **OPTIONS))
        )(arrays, ids)
        for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
            # Sums of 32 terms of order one in another order.
            np.testing.assert_allclose(a, b, rtol=0, atol=256 * np.finfo(np.float64).eps * 8)


def largest_array(jaxpr):
    """Elements of the largest array in a program and all programs inside it."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [int(np.prod(v.aval.shape)) for v in equation.outvars if hasattr(v.aval, "shape")]
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                sizes.append(largest_array(inner))
    return max(sizes)


def check_memory():
    """The largest array inside the shards, forward and backward, falls with their number."""

    def size(devices, tokens):
        mesh = jax.sharding.Mesh(jax.devices()[:devices], ("ring",))
        x = jax.ShapeDtypeStruct((1, tokens, 1, 64), jnp.float32)

        def loss(q, k, v):
            def local(q, k, v):
                return attention.ring_attention(
                    q, k, v, axis_name="ring", is_causal=True, block_size=64
                )

            return jnp.sum(
                jax.shard_map(local, mesh=mesh, in_specs=(SPLIT,) * 3, out_specs=SPLIT)(q, k, v)
            )

        program = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(x, x, x).jaxpr
        shards = [e for e in program.eqns if e.primitive.name == "shard_map"]
        assert shards
        return max(largest_array(e.params["jaxpr"]) for e in shards)

    few, many, longer = size(2, 2048), size(8, 2048), size(8, 4096)
    assert few == 4 * many, (few, many)
    assert longer == 2 * many, (longer, many)


def check_two_processes(address, index):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    assert jax.device_count() == 2
    assert jax.local_device_count() == 1
    mesh = jax.sharding.Mesh(jax.devices(), ("ring",))
    (q, k, v), (_, bias), ids = problem(16)

    def globally(x, spec):
        return jax.make_array_from_callback(
            x.shape, jax.sharding.NamedSharding(mesh, spec), lambda i: x[i]
        )

    arrays = (*(globally(x, SPLIT) for x in (q, k, v)), globally(bias, KEYS))
    split = jax.jit(functools.partial(value_and_derivatives, ring(mesh, KEYS, **OPTIONS)))(
        arrays, globally(ids, SPLIT)
    )
    whole = jax.jit(functools.partial(value_and_derivatives, functools.partial(single, **OPTIONS)))(
        (q, k, v, bias), ids
    )
    for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        for shard in a.addressable_shards:
            np.testing.assert_allclose(shard.data, np.asarray(b)[shard.index], rtol=0, atol=2**-41)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    if sys.argv[1] == "devices":
        check_equal(jax.sharding.Mesh(jax.devices(), ("ring",)))
        check_memory()
    else:
        check_two_processes(sys.argv[2], int(sys.argv[3]))
    print("equal")
