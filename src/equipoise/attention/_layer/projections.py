"""From a layer's inputs to its heads, and back.

What is kept of a token are its keys and values; or one vector for all heads, the part of a key that
is turned and then the latent, of which all other keys and all values are linear maps.
"""

import functools

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._kernel.problem import wide

_SMALLEST = 1e-6  # mean square that counts in a norm
_Parameters = dict[str, Array]


def projected(params: _Parameters, inputs: Array, source: Array) -> tuple[Array, Array, Array]:
    """Queries of the inputs, keys and values of what they read.

    With a latent these are vectors that stand for both, in one head, and values of no features.
    """
    if "query_latent" in params:
        inputs = _normed(inputs @ params["query_latent"], params.get("query_latent_norm"))
    q = _normed(_project(params, "query", inputs), params.get("query_norm"))
    if "rotary_query" in params:
        q = jnp.concatenate([_project(params, "rotary_query", inputs), q], axis=-1)
    if "latent" not in params:
        k = _normed(_project(params, "key", source), params.get("key_norm"))
        return q, k, _project(params, "value", source)
    kept = _normed(source @ params["latent"], params.get("latent_norm"))
    if "rotary_key" in params:
        kept = jnp.concatenate([source @ params["rotary_key"], kept], axis=-1)
    kept = kept[..., None, :]
    return q, kept, kept[..., :0]


@functools.partial(jax.jit, inline=True)
def expanded(params: _Parameters, kept: Array) -> tuple[Array, Array]:
    """Keys and values of every head, from the vectors that stand for both."""
    turned, latent = _parted(params, kept)
    k = jnp.einsum("...tc,cnh->...tnh", latent[..., 0, :], params["key"])
    every = jnp.broadcast_to(turned, (*k.shape[:-1], turned.shape[-1]))
    v = jnp.einsum("...tc,cnv->...tnv", latent[..., 0, :], params["value"])
    return jnp.concatenate([every, k], axis=-1), v


@functools.partial(jax.jit, inline=True)
def absorbed(params: _Parameters, q: Array) -> Array:
    """Queries of the vectors that stand for keys: q·(W c) = (Wᵀ q)·c, so no key is made."""
    turned, rest = _parted(params, q)
    latent = jnp.einsum("...tnh,cnh->...tnc", rest, params["key"])
    return jnp.concatenate([turned, latent], axis=-1)


def _parted(params: _Parameters, x: Array) -> tuple[Array, Array]:
    """What is turned, and the rest."""
    r = params["rotary_key"].shape[-1] if "rotary_key" in params else 0
    return x[..., :r], x[..., r:]


@functools.partial(jax.jit, static_argnames="of_kept", inline=True)
def output(params: _Parameters, y: Array, *, of_kept: bool = False) -> Array:
    """The heads' values as features of the model; ``of_kept``, from means of what is kept."""
    if of_kept:
        _, latent = _parted(params, y)
        y = jnp.einsum("...tnc,cnv->...tnv", latent, params["value"])
    out = jnp.einsum("...tnv,nvd->...td", y, params["output"])
    bias = params.get("output_bias")
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)


def _project(params: _Parameters, name: str, x: Array) -> Array:
    y = jnp.einsum("...td,dnh->...tnh", x, params[name])
    bias = params.get(f"{name}_bias")
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 2) + bias.shape)


def _normed(x: Array, weight: Array | None) -> Array:
    """Each vector divided by the root of its mean square, times a weight."""
    if weight is None:
        return x
    square = jnp.mean(jnp.square(x.astype(wide(x.dtype))), axis=-1, keepdims=True)
    turned = (x * jax.lax.rsqrt(square + _SMALLEST)).astype(x.dtype)
    return turned * weight.reshape((1,) * (x.ndim - 1) + weight.shape)
