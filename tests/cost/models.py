"""Models as people write them, in training and in use: does what is counted fit what XLA needs?"""

import contextlib
import functools

import equinox
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from jax import lax

KEY = jax.random.key(0)


@contextlib.contextmanager
def usual():
    """JAX as its users have it: 32 bits, and types that mix."""
    mixed, spread = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(False), mixed, spread:
        yield


def named(text):
    """Arrays of 32-bit numbers, written as ``name:sizes``."""
    return {name: f"f32[{sizes}]" for name, sizes in (w.split(":") for w in text.split())}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), tree)


class Convolutions(linen.Module):
    @linen.compact
    def __call__(self, x):
        for features in (32, 64):
            x = linen.relu(linen.Conv(features, (3, 3), param_dtype=jnp.float32)(x))
            x = linen.avg_pool(x, (2, 2), (2, 2))
        x = x.mean((1, 2))
        x = linen.relu(linen.Dense(256, param_dtype=jnp.float32)(x))
        return linen.Dense(10, param_dtype=jnp.float32)(x)


class Residual(linen.Module):
    @linen.compact
    def __call__(self, x):
        norm = functools.partial(
            linen.GroupNorm, num_groups=8, param_dtype=jnp.float32, use_fast_variance=False
        )
        conv = functools.partial(linen.Conv, use_bias=False, param_dtype=jnp.float32)
        x = conv(32, (3, 3))(x)
        for _ in range(3):
            y = linen.relu(norm()(conv(32, (3, 3))(x)))
            x = linen.relu(x + norm()(conv(32, (3, 3))(y)))
        return linen.Dense(10, param_dtype=jnp.float32)(x.mean((1, 2)))


class Recurrent(linen.Module):
    @linen.compact
    def __call__(self, x):
        cell = linen.GRUCell(128, param_dtype=jnp.float32)
        return linen.RNN(cell)(x)


class Heads(linen.Module):
    @linen.compact
    def __call__(self, x):
        attend = linen.MultiHeadDotProductAttention(4, param_dtype=jnp.float32)
        x = x + attend(linen.LayerNorm(param_dtype=jnp.float32)(x))
        y = linen.gelu(linen.Dense(256, param_dtype=jnp.float32)(x))
        return x + linen.Dense(64, param_dtype=jnp.float32)(y)


@usual()
def of_linen(module, example):
    params = jax.eval_shape(module.init, KEY, jax.ShapeDtypeStruct(example, jnp.float32))
    return module.apply, shapes(params)


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 512, rngs=rngs)
        self.norm = nnx.LayerNorm(512, rngs=rngs)
        self.second = nnx.Linear(512, 64, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.gelu(self.norm(self.first(x))))


