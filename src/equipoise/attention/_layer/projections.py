"""From a layer's inputs to its heads, and back."""

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._kernel.problem import wide

_SMALLEST = 1e-6  # mean square that counts in a norm


def projected(params: dict[str, Array], inputs: Array, source: Array) -> tuple[Array, Array, Array]:
    """Queries of the inputs, keys and values of what they read."""
    return (
        _normed(_project(params, "query", inputs), params.get("query_norm")),
        _normed(_project(params, "key", source), params.get("key_norm")),
        _project(params, "value", source),
    )


def _project(params: dict[str, Array], name: str, x: Array) -> Array:
    y = jnp.einsum("...td,dnh->...tnh", x, params[name])
    bias = params.get(f"{name}_bias")
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 2) + bias.shape)


def _normed(x: Array, weight: Array | None) -> Array:
    """Each head divided by the root of its mean square, times a weight."""
    if weight is None:
        return x
    square = jnp.mean(jnp.square(x.astype(wide(x.dtype))), axis=-1, keepdims=True)
    turned = (x * jax.lax.rsqrt(square + _SMALLEST)).astype(x.dtype)
    return turned * weight.reshape((1,) * (x.ndim - 1) + weight.shape)


def output(params: dict[str, Array], y: Array) -> Array:
    """The heads' values as features of the model."""
    out = jnp.einsum("...tnv,nvd->...td", y, params["output"])
    bias = params.get("output_bias")
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)
