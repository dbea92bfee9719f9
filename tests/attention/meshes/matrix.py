"""Every function on a mesh of 8 devices, its axes of every kind, equals one device.

``python -m tests.attention.meshes.matrix KIND``: arrays divided by batch, heads, both or sequence;
value, gradient and Hessian-vector product. Results lie where their query does.
"""

import functools
import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from equipoise import attention

B, T, N, K, H, D = 8, 16, 8, 4, 2, 16
_rng = np.random.default_rng(0)
LAYER = attention.multi_head_attention(
    D, N, num_key_heads=K, head_size=H, rotary_base=1e4, use_bias=True
)
ARRAYS = {
    "query": _rng.normal(size=(B, T, N, H)),
    "key": _rng.normal(size=(B, T, K, H)),
    "value": _rng.normal(size=(B, T, K, H)),
    "bias": _rng.normal(size=(N, 1, T)),
    "slopes": _rng.normal(size=N),
    "lengths": np.arange(3, 3 + B, dtype=np.int32),
    "inputs": _rng.normal(size=(B, T, D)),
    "weights": {name: _rng.normal(size=weight.shape) / 4 for name, weight in LAYER.weights.items()},
    "empty": (np.zeros((B, T, K, H)), np.zeros((B, T, K, H)), np.int32(3)),
    "pages": (np.zeros((2 * B, T // 2, K, H)), np.zeros((2 * B, T // 2, K, H))),
    "table": _rng.permutation(2 * B).reshape(B, 2).astype(np.int32),
}
FIXED = ("lengths", "empty", "pages", "table")  # which have no direction
DIVIDED = {
    "batch": (("b", "h"), None, None),
    "heads": (None, None, "h"),
    "both": ("b", None, "h"),
    "sequence": (None, ("b", "h"), None),
}


def qkv(x):
    return x["query"], x["key"], x["value"]


def alibi(x):
    return lambda s, b, h, i, j: s - x["slopes"][h] * jnp.abs(i - j).astype(s.dtype)


def dot_product_attention(x):
    """By several blocks, with what a function captured."""
    return attention.dot_product_attention(
        *qkv(x),
        x["bias"],
        score_fn=alibi(x),
        key_value_seq_lengths=x["lengths"],
        is_causal=True,
        block_size=8,
    )


def one_block(x):
    return attention.dot_product_attention(*qkv(x), return_residual=True)


def half(x):
    """The primitives that kernels may stand for."""
    halves = (y.astype(jnp.bfloat16) for y in qkv(x))
    return attention.dot_product_attention(*halves, is_causal=True)


def reference_attention(x):
    return attention.reference_attention(*qkv(x), x["bias"], score_fn=alibi(x))


def attention_statistics(x):
    found = attention.attention_statistics(
        x["query"], x["key"], x["bias"], mask=attention.causal(), block_size=8
    )
    # There are as many rows as keys.
    return found.entropy + found.key_mass, found.top_weights, found.log_sum_exp


def linear_attention(x):
    return attention.linear_attention(*qkv(x), is_causal=True, chunk_size=8)


def rotary_embedding(x):
    return attention.rotary_embedding(x["query"])


def decode_step(x):
    """Three tokens are in the cache, the others come at once."""
    cache = attention.KVCache(*x["empty"], ring=False)
    cache, y = attention.decode_step(cache, *(y[:, :8] for y in qkv(x)))
    return y


def decode_step_of_each(x):
    """As many are in the cache as an entry has, and it takes what attention takes."""
    cache = attention.KVCache(*x["empty"][:2], x["lengths"] - 3, ring=False)
    cache, (y, lse) = attention.decode_step(
        cache, *(y[:, :8] for y in qkv(x)), x["bias"], score_fn=alibi(x), return_residual=True
    )
    return y + lse[..., None]


def decode_step_in_pages(x):
    """Each device of a manual mesh has all pages, and writes those of its entries."""
    cache = attention.KVCache(*x["pages"], x["lengths"] - 3, ring=False, page_table=x["table"])
    cache, y = attention.decode_step(cache, *(y[:, :8] for y in qkv(x)))
    return y


def multi_head_attention(x):
    return LAYER.apply(x["weights"], x["inputs"], is_causal=True)


FUNCTIONS = (
    dot_product_attention,
    one_block,
    half,
    reference_attention,
    attention_statistics,
    linear_attention,
    rotary_embedding,
    decode_step,
    decode_step_of_each,
    decode_step_in_pages,
    multi_head_attention,
)


def specs(divided, *, manual):
    """Where each array lies. Inside of shard_map what belongs to heads is divided like them."""
    batch, row, head = divided
    tokens = P(batch, row, head, None)
    whole = head if manual else None
    weights = {
        name: P(*(head if n in (N, K) else None for n in weight.shape))
        for name, weight in LAYER.weights.items()
    }
    return {
        "query": tokens,
        "key": tokens,
        "value": tokens,
        "bias": P(whole),
        "slopes": P(whole),
        "lengths": P(batch if manual else None),
        "inputs": P(batch, row),
        "weights": weights,
        "empty": (tokens, tokens, P()),
        "pages": (P(None, None, head),) * 2,
        "table": P(batch if manual else None),
    }


def orders(run):
    """A program of value, gradient and its tangent."""

    def total(x, fixed):
        return sum(jnp.sum(jnp.sin(y.astype(jnp.float64))) for y in jax.tree.leaves(run(x | fixed)))

    def program(x):
        x = dict(x)
        fixed = {name: x.pop(name) for name in FIXED}
        slope = jax.grad(lambda x: total(x, fixed))
        return run(x | fixed), *jax.jvp(slope, (x,), (jax.tree.map(jnp.cos, x),))

    return jax.jit(program)


def in_shard_map(function, mesh, divided):
    """Each device computes what it holds."""
    place = P(divided[0], None, None if function is multi_head_attention else divided[2])
    where = specs(divided, manual=True)
    return jax.shard_map(function, mesh=mesh, in_specs=(where,), out_specs=place)


@functools.cache
def on_one_device(function):
    return orders(function)(jax.tree.map(jnp.asarray, ARRAYS))


def check(function, kind, name, shape=(2, 4)):
    divided, manual = DIVIDED[name], kind == "Manual"
    axes = (AxisType.Auto if manual else getattr(AxisType, kind),) * 2
    mesh = jax.make_mesh(shape, ("b", "h"), axis_types=axes)
    where = specs(divided, manual=manual)
    arrays = jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), ARRAYS, where)
    with jax.set_mesh(mesh):
        found = orders(in_shard_map(function, mesh, divided) if manual else function)(arrays)
    wanted = on_one_device(function)
    # Sums in another order; half precision rounds before some of them.
    eps = 2**-6 if function is half else 2**-40
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        np.testing.assert_allclose(a, b, rtol=0, atol=eps * (1 + np.abs(b).max()))
    place = P(*divided[:2], None if function is multi_head_attention else divided[2])
    for result in jax.tree.leaves(found[0]):
        assert kind == "Auto" or NamedSharding(mesh, place).is_equivalent_to(
            result.sharding, result.ndim
        ), result.sharding


def cases(kind):
    """Inside of shard_map a sequence is for ring attention, and a layer's heads for its caller."""
    for function in FUNCTIONS:
        for name, (_, row, head) in DIVIDED.items():
            beyond = row or (head and function is multi_head_attention)
            if kind != "Manual" or not beyond:
                yield function, name


if __name__ == "__main__":
    for function, name in cases(sys.argv[1]):
        check(function, sys.argv[1], name)
        print(function.__name__, name, flush=True)
    print("equal")