@usual()
def of_nnx():
    graph, state = nnx.split(NnxMlp(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graph, state)(x), shapes(state)


def of_equinox(module):
    arrays, static = equinox.partition(module, equinox.is_array)
    return lambda params, x: jax.vmap(equinox.combine(params, static))(x), shapes(arrays)


LAYER = named("qkv:64,192 o:64,64 up:64,256 down:256,64 scale:64")


def normed(x, scale):
    mean = x.mean(-1, keepdims=True)
    return scale * (x - mean) * lax.rsqrt(jnp.mean((x - mean) ** 2, -1, keepdims=True) + 1e-5)


def block(x, p):
    b, n, d = x.shape
    q, k, v = jnp.split(normed(x, p["scale"]) @ p["qkv"], 3, -1)
    q, k, v = (y.reshape(b, n, 4, d // 4) for y in (q, k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / 4
    scores = jnp.where(jnp.tril(jnp.ones((n, n), bool)), scores, -1e9)
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v).reshape(b, n, d)
    x = x + y @ p["o"]
    return x + jax.nn.gelu(normed(x, p["scale"]) @ p["up"]) @ p["down"]


def transformer(params, x):
    return functools.reduce(block, params, x)


def checkpointed(params, x):
    return functools.reduce(jax.checkpoint(block), params, x)


def scanned(params, x):
    return lax.scan(lambda x, p: (block(x, p), None), x, params)[0]


def scanned_checkpointed(params, x):
    return lax.scan(jax.checkpoint(lambda x, p: (block(x, p), None)), x, params)[0]


LAYERS = [LAYER] * 4
STACKED = {name: shape.replace("f32[", "f32[4,") for name, shape in LAYER.items()}


def experts(params, x):
    """A mixture of experts, every token sent to its best one, in dense form."""
    gate = jax.nn.softmax(x @ params["gate"])
    chosen = jax.nn.one_hot(jnp.argmax(gate, -1), gate.shape[-1], dtype=x.dtype) * gate
    hidden = jax.nn.relu(jnp.einsum("nd,edh->enh", x, params["up"]))
    return jnp.einsum("enh,ehd,ne->nd", hidden, params["down"], chosen)


EXPERTS = {"gate": "f32[64,8]", "up": "f32[8,64,128]", "down": "f32[8,128,64]"}


def convolved(x, kernel, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)


def unet(params, x):
    """A denoiser with one level down and up again."""
    first = jax.nn.silu(convolved(x, params["in"]))
    low = jax.nn.silu(convolved(first, params["down"], 2))
    low = low + jax.nn.silu(convolved(low, params["middle"]))
    high = jnp.repeat(jnp.repeat(low, 2, 1), 2, 2)
    both = jnp.concatenate([first, jax.nn.silu(convolved(high, params["up"]))], -1)
    return convolved(both, params["out"])


UNET = named("in:3,3,3,32 down:3,3,32,64 middle:3,3,64,64 up:3,3,64,32 out:3,3,64,3")


def autoencoder(params, x):
    """The evidence lower bound's two terms of a variational autoencoder, with fixed noise."""
    h = jnp.tanh(x @ params["encode"])
    mean, log_scale = h @ params["mean"], h @ params["scale"]
    z = mean + jnp.exp(log_scale) * jnp.sin(1e3 * mean)
    logits = jnp.tanh(z @ params["decode"]) @ params["out"]
    kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 2 * log_scale - 1, -1)
    return jnp.sum(jax.nn.softplus(logits) - x * logits, -1) + kl


VAE = named("encode:784,256 mean:256,32 scale:256,32 decode:32,256 out:256,784")


def differential_equation(params, x):
    """A neural equation solved in thirty Runge-Kutta steps."""

    def field(y):
        return jnp.tanh(y @ params["w"] + params["b"]) @ params["v"]

    def step(y, _):
        k1 = field(y)
        k2 = field(y + 0.05 * k1)
        k3 = field(y + 0.05 * k2)
        k4 = field(y + 0.1 * k3)
        return y + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return lax.scan(step, x, None, length=30)[0]


def logistic(x, y=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(64), 1.0).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def potential(params, x):
    y = (x[:, 0] > 0).astype(jnp.int32)
    density, _ = numpyro.infer.util.log_density(logistic, (x,), {"y": y}, params)
    return -density


def mlp(params, x):
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ params[-1]


MLP = ["f32[128,512]", "f32[512,512]", "f32[512,128]"]
X, IMAGE, SEQUENCE = "f32[b,64]", "f32[b,32,32,3]", "f32[b,64,64]"
EQUINOX = equinox.nn.MLP(64, 64, 256, 3, key=KEY, dtype=jnp.float32)

MODELS = {
    "linen convolutions": (*of_linen(Convolutions(), (1, 32, 32, 3)), IMAGE),
    # With fewer images XLA calls no library for their statistics, and half as much is alive.
    "linen residual": (*of_linen(Residual(), (1, 32, 32, 3)), IMAGE, 512),
    "linen recurrent": (*of_linen(Recurrent(), (1, 32, 64)), "f32[b,32,64]"),
    "linen heads": (*of_linen(Heads(), (1, 64, 64)), SEQUENCE),
    "nnx": (*of_nnx(), X),
    "equinox": (*of_equinox(EQUINOX), X),
    "mlp": (mlp, MLP, "f32[b,128]"),
    "transformer": (transformer, LAYERS, SEQUENCE),
    "checkpointed": (checkpointed, LAYERS, SEQUENCE),
    "scanned": (scanned, STACKED, SEQUENCE),
    "scanned checkpointed": (scanned_checkpointed, STACKED, SEQUENCE),
    "experts": (experts, EXPERTS, X),
    "unet": (unet, UNET, IMAGE),
    "autoencoder": (autoencoder, VAE, "f32[b,784]"),
    "equation": (
        differential_equation,
        {"w": "f32[64,128]", "b": "f32[128]", "v": "f32[128,64]"},
        X,
    ),
    "numpyro": (potential, {"w": "f32[64]"}, X),
}
BATCH = {X: 512, "f32[b,128]": 2048, "f32[b,784]": 1024, SEQUENCE: 8, IMAGE: 8, "f32[b,32,64]": 16}
ADAM = optax.adamw(1e-3)


def loss(fn, params, x):
    return jnp.mean(fn(params, x) ** 2)


def gradient(fn, params, x):
    return jax.grad(functools.partial(loss, fn))(params, x)


def step(fn, params, state, x):
    updates, state = ADAM.update(gradient(fn, params, x), state, params)
    return optax.apply_updates(params, updates), state


def state_of(params):
    return (
        optax.ScaleByAdamState("i32[]", params, params),
        optax.EmptyState(),
        optax.EmptyState(),
    )


def cases(models=MODELS):
    """(name, function, arguments, donated, a batch) of every model in each of its uses."""
    for name, (fn, params, x, *batch) in models.items():
        batch = batch[0] if batch else BATCH[x]
        yield f"{name}: inference", fn, (params, x), (), batch
        yield f"{name}: gradient", functools.partial(gradient, fn), (params, x), (), batch
        training = functools.partial(step, fn), (params, state_of(params), x)
        yield f"{name}: step", *training, (), batch
        yield f"{name}: donated step", *training, (0, 1), batch
