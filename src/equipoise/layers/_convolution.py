"""Convolution over positions."""

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer
from equipoise._types import Array, PyTree
from equipoise.attention._layer.weights import Size, Weight, size
from equipoise.layers._layer import Layer, glorot, no_step, sequence, zeros


@at("layers.convolution")
def convolution(
    width: Size,
    *,
    kernel_size: Size,
    dilation: int = 1,
    features: Size | None = None,
    is_causal: bool = False,
) -> Layer:
    r"""The same weighted sum of neighbors at every position.

    .. math::

        y_i = b + \sum_{m=0}^{k-1} x_{i + (m - c)\,\\delta}\, W_m, \qquad
        c = k - 1 \text{ if causal, } \lfloor (k - 1) / 2 \rfloor \text{ if not}

    Positions outside of the sequence are zero. W is drawn after Glorot and Bengio.

    Args:
        width: d, the width of the input; a number, or a name for ``cost.analyze``.
        kernel_size: k, the positions that are read.
        dilation: δ, their distance; with k⁰, k¹, k², … in successive layers every position is
            reached after log n layers.
        features: The width of y. Default d.
        is_causal: Whether it reads a position and earlier ones, rather than those around it.

    Returns:
        A :class:`Layer` with ``params`` ``kernel`` (k, d, e) and ``bias`` (e,). If causal, its
        state is the last (k − 1)·δ inputs; ``max_length`` has no influence.

    Raises:
        TypeError: If ``dilation`` is no integer.
        ValueError: If a size is below one or does not parse, ``x`` is not (n, d), or ``step`` is
            asked of a layer that is not causal.

    Cost: 2·k·n·d·e FLOPs, zeros outside included, all positions at once.

    Examples:
        >>> layer = layers.convolution(3, kernel_size=2, is_causal=True)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.ones((5, 3))).shape
        (5, 3)

    References:
        :cite:t:`vaswani2017`, section 4; :cite:t:`oord2016wavenet`, section 2.1, on dilation.
    """
    width = size("width", width)
    kernel_size = size("kernel_size", kernel_size)
    dilation = positive_integer("dilation", dilation)
    features = width if features is None else size("features", features)
    weights = {
        "kernel": Weight((kernel_size, width, features), glorot(in_axis=(0, 1), out_axis=2)),
        "bias": Weight((features,), zeros),
    }

    def convolve(params: PyTree, x: Array) -> Array:
        """Without padding, which JAX's convolution takes in numbers alone."""
        y = jax.lax.conv_general_dilated(
            x[None],
            params["kernel"],
            window_strides=(1,),
            padding="VALID",
            rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )[0]
        return y + params["bias"][None]

    def apply(params: PyTree, x: Array) -> Array:
        taps, d, _ = params["kernel"].shape
        x = sequence(x, d)
        before = (taps - 1 if is_causal else (taps - 1) // 2) * dilation
        after = (taps - 1) * dilation - before
        return convolve(params, jnp.pad(x, ((before, after), (0, 0))))

    if not is_causal:
        return Layer("convolution", weights, apply, *no_step("Make it with is_causal=True."))

    def init_state(params: PyTree, max_length: int) -> Array:
        kernel = params["kernel"]
        return jnp.zeros(((kernel.shape[0] - 1) * dilation, kernel.shape[1]), kernel.dtype)

    def step(params: PyTree, state: Array, x_t: Array) -> tuple[Array, Array]:
        seen = jnp.concatenate([state, x_t[None]])
        return seen[1:], convolve(params, seen)[0]

    return Layer("convolution", weights, apply, init_state, step)
