"""Models that no rule was written for: what loops and libraries make of each is a test of all."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.cost.models import named, normed


def selective(params, x):
    """Two layers of a state space whose transitions depend on the input."""

    def cell(h, along):
        decay, push, read = along
        h = decay * h + push
        return h, jnp.einsum("bds,bs->bd", h, read)

    for p in params:
        u, gate = jnp.split(normed(x, p["scale"]) @ p["in"], 2, -1)
        u = jax.nn.silu(u)
        step = jax.nn.softplus(u @ p["low"] @ p["high"] + p["bias"])
        decay = jnp.exp(-step[..., None] * jnp.exp(p["a"]))
        push = (step * u)[..., None] * (u @ p["b"])[:, :, None, :]
        start = jnp.zeros((x.shape[0], u.shape[-1], p["b"].shape[-1]), x.dtype)
        along = (y.swapaxes(0, 1) for y in (decay, push, u @ p["c"]))
        y = lax.scan(cell, start, tuple(along))[1].swapaxes(0, 1)
        x = x + ((y + u * p["d"]) * jax.nn.silu(gate)) @ p["out"]
    return x


SELECTIVE = named("scale:64 in:64,256 low:128,4 high:4,128 bias:128 b:128,8 c:128,8 a:128,8 d:128")
SELECTIVE |= named("out:128,64")


def decoder(params, x):
    """Words one after the other, each of which reads a cache of those before it."""
    b, steps, _ = x.shape

    def one(carry, t):
        keys, values, word = carry
        h = word @ params["embed"]
        q, k, v = (y.reshape(b, 4, 16) for y in jnp.split(h @ params["qkv"], 3, -1))
        keys = lax.dynamic_update_slice(keys, k[:, None], (0, t, 0, 0))
        values = lax.dynamic_update_slice(values, v[:, None], (0, t, 0, 0))
        scores = jnp.einsum("bhd,bthd->bht", q, keys) / 4
        weights = jax.nn.softmax(jnp.where(jnp.arange(steps) <= t, scores, -1e9))
        y = jnp.einsum("bht,bthd->bhd", weights, values).reshape(b, 64)
        logits = (h + y @ params["o"]) @ params["head"]
        return (keys, values, jax.nn.softmax(logits)), logits

    cache = jnp.zeros((b, steps, 4, 16), x.dtype)
    start = cache, jnp.zeros_like(cache), jax.nn.softmax(x[:, 0] @ params["head"])
    return lax.scan(one, start, jnp.arange(steps))[1]


DECODER = named("embed:256,64 qkv:64,192 o:64,64 head:64,256")


def graph(params, x):
    """Messages along the edges of a graph, summed at the nodes."""
    n = x.shape[0]
    i = jnp.arange(n)
    source = jnp.concatenate([i, i, i])
    target = jnp.concatenate([(i + 1) % n, (i + 7) % n, (i * 3) % n])
    for p in params:
        message = jax.nn.relu(jnp.concatenate([x[source], x[target]], -1) @ p["message"])
        total = jax.ops.segment_sum(message, target, num_segments=n)
        x = x + jax.nn.relu(jnp.concatenate([x, total], -1) @ p["update"]) @ p["out"]
    return x


GRAPH = named("message:128,128 update:192,128 out:128,64")


def policy(params, x):
    """The clipped loss of a policy, its advantages from a scan backwards in time."""
    h = jnp.tanh(jnp.tanh(x @ params["w1"]) @ params["w2"])
    logits, value = h @ params["policy"], (h @ params["value"])[..., 0]
    following = jnp.concatenate([value[:, 1:], value[:, -1:]], 1)
    surprise = lax.stop_gradient(jnp.cos(x[..., 0]) + 0.99 * following - value)

    def back(total, now):
        total = now + 0.95 * total
        return total, total

    start = jnp.zeros(x.shape[0], x.dtype)
    advantage = lax.scan(back, start, surprise.T, reverse=True)[1].T
    target = lax.stop_gradient(advantage + value)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    action = jnp.argmax(x[..., :6], -1)[..., None]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), action, -1)[..., 0]
    ratio = jnp.exp(chosen - lax.stop_gradient(chosen) + 0.1 * x[..., 2])
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    return 0.5 * (value - target) ** 2 - gain


POLICY = named("w1:24,128 w2:128,128 policy:128,6 value:128,1")


def volumes(params, x):
    """Convolutions in space, and the largest of each cube."""

    def convolved(x, kernel, stride=1):
        order = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(x, kernel, (stride,) * 3, "SAME", dimension_numbers=order)

    x = jax.nn.relu(convolved(x, params["k1"]) + params["b1"])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), "VALID")
    x = jax.nn.relu(convolved(x, params["k2"]) + params["b2"])
    x = jax.nn.relu(convolved(x, params["k3"], 2) + params["b3"])
    return x.mean((1, 2, 3)) @ params["out"]


VOLUMES = named("k1:3,3,3,1,16 b1:16 k2:3,3,3,16,32 b2:32 k3:3,3,3,32,64 b3:64 out:64,10")


def adapted(params, x):
    """Layers that stay as they are, each with a correction of low rank."""
    for frozen, low, high in params:
        x = jax.nn.gelu(x @ lax.stop_gradient(frozen) + (x @ low) @ high)
    return x


def sets(params, x):
    """What does not depend on the order: largest, mean and spread of what each member gives."""
    h = jax.nn.elu(jax.nn.elu(x @ params["p1"]) @ params["p2"])
    pooled = jnp.concatenate([h.max(1), h.mean(1), jnp.sqrt(h.var(1) + 1e-5)], -1)
    return jax.nn.elu(pooled @ params["r1"]) @ params["r2"]


SETS = named("p1:16,128 p2:128,128 r1:384,128 r2:128,8")


def recomputed(params, x):
    """Layers that are computed again in the backward pass."""
    for pair in params:
        x = x + jax.checkpoint(lambda x, w, v: jnp.tanh(jnp.sin(x @ w)) @ v)(x, *pair)
    return x


USES = {
    "selective": (selective, [SELECTIVE] * 2, "f32[b,64,64]", 8),
    "decoder": (decoder, DECODER, "f32[b,64,64]", 16),
    "graph": (graph, [GRAPH] * 3, "f32[b,64]", 512),
    "policy": (policy, POLICY, "f32[b,64,24]", 32),
    "volumes": (volumes, VOLUMES, "f32[b,16,16,16,1]", 8),
    "adapted": (adapted, [("f32[256,256]", "f32[256,8]", "f32[8,256]")] * 4, "f32[b,256]", 1024),
    "sets": (sets, SETS, "f32[b,32,16]", 64),
    "recomputed": (recomputed, [("f32[64,256]", "f32[256,64]")] * 6, "f32[b,64]", 1024),
}
