"""A flow that starts at the identity: affine couplings of many vectors, and steps that train it.

Vectors are columns. Layers change one half of the coordinates given the other half, in an order of
each layer's own, and leave them in that order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise._jax.traced import Traced
from equipoise._types import Array, PyTree
from equipoise.vi._bounds.density import flat_log_density
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._families.layout import Layout

_MAX_LOG_SCALE = 2.0
_WORST = -1e4  # nats below which a log density pulls no further
_RULE = optax.chain(optax.clip_by_global_norm(10.0), optax.scale_by_adam(b2=0.99))


class Couplings(NamedTuple):
    """The layers' networks, with leading axes of layers.

    ``hidden`` has a column more than half of the coordinates, and ``out`` one more than there are
    hidden units, for constants. ``out`` makes log scales and shifts.
    """

    hidden: Array
    out: Array


class _Trained(NamedTuple):
    """What a step changes: the networks, and the memory of the optimizer."""

    couplings: Couplings
    memory: PyTree


def first_couplings(
    rng: np.random.Generator, size: int, num_pairs: int, num_hidden: int, dtype: np.dtype
) -> tuple[_Trained, np.ndarray]:
    """Layers that change nothing, and their orders; two in turn change all coordinates."""
    moved = -(-size // 2)
    kept = size - moved
    hidden: AnyArray = rng.standard_normal((2 * num_pairs, num_hidden, kept + 1))
    hidden[..., :kept] /= max(kept, 1) ** 0.5
    out: AnyArray = np.zeros((2 * num_pairs, 2 * moved, num_hidden + 1))
    backwards = np.arange(size)[::-1]
    orders = [order for _ in range(num_pairs) for order in (rng.permutation(size), backwards)]
    couplings = Couplings(hidden.astype(dtype), out.astype(dtype))
    # An optimizer remembers nothing at first; made on the host, it takes no program.
    memory = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(_RULE.init, couplings)
    )
    return _Trained(couplings, memory), np.stack(orders)


def last_order(orders: np.ndarray) -> np.ndarray:
    """Which coordinate each row is in the end."""
    return functools.reduce(lambda rows, order: rows[order], orders, np.arange(orders.shape[1]))


def _network(layer: Couplings, kept: Array) -> tuple[Array, Array]:
    """Log scales and shifts of those that move."""
    hidden = jnp.tanh(layer.hidden[:, :-1] @ kept + layer.hidden[:, -1:])
    scale, shift = jnp.split(layer.out[:, :-1] @ hidden + layer.out[:, -1:], 2)
    return _MAX_LOG_SCALE * jnp.tanh(scale / _MAX_LOG_SCALE), shift


def _forward(couplings: Couplings, orders: Array, x: Array) -> tuple[Array, Array]:
    """Images of the columns, and log volume factors."""
    kept = couplings.hidden.shape[2] - 1

    def layer(x: Array, one: tuple[Couplings, Array]) -> tuple[Array, Array]:
        x = x[one[1]]
        scale, shift = _network(one[0], x[:kept])
        moved = x[kept:] * jnp.exp(scale) + shift
        return jnp.concatenate([x[:kept], moved]), jnp.sum(scale, axis=0)

    x, volumes = jax.lax.scan(layer, x, (couplings, orders))
    return x, jnp.sum(volumes, axis=0)


def _backward(couplings: Couplings, orders: Array, x: Array) -> tuple[Array, Array]:
    """What the columns are images of, and log volume factors of the way there."""
    kept = couplings.hidden.shape[2] - 1

    def layer(x: Array, one: tuple[Couplings, Array]) -> tuple[Array, Array]:
        scale, shift = _network(one[0], x[:kept])
        moved = (x[kept:] - shift) * jnp.exp(-scale)
        before = jnp.concatenate([x[:kept], moved])
        return before[jnp.argsort(one[1])], jnp.sum(scale, axis=0)

    x, volumes = jax.lax.scan(layer, x, (couplings, orders), reverse=True)
    return x, jnp.sum(volumes, axis=0)


@jax.jit
def mapped(couplings: Couplings, orders: Array, x: Array, back: Array) -> tuple[Array, Array]:
    """Both ways, as one program."""
    ways = [functools.partial(way, couplings, orders) for way in (_forward, _backward)]
    found: tuple[Array, Array] = jax.lax.switch(back, ways, x)
    return found


@functools.partial(jax.jit, static_argnames="positions")
def train(
    now: _Trained,
    orders: Array,
    steps: tuple[Array, Array, Array],
    normal: tuple[Array, Array],
    density: Traced,
    positions: Layout,
) -> _Trained:
    """Steps along gradients of the ELBO, sticking the landing, and of a likelihood.

    Each has noise, whose columns come with their mirror images, images whose likelihood it raises,
    and a rate.
    """
    mean, factor = normal
    log_p = flat_log_density(density.prepared(), positions)
    log_ps = density.over(lambda u: log_p(mean + factor @ u))

    def loss(couplings: Couplings, noise: Array, there: Array) -> Array:
        u, _ = _forward(couplings, orders, noise)
        # q moves by the path alone.
        back, volume = _backward(jax.lax.stop_gradient(couplings), orders, u)
        log_q = -0.5 * jnp.sum(back**2, axis=0) - volume
        target = log_ps(u.T.astype(mean.dtype)).astype(u.dtype)
        short = jnp.mean(log_q - jnp.where(target > _WORST, target, _WORST))  # nan too
        back, volume = _backward(couplings, orders, there)
        return short + jnp.mean(0.5 * jnp.sum(back**2, axis=0) + volume)

    def step(now: _Trained, one: tuple[Array, Array, Array]) -> tuple[_Trained, None]:
        half, there, rate = one
        both = jnp.concatenate([half, -half], axis=1)
        slope = jax.grad(loss)(now.couplings, both, there)
        slope = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), slope)
        with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
            update, memory = _RULE.update(slope, now.memory)
        couplings = jax.tree.map(lambda x, change: x - rate * change, now.couplings, update)
        return _Trained(couplings, memory), None

    return jax.lax.scan(step, now, steps)[0]
