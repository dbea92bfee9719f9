"""Data-parallel training inside of shard_map: what all devices share has the cotangents of all.

Run as a script, alone with 8 devices: ``python -m tests.attention.meshes.replicated``.
"""

import functools
import os

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention

B, T, N, K, H = 8, 24, 4, 2, 4
_rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(_rng.normal(size=shape))


QUERY, KEY, VALUE = normal(B, T, N, H), normal(B, T, K, H), normal(B, T, K, H)
LENGTHS = jnp.array([3, 24, 7, 20, 0, 1, 24, 9], jnp.int32)
# What is learned: of heads, of distances, of keys, and numbers.
LEARNED = {
    "slopes": normal(N),
    "table": normal(2 * T),
    "bias": normal(N, 1, T),
    "sinks": normal(N),
    "scale": jnp.asarray(0.7),
    "cap": jnp.asarray(2.0),
}
BLOCKS = {"block_size": 8}


def alibi(q, k, v, learned, lengths):
    def score(s, b, h, i, j):
        return s - learned["slopes"][h] * jnp.abs(i - j).astype(s.dtype)

    return attention.dot_product_attention(q, k, v, score_fn=score, is_causal=True, **BLOCKS)


def relative(q, k, v, learned, lengths):
    """Through a function with a rule of differentiation of its own."""

    def score(s, b, h, i, j):
        return jax.nn.softplus(jnp.where(i > j, s + learned["table"][i - j], s))

    return attention.dot_product_attention(q, k, v, score_fn=score)


def numbers(q, k, v, learned, lengths):
    out, lse = attention.dot_product_attention(
        q,
        k,
        v,
        learned["bias"],
        scale=learned["scale"],
        sinks=learned["sinks"],
        logits_soft_cap=learned["cap"],
        return_residual=True,
        **BLOCKS,
    )
    return out * jnp.sin(lse)[..., None]


def ragged(q, k, v, learned, lengths):
    """The blocks that a device computes are its own."""
    return attention.dot_product_attention(
        q, k, v, scale=learned["scale"], key_value_seq_lengths=lengths, is_causal=True, **BLOCKS
    )


def statistics(q, k, v, learned, lengths):
    def score(s, b, h, i, j):
        return s - learned["slopes"][h] * jnp.abs(i - j).astype(s.dtype)

    found = attention.attention_statistics(q, k, learned["bias"], score_fn=score)
    return found.entropy + jnp.sin(found.key_mass)


def definition(q, k, v, learned, lengths):
    return attention.reference_attention(q, k, v, learned["bias"], sinks=learned["sinks"])


def half(q, k, v, learned, lengths):
    """What the vendor's kernels serve, with the primitives above them."""
    bias = jnp.broadcast_to(learned["bias"], (N, T, T))
    q, k, v, bias = (x.astype(jnp.bfloat16) for x in (q, k, v, bias))
    out = attention.dot_product_attention(q, k, v, bias, key_value_seq_lengths=lengths)
    return out.astype(jnp.float64)


FUNCTIONS = {
    f.__name__: f for f in (alibi, relative, numbers, ragged, statistics, definition, half)
}


def orders(total, keys):
    """Value, gradient by all and its tangent, of the total over the batch."""
    arrays = QUERY, KEY[:keys], VALUE[:keys], LEARNED
    slope = jax.grad(lambda x: total(*x, LENGTHS))
    along = jax.tree.map(jnp.cos, arrays)
    return jax.jit(lambda x: (total(*x, LENGTHS), *jax.jvp(slope, (x,), (along,))))(arrays)


def split(mesh, function, *, shared):
    """The total over the devices, which share the keys or divide them like the queries."""
    P = jax.sharding.PartitionSpec

    def local(*args):
        return jax.lax.psum(jnp.sum(jnp.sin(function(*args))), "data")

    keys = P() if shared else P("data")
    specs = (P("data"), keys, keys, P(), P("data"))
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())


def single(function, q, k, v, learned, lengths):
    """On one device every entry has its own keys."""
    k, v = (jnp.broadcast_to(x, (B, *x.shape[1:])) for x in (k, v))
    return jnp.sum(jnp.sin(function(q, k, v, learned, lengths)))


def check(name, mesh, *, shared):
    """Devices that divide the batch have the derivatives of one."""
    function = FUNCTIONS[name]
    keys = 1 if shared else B
    found = orders(split(mesh, function, shared=shared), keys)
    wanted = orders(functools.partial(single, function), keys)
    # Sums of 8 · 24 rows in another order, of numbers of order ten at most; in half precision they
    # are rounded before they are added to a shared cotangent of 8 terms.
    eps = 8 * 2**-8 if name == "half" else 4096 * np.finfo(np.float64).eps
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=eps * max(1, np.abs(b).max()), err_msg=name)


if __name__ == "__main__":
    devices = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    for name in FUNCTIONS:
        check(name, devices, shared=name in ("alibi", "numbers", "half"))
    print("equal")
