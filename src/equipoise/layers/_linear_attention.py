"""Attention without the softmax: a running sum in place of a table of scores."""

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array, PyTree
from equipoise.attention._layer.weights import Size, Weight, size
from equipoise.layers._layer import Layer, glorot, head_size, no_step, sequence


@at("layers.linear_attention")
def linear_attention(width: Size, *, num_heads: Size = 1, is_causal: bool = False) -> Layer:
    r"""Attention with inner products of positive features as weights, in linear work.

    .. math::

        y_i = \sum_h \frac{\phi(q_i)^\top \sum_{j \in A(i)} \phi(k_j)\, v_j^\top}
                          {\phi(q_i)^\top \sum_{j \in A(i)} \phi(k_j)}\, W^h_O, \qquad
        \phi(u) = 1 + \operatorname{elu}(u)

    A(i) is everything, or j ≤ i if causal. The sums do not depend on the query, so they are taken
    once (or run along), and no n × n table exists.

    Args:
        width: d, the width of input and output; a number, or a name for ``cost.analyze``.
        num_heads: h. It divides d; heads have k = d / h features.
        is_causal: Whether a position reads itself and earlier ones alone.

    Returns:
        A :class:`Layer` with ``params`` ``query``, ``key``, ``value`` (d, h, k) and ``output``
        (h, k, d). If causal, its state is the two sums, (h, k, k) and (h, k); ``max_length`` has
        no influence.

    Raises:
        ValueError: If a size is below one or does not parse, the heads do not divide the width,
            ``x`` is not (n, d), or ``step`` is asked of a layer that is not causal.

    Cost: 8·n·d² + 4·n·d·k FLOPs; if causal, O(n·d·k) memory. A step costs the same for n = 1.

    Examples:
        >>> layer = layers.linear_attention(4, is_causal=True)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.ones((5, 4))).shape
        (5, 4)

    References:
        :cite:t:`katharopoulos2020`, equations 5 to 7.
    """
    weights = _weights(width, num_heads)

    def features(params: PyTree, x: Array) -> tuple[Array, Array, Array]:
        q, k, v = (jnp.einsum("nd,dhk->nhk", x, params[name]) for name in ("query", "key", "value"))
        return 1 + jax.nn.elu(q), 1 + jax.nn.elu(k), v

    def read(params: PyTree, q: Array, sums: Array, mass: Array) -> Array:
        """The quotient at every position; sums and mass have one row, or one a position."""
        above = (q[..., None] * sums).sum(axis=-2)
        below = (q * mass).sum(axis=-1)
        return jnp.einsum("nhk,hkd->nd", above / below[..., None], params["output"])

    def apply(params: PyTree, x: Array) -> Array:
        x = sequence(x, params["query"].shape[0])
        q, k, v = features(params, x)
        if not is_causal:
            sums, mass = jnp.einsum("nhk,nhe->hke", k, v), k.sum(axis=0)
            above = jnp.einsum("nhk,hke->nhe", q, sums)
            below = jnp.einsum("nhk,hk->nh", q, mass)
            return jnp.einsum("nhk,hkd->nd", above / below[..., None], params["output"])
        sums = jnp.cumsum(k[..., None] * v[..., None, :], axis=0)
        return read(params, q, sums, jnp.cumsum(k, axis=0))

    if not is_causal:
        return Layer("linear_attention", weights, apply, *no_step("Make it with is_causal=True."))

    def init_state(params: PyTree, max_length: int) -> tuple[Array, Array]:
        _, h, k = params["key"].shape
        dtype = params["key"].dtype
        return jnp.zeros((h, k, k), dtype), jnp.zeros((h, k), dtype)

    def step(
        params: PyTree, state: tuple[Array, Array], x_t: Array
    ) -> tuple[tuple[Array, Array], Array]:
        q, k, v = features(params, x_t[None])
        sums, mass = state[0] + k[0, :, :, None] * v[0, :, None, :], state[1] + k[0]
        return (sums, mass), read(params, q, sums[None], mass[None])[0]

    return Layer("linear_attention", weights, apply, init_state, step)


def _weights(width: Size, num_heads: Size) -> dict[str, Weight]:
    """The four projections, one matrix a head."""
    width, num_heads = size("width", width), size("num_heads", num_heads)
    each, head = head_size(width, num_heads), glorot(in_axis=0, out_axis=(1, 2))
    return {
        "query": Weight((width, num_heads, each), head),
        "key": Weight((width, num_heads, each), head),
        "value": Weight((width, num_heads, each), head),
        "output": Weight((num_heads, each, width), glorot(in_axis=(0, 1), out_axis=2)),
    }
