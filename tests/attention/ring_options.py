"""Ring attention with every option, in both layouts, against one device.

``python -m tests.attention.ring_options``: value, gradient and Hessian-vector product on 4 devices,
arrays in the order in which devices hold them.
"""

import os

if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4"
    os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from equipoise import attention

DEVICES, B, T, N, K, H = 4, 2, 32, 4, 2, 4
_rng = np.random.default_rng(5)
ARRAYS = {
    "query": jnp.asarray(_rng.normal(size=(B, T, N, H))),
    "key": jnp.asarray(_rng.normal(size=(B, T, K, H))),
    "value": jnp.asarray(_rng.normal(size=(B, T, K, H))),
    "learned": jnp.asarray(_rng.normal(size=N)),
}
BOOLEAN = _rng.random((B, 1, T, T)) < 0.7
PARENTS = np.maximum(np.arange(T) - _rng.integers(1, 4, T), -1)
PAST = np.array([3, -2])


def alibi(slopes):
    return lambda s, b, h, i, j: s - slopes[h] * jnp.abs(i - j).astype(s.dtype)


# From what is learned to the options, masks as arrays apart.
CASES = {
    "plain": lambda x: {"is_causal": True, "logits_soft_cap": 3.0},
    "lengths": lambda x: {
        "mask": attention.causal() | attention.prefix(np.array([3, 17])),
        "query_seq_lengths": np.array([T - 3, T]),
        "key_value_seq_lengths": np.array([T, 11]),
        "sinks": x,
    },
    "functions": lambda x: {
        "score_fn": alibi(x),
        "mask_fn": lambda b, h, i, j: (i + 2 * j + h) % 3 != b,
        "query_offset": PAST,
        "local_window_size": (jnp.int32(9), 3),
    },
    "dropout": lambda x: {
        "mask": attention.document(np.array([5, 9, 2, 16])) & ~attention.chunked(3),
        "dropout_rate": 0.3,
        "dropout_key": jax.random.key(1),
        "sinks": x,
    },
    "tree": lambda x: {"mask": attention.tree(PARENTS) & BOOLEAN, "score_fn": alibi(x)},
    "array": lambda x: {"is_causal": True, "sinks": x},
}


def orders(attend):
    """Value, gradient, and the tangent of that along the arrays."""

    def run(arrays):
        def slope(arrays):
            return jax.grad(lambda x: jnp.sum(jnp.sin(attend(x))))(arrays)

        return attend(arrays), *jax.jvp(slope, (arrays,), (arrays,))

    return jax.jit(run)


def held(layout):
    """Which token of the whole each place of each device holds."""
    if layout == "contiguous":
        return np.arange(T)
    parts = np.arange(T).reshape(2 * DEVICES, -1)
    return np.concatenate([parts[[r, 2 * DEVICES - 1 - r]].reshape(-1) for r in range(DEVICES)])


def ring(mesh, name, layout):
    order, tokens = held(layout), P(None, "ring")
    array = BOOLEAN[:, :, order][..., order] if name == "array" else None

    def local(x, array):
        options = CASES[name](x["learned"])
        mask = options.pop("mask", array)
        qkv = x["query"], x["key"], x["value"]
        return attention.ring_attention(
            *qkv, mask=mask, axis_name="ring", layout=layout, block_size=3, **options
        )

    where = {"query": tokens, "key": tokens, "value": tokens, "learned": P()}
    split = jax.shard_map(
        local, mesh=mesh, in_specs=(where, P(None, None, "ring")), out_specs=tokens
    )

    def whole(x):
        placed = {n: y if n == "learned" else y[:, order] for n, y in x.items()}
        return split(placed, array)[:, np.argsort(order)]

    return whole


def single(name):
    def attend(x):
        options = CASES[name](x["learned"])
        mask = options.pop("mask", BOOLEAN if name == "array" else None)
        qkv = x["query"], x["key"], x["value"]
        return attention.reference_attention(*qkv, mask=mask, **options)

    return attend


if __name__ == "__main__":
    devices = jax.sharding.Mesh(jax.devices(), ("ring",))
    for case in CASES:
        wanted = orders(single(case))(ARRAYS)
        for order in ("contiguous", "zigzag"):
            found = orders(ring(devices, case, order))(ARRAYS)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                # Sums of a few hundred terms in another order.
                np.testing.assert_allclose(a, b, rtol=0, atol=2**-40 * (1 + np.abs(b).max()))
            print(case, order, flush=True)
    print("equal")
