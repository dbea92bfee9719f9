"""Layers that map every position alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array, PyTree
from equipoise.attention._layer.weights import Size, Weight, size, times
from equipoise.layers._layer import Layer, glorot, ones, pointwise, sequence, widened, zeros


@at("layers.feed_forward")
def feed_forward(
    width: Size,
    *,
    hidden: Size | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Layer:
    r"""Two matrix products with a nonlinearity between, at every position alone.

    .. math::

        y_i = \phi(x_i W_1 + b_1)\, W_2 + b_2

    Weights are drawn after Glorot and Bengio, biases are zero.

    Args:
        width: d, the width of input and output; a number, or a name for ``cost.analyze``.
        hidden: The width between. Default 4·d.
        activation: φ, elementwise.

    Returns:
        A :class:`Layer` with ``params`` ``inner`` (d, h), ``inner_bias``, ``outer`` (h, d) and
        ``outer_bias``. Its state is empty.

    Raises:
        ValueError: If a width is below one or does not parse, or ``x`` is not (n, d).

    Cost: 4·n·d·h FLOPs, all positions at once.

    Examples:
        >>> layer = layers.feed_forward(3)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.ones((5, 3))).shape
        (5, 3)

    References:
        :cite:t:`vaswani2017`, equation 2; :cite:t:`glorot2010understanding`.
    """
    width = size("width", width)
    hidden = times(4, width) if hidden is None else size("hidden", hidden)

    def apply(params: PyTree, x: Array) -> Array:
        x = sequence(x, params["inner"].shape[0])
        inner = activation(x @ params["inner"] + params["inner_bias"][None])
        return inner @ params["outer"] + params["outer_bias"][None]

    weights = {
        "inner": Weight((width, hidden), glorot()),
        "inner_bias": Weight((hidden,), zeros),
        "outer": Weight((hidden, width), glorot()),
        "outer_bias": Weight((width,), zeros),
    }
    return pointwise("feed_forward", weights, apply)


@at("layers.layer_norm")
def layer_norm(width: Size, *, epsilon: float = 1e-5) -> Layer:
    r"""Every position centered and scaled over its features, then an affine map.

    .. math::

        y_i = \gamma\, \frac{x_i - \bar x_i}{\sqrt{\operatorname{var}(x_i) + \epsilon}} + \beta

    γ starts at one and β at zero. The moments are taken in float32 at least.

    Args:
        width: d, the width of input and output; a number, or a name for ``cost.analyze``.
        epsilon: ε, what keeps a constant position finite: it maps to β.

    Returns:
        A :class:`Layer` with ``params`` ``scale`` (d,) and ``shift`` (d,). Its state is empty.

    Raises:
        ValueError: If the width is below one or does not parse, or ``x`` is not (n, d).

    Cost: about 8·n·d FLOPs, all positions at once.

    Examples:
        >>> layer = layers.layer_norm(2)
        >>> params = layer.init(jax.random.key(0))
        >>> print(layer.apply(params, jnp.asarray([[1.0, 3.0]])).round(3))
        [[-1.  1.]]

    References:
        :cite:t:`ba2016layer`, equation 4.
    """
    width = size("width", width)

    def apply(params: PyTree, x: Array) -> Array:
        x = sequence(x, params["scale"].shape[0])
        wide = widened(x)
        centered = wide - jnp.mean(wide, axis=1, keepdims=True)
        variance = jnp.mean(centered**2, axis=1, keepdims=True)
        normal = (centered * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)
        return normal * params["scale"][None] + params["shift"][None]

    weights = {"scale": Weight((width,), ones), "shift": Weight((width,), zeros)}
    return pointwise("layer_norm", weights, apply)
