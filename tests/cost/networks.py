"""More models: those whose memory follows from what is computed twice, copied or written over."""

import functools

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from tests.cost.models import KEY, convolved, named, normed, of_linen, shapes, usual


class BatchNormed(linen.Module):
    """A residual network whose statistics are those of the batch."""

    @linen.compact
    def __call__(self, x):
        norm = functools.partial(
            linen.BatchNorm, use_running_average=False, use_bias=True, param_dtype=jnp.float32
        )
        conv = functools.partial(linen.Conv, use_bias=False, param_dtype=jnp.float32)
        x = linen.relu(norm()(conv(32, (3, 3))(x)))
        for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1)):
            y = linen.relu(norm()(conv(width, (3, 3), strides=(stride, stride))(x)))
            y = norm()(conv(width, (3, 3))(y))
            if x.shape != y.shape:
                x = norm()(conv(width, (1, 1), strides=(stride, stride))(x))
            x = linen.relu(x + y)
        return linen.Dense(10, param_dtype=jnp.float32)(x.mean((1, 2)))


@usual()
def batch_normed():
    module = BatchNormed()
    found = jax.eval_shape(module.init, KEY, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    statistics = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), found["batch_stats"])

    def apply(params, x):
        variables = {"params": params, "batch_stats": statistics}
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    return apply, shapes(found["params"])


class Denoiser(nnx.Module):
    """A diffusion U-Net of two levels that knows the time."""

    def __init__(self, rngs):
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
        up = functools.partial(nnx.ConvTranspose, kernel_size=(2, 2), strides=2, rngs=rngs)
        self.down = nnx.List([conv(3, 32), conv(32, 64, strides=2), conv(64, 128, strides=2)])
        self.time = nnx.Linear(32, 128, rngs=rngs)
        self.norm = nnx.GroupNorm(128, num_groups=8, rngs=rngs)
        self.up = nnx.List([up(128, 64), up(64, 32)])
        self.mix = nnx.List([conv(128, 64), conv(64, 32)])
        self.out = conv(32, 3)

    def __call__(self, x):
        wave = jnp.sin(jnp.mean(x, (1, 2, 3))[:, None] * jnp.exp(jnp.linspace(0.0, 4.0, 32)))
        levels = [nnx.silu(self.down[0](x))]
        for layer in self.down[1:]:
            levels.append(nnx.silu(layer(levels[-1])))
        h = nnx.silu(self.norm(levels.pop()) + self.time(wave)[:, None, None, :])
        for up, mix in zip(self.up, self.mix, strict=True):
            h = nnx.silu(mix(jnp.concatenate([up(h), levels.pop()], -1)))
        return self.out(h)


@usual()
def denoiser():
    graph, state = nnx.split(Denoiser(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graph, state)(x), shapes(state)


def top_two(params, x):
    """Gated experts, every token sent to its best two."""
    weights, chosen = lax.top_k(x @ params["gate"], 2)
    hot = jax.nn.one_hot(chosen, 8, dtype=x.dtype)
    share = jnp.einsum("nk,nkx->nx", jax.nn.softmax(weights), hot)
    hidden = jax.nn.silu(jnp.einsum("nd,xdh->nxh", x, params["in"]))
    hidden = hidden * jnp.einsum("nd,xdh->nxh", x, params["up"])
    y = jnp.einsum("nxh,xhd->nxd", hidden, params["down"])
    return x + jnp.einsum("nxd,nx->nd", y, share)


TOP_TWO = {"gate": "f32[64,8]"} | {name: "f32[8,64,96]" for name in ("in", "up")}
TOP_TWO |= {"down": "f32[8,96,64]"}


def long_memory(params, x):
    """Two layers of LSTM cells, one after the other."""
    x = x.swapaxes(0, 1)
    for w, u, bias in params["cells"]:

        def cell(carry, x_t, w=w, u=u, bias=bias):
            h, c = carry
            i, f, g, o = jnp.split(x_t @ w + h @ u + bias, 4, -1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((x.shape[1], u.shape[0]), x.dtype)
        x = lax.scan(cell, (start, start), x)[1]
    return x[-1] @ params["out"]


CELLS = [("f32[64,512]", "f32[128,512]", "f32[512]"), ("f32[128,512]", "f32[128,512]", "f32[512]")]
LONG_MEMORY = {"cells": CELLS, "out": "f32[128,20]"}


class Encoder(eqx.Module):
    attend: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    norms: list

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.attend = eqx.nn.MultiheadAttention(4, 64, key=first, dtype=jnp.float32)
        self.mlp = eqx.nn.MLP(64, 64, 256, 1, jax.nn.gelu, key=second, dtype=jnp.float32)
        self.norms = [eqx.nn.LayerNorm(64, dtype=jnp.float32) for _ in range(2)]

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attend(y, y, y)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class Patches(eqx.Module):
    """A vision transformer."""

    patch: eqx.nn.Conv2d
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, key):
        first, last, *keys = jax.random.split(key, 6)
        self.patch = eqx.nn.Conv2d(3, 64, 4, 4, key=first, dtype=jnp.float32)
        self.blocks = [Encoder(k) for k in keys]
        self.head = eqx.nn.Linear(64, 10, key=last, dtype=jnp.float32)

    def __call__(self, x):
        x = self.patch(x).reshape(64, -1).T
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(0))


