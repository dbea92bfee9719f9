"""Real functions with the shapes of their arguments, shared by the tests of costs."""

import functools
import re

import equinox
import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax import lax

from equipoise.cost._program.arguments import DTYPES
from equipoise.cost._program.sizes import parse

MLP = [("f32[i,h]", "f32[1,h]"), ("f32[h,h]", "f32[1,h]"), ("f32[h,o]", "f32[1,o]")]
RNN = {"u": "f32[d,d]", "w": "f32[e,d]", "b": "f32[1,d]"}
GRU = {f"u{g}": "f32[d,d]" for g in ("", "z", "r")} | {f"w{g}": "f32[e,d]" for g in ("", "z", "r")}
ATTENTION = {name: "f32[d,d]" for name in "qkvo"}
BLOCK = ATTENTION | {"w1": "f32[d,4*d]", "b1": "f32[1,1,4*d]", "w2": "f32[4*d,d]"}
NET = {"k1": "f32[c,3,3,3]", "k2": "f32[c,c,3,3]", "w": "f32[c,10]"}
FLAX = {
    "Dense_0": {"kernel": "f32[16,64]", "bias": "f32[64]"},
    "Dense_1": {"kernel": "f32[64,16]", "bias": "f32[16]"},
}

PROGRAMS = {}


def program(params, inputs):
    """The function that follows is a program of these shapes, under its name."""

    def enter(fn):
        PROGRAMS[fn.__name__] = (fn, params, inputs)
        return fn

    return enter


@program(MLP, "f32[n,i]")
def mlp(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


@program(RNN, "f32[n,b,e]")
def rnn(params, x, *, unroll=False):
    def step(h, x_t):
        h = jnp.tanh(h @ params["u"] + x_t @ params["w"] + params["b"])
        return h, h

    start = jnp.zeros((x.shape[1], params["u"].shape[0]), x.dtype)
    return lax.scan(step, start, x, unroll=unroll)[1]


@program(GRU, "f32[n,b,e]")
def gru(params, x, *, unroll=False):
    def step(h, x_t):
        z = jax.nn.sigmoid(x_t @ params["wz"] + h @ params["uz"])
        r = jax.nn.sigmoid(x_t @ params["wr"] + h @ params["ur"])
        c = jnp.tanh(x_t @ params["w"] + (r * h) @ params["u"])
        h = (1 - z) * h + z * c
        return h, h

    start = jnp.zeros((x.shape[1], params["u"].shape[0]), x.dtype)
    return lax.scan(step, start, x, unroll=unroll)[1]


@program(ATTENTION, "f32[b,n,d]")
def attention(params, x):
    q, k, v = (x @ params[name] for name in ("q", "k", "v"))
    scores = jnp.einsum("btd,bsd->bts", q, k) / jnp.sqrt(1.0 * q.shape[-1]).astype(x.dtype)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), v) @ params["o"]


def layer_norm(x):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5)


@program(BLOCK, "f32[b,n,d]")
def block(params, x):
    x = x + attention(params, layer_norm(x))
    return x + jax.nn.gelu(layer_norm(x) @ params["w1"] + params["b1"]) @ params["w2"]


@program(NET, "f32[b,3,2*h,2*h]")
def convolution_net(params, x):
    x = jax.nn.relu(lax.conv_general_dilated(x, params["k1"], (1, 1), "SAME"))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    x = jax.nn.relu(lax.conv_general_dilated(x, params["k2"], (1, 1), "SAME"))
    return x.mean((2, 3)) @ params["w"]


def loss(fn):
    @functools.wraps(fn)
    def total(params, x, **options):
        return jnp.mean(fn(params, x, **options) ** 2)

    return total


def gradient(fn):
    return lambda params, x, **options: jax.grad(loss(fn))(params, x, **options)


ADAM = optax.adam(1e-3)


def adam_step(training, x):
    params, mean, square, count = training
    gradients = jax.grad(loss(mlp))(params, x)
    state = (optax.ScaleByAdamState(count, mean, square), optax.EmptyState())
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its counter with floats
        updates, state = ADAM.update(gradients, state, params)
        return optax.apply_updates(params, updates), state


class Flax(linen.Module):
    features: int

    @linen.compact
    def __call__(self, x):
        x = linen.gelu(linen.Dense(4 * self.features, param_dtype=jnp.float32)(x))
        return linen.Dense(self.features, param_dtype=jnp.float32)(x)


@program(FLAX, "f32[n,16]")
def flax(params, x):
    return Flax(x.shape[-1]).apply({"params": params}, x)


EQUINOX = equinox.nn.MLP(16, 4, 32, 2, key=jax.random.key(0), dtype=jnp.float32)
_, EQUINOX_STATIC = equinox.partition(EQUINOX, equinox.is_array)


@program(equinox.filter(EQUINOX, equinox.is_array), "f32[n,16]")
def equinox_mlp(params, x):
    return jax.vmap(equinox.combine(params, EQUINOX_STATIC))(x)


GRADIENTS = {
    f"{name}_gradient": (gradient(fn), *args)
    for name, (fn, *args) in PROGRAMS.items()
    if name not in ("flax", "equinox_mlp")
}
STEP = {"adam": (adam_step, (MLP, MLP, MLP, "i32[]"), "f32[n,i]")}
ALL = PROGRAMS | GRADIENTS | STEP
LOOPS = ("rnn", "gru", "rnn_gradient", "gru_gradient")

SIZES = [
    {"n": 8, "b": 2, "d": 16, "e": 8, "i": 10, "h": 12, "o": 3, "c": 4},
    {"n": 16, "b": 3, "d": 32, "e": 16, "i": 20, "h": 24, "o": 5, "c": 8},
    {"n": 24, "b": 4, "d": 64, "e": 32, "i": 30, "h": 40, "o": 7, "c": 16},
]


def random_sizes(rng, names=("n", "b", "d", "e", "i", "h", "o", "c"), most=9):
    return {name: int(rng.integers(2, most)) for name in names}


def with_sizes(args, sizes):
    """The arguments with numbers in place of names."""

    def concrete(leaf):
        if not isinstance(leaf, str):
            return leaf
        dims = re.fullmatch(r"\w+\[(.*)\]", leaf)[1]
        shape = [int(parse(size).at(sizes)) for size in dims.split(",") if size]
        return jax.ShapeDtypeStruct(tuple(shape), DTYPES[leaf.split("[")[0]])

    return jax.tree.map(concrete, args)
