"""The transformer block, and many of them in a row."""

import jax

from equipoise import _check_old as _check
from equipoise._types import Array, PRNGKeyArray, PyTree
from equipoise.layers._attention import self_attention
from equipoise.layers._layer import Layer, Size, Weight, is_weight, size
from equipoise.layers._pointwise import feed_forward, layer_norm


def transformer_block(
    width: Size,
    *,
    num_heads: Size = 1,
    hidden: Size | None = None,
    is_causal: bool = False,
    window: Size | None = None,
    implementation: str = "plain",
) -> Layer:
    r"""Attention that mixes positions, then a feed-forward map of each, both residual.

    .. math::

        z = x + \operatorname{attention}(\operatorname{norm}_1(x)), \qquad
        y = z + \operatorname{feedforward}(\operatorname{norm}_2(z))

    The norms come first, as Xiong et al. advise: the gradient then needs no warm-up.

    Args:
        width: d, the width of input and output; a number, or a name for ``cost.analyze``.
        num_heads: h. It divides d.
        hidden: The width inside the feed-forward map. Default 4·d.
        is_causal: Whether a position reads itself and earlier ones alone.
        window: How many positions to either side attention reads, the own one included.
        implementation: ``"plain"`` or ``"blockwise"``, as of :func:`self_attention`.

    Returns:
        A :class:`Layer` with ``params`` ``attention_norm``, ``attention``, ``feed_forward_norm``
        and ``feed_forward``. Its state is that of :func:`self_attention`.

    Raises:
        ValueError: As :func:`self_attention` and :func:`feed_forward` do.

    Cost: 24·n·d² + 4·n²·d FLOPs with the default hidden width.

    Examples:
        >>> block = layers.transformer_block(4, num_heads=2)
        >>> params = block.init(jax.random.key(0))
        >>> block.apply(params, jnp.ones((5, 4))).shape
        (5, 4)

    References:
        :cite:t:`vaswani2017`, section 3.1; :cite:t:`xiong2020layer`, figure 1b.
    """
    attention = self_attention(
        width,
        num_heads=num_heads,
        is_causal=is_causal,
        window=window,
        implementation=implementation,
    )
    attention_norm, feed_forward_norm = layer_norm(width), layer_norm(width)
    mlp = feed_forward(width, hidden=hidden)

    def rest(params: PyTree, z: Array) -> Array:
        normal = feed_forward_norm.apply(params["feed_forward_norm"], z)
        return z + mlp.apply(params["feed_forward"], normal)

    def apply(params: PyTree, x: Array) -> Array:
        normal = attention_norm.apply(params["attention_norm"], x)
        return rest(params, x + attention.apply(params["attention"], normal))

    def init_state(params: PyTree, max_length: int) -> PyTree:
        return attention.init_state(params["attention"], max_length)

    def step(params: PyTree, state: PyTree, x_t: Array) -> tuple[PyTree, Array]:
        normal = attention_norm.apply(params["attention_norm"], x_t[None])[0]
        state, read = attention.step(params["attention"], state, normal)
        return state, rest(params, (x_t + read)[None])[0]

    weights = {
        "attention_norm": attention_norm.weights,
        "attention": attention.weights,
        "feed_forward_norm": feed_forward_norm.weights,
        "feed_forward": mlp.weights,
    }
    return Layer("transformer_block", weights, apply, init_state, step)


def stack(layer: Layer, num_layers: Size) -> Layer:
    r"""Copies of a layer, each with weights of its own, one after another.

    .. math::

        y = f_{\theta_L} \circ \dots \circ f_{\theta_1}(x)

    It is a scan over the layers, so that compile time and analysis do not grow with L.

    Args:
        layer: f, from width d to width d.
        num_layers: L; a number, or a name for ``cost.analyze``.

    Returns:
        A :class:`Layer` whose ``params`` and state are those of ``layer`` with a leading axis L.

    Raises:
        TypeError: If ``layer`` is not a :class:`Layer`.
        ValueError: If L is below one or does not parse.

    Cost: L times that of ``layer``.

    Examples:
        >>> model = layers.stack(layers.transformer_block(4), 3)
        >>> params = model.init(jax.random.key(0))
        >>> params["feed_forward"]["inner"].shape
        (3, 4, 16)

    References:
        :cite:t:`vaswani2017`, section 3.1.
    """
    where = "layers.stack"
    if not isinstance(layer, Layer):
        raise _check.type_error(where, "layer", "must be a layer of this area", layer)
    num_layers = size(where, "num_layers", num_layers)

    def copies(weight: Weight) -> Weight:
        def initializer(key: PRNGKeyArray, shape: tuple[int, ...], dtype: object) -> Array:
            keys = jax.random.split(key, shape[0])
            return jax.vmap(lambda k: weight.initializer(k, shape[1:], dtype))(keys)

        return Weight((num_layers, *weight.shape), initializer)

    def apply(params: PyTree, x: Array) -> Array:
        return jax.lax.scan(lambda x, p: (layer.apply(p, x), None), x, params)[0]

    def init_state(params: PyTree, max_length: int) -> PyTree:
        return jax.vmap(lambda p: layer.init_state(p, max_length))(params)

    def step(params: PyTree, state: PyTree, x_t: Array) -> tuple[PyTree, Array]:
        def body(x_t: Array, each: tuple[PyTree, PyTree]) -> tuple[Array, PyTree]:
            state, y_t = layer.step(each[0], each[1], x_t)
            return y_t, state

        y_t, state = jax.lax.scan(body, x_t, (params, state))
        return state, y_t

    return Layer(
        "stack", jax.tree.map(copies, layer.weights, is_leaf=is_weight), apply, init_state, step
    )