@usual()
def patches():
    arrays, static = eqx.partition(Patches(KEY), eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static))(x), shapes(arrays)


def image_autoencoder(params, x):
    """A convolutional variational autoencoder with noise from a key."""
    h = jax.nn.relu(convolved(jax.nn.relu(convolved(x, params["c1"], 2)), params["c2"], 2))
    h = h.reshape(h.shape[0], -1)
    mean, log_scale = h @ params["mean"], h @ params["scale"]
    z = mean + jnp.exp(log_scale) * jax.random.normal(jax.random.key(3), mean.shape, mean.dtype)
    h = jax.nn.relu(z @ params["decode"]).reshape(-1, 8, 8, 64)
    h = jax.nn.relu(lax.conv_transpose(h, params["t1"], (2, 2), "SAME"))
    logits = lax.conv_transpose(h, params["t2"], (2, 2), "SAME")
    error = optax.sigmoid_binary_cross_entropy(logits, jax.nn.sigmoid(x)).sum((1, 2, 3))
    return error + 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 2 * log_scale - 1, -1)


IMAGE_VAE = named("c1:3,3,3,32 c2:3,3,32,64 mean:4096,16 scale:4096,16 decode:16,4096")
IMAGE_VAE |= named("t1:3,3,64,32 t2:3,3,32,3")


def transducer(params, x):
    """A lattice of states over inputs and outputs: a loop inside of a loop."""
    seen, said = jnp.tanh(x @ params["encode"]), jnp.tanh(params["labels"])

    def along_inputs(row, e_t):
        def along_outputs(left, current):
            above, q = current
            h = jnp.tanh(above @ params["w"] + left @ params["v"] + e_t + q)
            return h, h

        row = lax.scan(along_outputs, jnp.zeros_like(e_t), (row, said))[1]
        return row, row.sum(0) @ params["out"]

    row = jnp.zeros((said.shape[0], x.shape[0], seen.shape[-1]), x.dtype)
    return lax.scan(along_inputs, row, seen.swapaxes(0, 1))[1]


TRANSDUCER = named("encode:64,64 labels:12,64 w:64,64 v:64,64 out:64,32")


def adversaries(params, z):
    """Both losses of a generator and a discriminator."""
    made = jnp.tanh(jax.nn.relu(z @ params["g1"]) @ params["g2"])

    def judged(p, x):
        x = jax.nn.leaky_relu(jax.nn.leaky_relu(x @ p["d1"]) @ p["d2"])
        return x @ p["d3"]

    fixed = lax.stop_gradient(made)
    fake = judged(jax.tree.map(lax.stop_gradient, params), made)
    real = judged(params, jnp.concatenate([fixed, jnp.sin(made)], 0))
    return jnp.concatenate([jax.nn.softplus(-fake), jax.nn.softplus(real)], 0)


ADVERSARIES = named("g1:64,256 g2:256,784 d1:784,256 d2:256,128 d3:128,1")


