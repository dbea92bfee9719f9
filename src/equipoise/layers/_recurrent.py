"""Layers with a state of fixed size: n steps in sequence, whatever the machine."""

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array, PyTree
from equipoise.attention._layer.weights import Size, Weight, size
from equipoise.layers._layer import Layer, glorot, orthogonal, sequence, zeros


def _cell(width: Size, hidden: Size) -> dict[str, Weight]:
    return {
        "input": Weight((width, hidden), glorot()),
        "recurrent": Weight((hidden, hidden), orthogonal),
        "bias": Weight((hidden,), zeros),
    }


@at("layers.elman_rnn")
def elman_rnn(width: Size, *, hidden: Size | None = None) -> Layer:
    r"""Elman's recurrent network, whose state is its output.

    .. math::

        h_t = \tanh(x_t W + h_{t-1} U + b), \qquad h_0 = 0

    W is drawn after Glorot and Bengio, U is orthogonal after Saxe et al. The products with W do
    not wait for the state, so they are one matrix product.

    Args:
        width: d, the width of the input; a number, or a name for ``cost.analyze``.
        hidden: The width of h. Default d.

    Returns:
        A :class:`Layer` with ``params`` ``input`` (d, h), ``recurrent`` (h, h) and ``bias`` (h,).
        Its state is h, (h,); ``max_length`` has no influence.

    Raises:
        ValueError: If a width is below one or does not parse, or ``x`` is not (n, d).

    Cost: 2·n·h·(d + h) FLOPs in n steps that wait for each other; O(h) memory per step in use.

    Examples:
        >>> rnn = layers.elman_rnn(3)
        >>> params = rnn.init(jax.random.key(0))
        >>> rnn.apply(params, jnp.ones((5, 3))).shape
        (5, 3)

    References:
        :cite:t:`elman1990finding`; :cite:t:`glorot2010understanding`; :cite:t:`saxe2014exact`.
    """
    width = size("width", width)
    hidden = width if hidden is None else size("hidden", hidden)

    def cell(params: PyTree, h: Array, drive: Array) -> Array:
        return jnp.tanh(drive + h @ params["recurrent"])

    def apply(params: PyTree, x: Array) -> Array:
        x = sequence(x, params["input"].shape[0])
        drive = x @ params["input"] + params["bias"][None]

        def body(h: Array, drive_t: Array) -> tuple[Array, Array]:
            h = cell(params, h, drive_t)
            return h, h

        return jax.lax.scan(body, jnp.zeros(drive.shape[1:], drive.dtype), drive)[1]

    def init_state(params: PyTree, max_length: int) -> Array:
        return jnp.zeros_like(params["bias"])

    def step(params: PyTree, h: Array, x_t: Array) -> tuple[Array, Array]:
        h = cell(params, h, x_t @ params["input"] + params["bias"])
        return h, h

    return Layer("elman_rnn", _cell(width, hidden), apply, init_state, step)


@at("layers.gru")
def gru(width: Size, *, hidden: Size | None = None) -> Layer:
    r"""The gated recurrent unit, which learns what to keep and what to forget.

    .. math::

        z_t &= \sigma(x_t W_z + h_{t-1} U_z + b_z), \quad
        r_t = \sigma(x_t W_r + h_{t-1} U_r + b_r) \\
        h_t &= z_t\, h_{t-1} + (1 - z_t) \tanh(x_t W_c + (r_t\, h_{t-1})\, U_c + b_c)

    W are drawn after Glorot and Bengio, U are orthogonal after Saxe et al.

    Args:
        width: d, the width of the input; a number, or a name for ``cost.analyze``.
        hidden: The width of h. Default d.

    Returns:
        A :class:`Layer` with ``params`` ``update``, ``reset`` and ``candidate``, each of
        ``input`` (d, h), ``recurrent`` (h, h) and ``bias`` (h,). Its state is h, (h,);
        ``max_length`` has no influence.

    Raises:
        ValueError: If a width is below one or does not parse, or ``x`` is not (n, d).

    Cost: 6·n·h·(d + h) FLOPs in n steps that wait for each other; O(h) memory per step in use.

    Examples:
        >>> layer = layers.gru(3)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.ones((5, 3))).shape
        (5, 3)

    References:
        :cite:t:`cho2014learning`, equations 5 to 8; :cite:t:`saxe2014exact`.
    """
    width = size("width", width)
    hidden = width if hidden is None else size("hidden", hidden)

    def drives(params: PyTree, x: Array) -> dict[str, Array]:
        return {
            name: x @ gate["input"]
            + jnp.broadcast_to(gate["bias"], (*x.shape[:-1], *gate["bias"].shape))
            for name, gate in params.items()
        }

    def cell(params: PyTree, h: Array, drive: dict[str, Array]) -> Array:
        z = jax.nn.sigmoid(drive["update"] + h @ params["update"]["recurrent"])
        r = jax.nn.sigmoid(drive["reset"] + h @ params["reset"]["recurrent"])
        candidate = jnp.tanh(drive["candidate"] + (r * h) @ params["candidate"]["recurrent"])
        return z * h + (1 - z) * candidate

    def apply(params: PyTree, x: Array) -> Array:
        x = sequence(x, params["update"]["input"].shape[0])

        def body(h: Array, drive_t: dict[str, Array]) -> tuple[Array, Array]:
            h = cell(params, h, drive_t)
            return h, h

        h = jnp.zeros(params["update"]["bias"].shape, x.dtype)
        return jax.lax.scan(body, h, drives(params, x))[1]

    def init_state(params: PyTree, max_length: int) -> Array:
        return jnp.zeros_like(params["update"]["bias"])

    def step(params: PyTree, h: Array, x_t: Array) -> tuple[Array, Array]:
        h = cell(params, h, drives(params, x_t))
        return h, h

    weights = {name: _cell(width, hidden) for name in ("update", "reset", "candidate")}
    return Layer("gru", weights, apply, init_state, step)