def contrast(params, x):
    """Two encoders whose products of unit vectors are to be largest on the diagonal."""
    a = jax.nn.relu(x @ params["a1"]) @ params["a2"]
    b = jax.nn.relu(jnp.flip(x, -1) @ params["b1"]) @ params["b2"]
    a, b = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (a, b))
    scores, own = jnp.exp(params["t"]) * a @ b.T, jnp.arange(x.shape[0])
    loss = optax.softmax_cross_entropy_with_integer_labels
    return (loss(scores, own) + loss(scores.T, own)) / 2


CONTRAST = named("a1:128,256 a2:256,64 b1:128,256 b2:256,64") | {"t": "f32[]"}


def diffused(params, x):
    """The error of a denoiser at a random time, with random noise."""
    first, second = jax.random.split(jax.random.key(0))
    t = jax.random.uniform(first, (x.shape[0], 1), x.dtype)
    noise = jax.random.normal(second, x.shape, x.dtype)
    signal = jnp.cos(t * jnp.pi / 2) ** 2
    wave = t * 1e3 * jnp.exp(-jnp.arange(32) / 32 * 9.0).astype(x.dtype)
    time = jnp.concatenate([jnp.sin(wave), jnp.cos(wave)], -1)
    h = (jnp.sqrt(signal) * x + jnp.sqrt(1 - signal) * noise) @ params["in"]
    for up, down, shift in params["blocks"]:
        h = h + jax.nn.silu(h @ up + time @ shift) @ down
    return jnp.mean((h @ params["out"] - noise) ** 2, -1)


DIFFUSED = named("in:128,256 out:256,128")
DIFFUSED |= {"blocks": [("f32[256,512]", "f32[512,256]", "f32[64,512]")] * 3}


def language(params, x):
    """Cross-entropy of the next token, the embedding tied to the last product."""
    tokens = (jnp.abs(x) * 1e4).astype(jnp.int32) % 1000
    h = params["embed"][tokens] + params["place"]
    for layer in params["layers"]:
        q, k, v = jnp.split(normed(h, layer["scale"]) @ layer["qkv"], 3, -1)
        q, k, v = (y.reshape(*y.shape[:2], 4, 16) for y in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        h = h + y.reshape(h.shape) @ layer["o"]
        h = h + jax.nn.gelu(normed(h, layer["scale"]) @ layer["up"]) @ layer["down"]
    logits = (h @ params["embed"].T)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])


LANGUAGE = named("embed:1000,64 place:64,64")
LANGUAGE |= {"layers": [named("qkv:64,192 o:64,64 up:64,256 down:256,64 scale:64")] * 3}


class Depthwise(linen.Module):
    """Convolutions of each channel by itself, then layers that mix channels."""

    @linen.compact
    def __call__(self, x):
        conv = functools.partial(linen.Conv, 48, param_dtype=jnp.float32)
        dense = functools.partial(linen.Dense, param_dtype=jnp.float32)
        x = conv((4, 4), (4, 4))(x)
        for _ in range(2):
            y = conv((7, 7), feature_group_count=48)(x)
            y = linen.gelu(dense(192)(linen.LayerNorm(param_dtype=jnp.float32)(y)))
            x = x + dense(48)(y)
        return dense(10)(linen.max_pool(x, (2, 2), (2, 2)).mean((1, 2)))


NETWORKS = {
    "batch normed": (*batch_normed(), "f32[b,32,32,3]", 8),
    "denoiser": (*denoiser(), "f32[b,32,32,3]", 8),
    "top two": (top_two, TOP_TWO, "f32[b,64]", 512),
    "long memory": (long_memory, LONG_MEMORY, "f32[b,48,64]", 32),
    "patches": (*patches(), "f32[b,3,32,32]", 8),
    "image autoencoder": (image_autoencoder, IMAGE_VAE, "f32[b,32,32,3]", 16),
    "transducer": (transducer, TRANSDUCER, "f32[b,24,64]", 16),
    "adversaries": (adversaries, ADVERSARIES, "f32[b,64]", 512),
    "contrast": (contrast, CONTRAST, "f32[b,128]", 512),
    "diffused": (diffused, DIFFUSED, "f32[b,128]", 1024),
    "language": (language, LANGUAGE, "f32[b,64]", 16),
    "depthwise": (*of_linen(Depthwise(), (1, 32, 32, 3)), "f32[b,32,32,3]", 16),
}
