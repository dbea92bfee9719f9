"""The transformer block, and many of them in a row."""

import jax

from equipoise._check import at, choice, positive_integer, type_error
from equipoise._types import Array, PRNGKeyArray, PyTree
from equipoise.attention import KVCache, multi_head_attention
from equipoise.attention._layer.weights import Size, Weight, is_weight, less_one, resolve, size
from equipoise.layers._layer import Layer, head_size, no_step
from equipoise.layers._pointwise import feed_forward, layer_norm


@at("layers.transformer_block")
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
        window: How many positions attention reads to either side, its own included.
        implementation: ``"plain"`` writes out the scores, n² of them or n·r in a window, and is
            analyzed exactly with named sizes; ``"blockwise"`` is
            :func:`equipoise.attention.dot_product_attention`, in memory linear in n.

    Returns:
        A :class:`Layer` with ``params`` ``attention_norm``, ``attention``, ``feed_forward_norm``
        and ``feed_forward``; ``attention`` holds those of
        :func:`equipoise.attention.multi_head_attention`. If causal, its state is the
        :class:`equipoise.attention.KVCache` of ``max_length`` positions, or a ring of ``window``;
        a step past ``max_length`` gives nan.

    Raises:
        ValueError: If a size is below one or does not parse, the heads do not divide the width,
            the implementation is unknown, ``x`` is not (n, d), or ``step`` is asked of a block
            that is not causal.

    Cost: 24·n·d² + 4·n²·d FLOPs with the default hidden width.

    Examples:
        >>> block = layers.transformer_block(4, num_heads=2)
        >>> params = block.init(jax.random.key(0))
        >>> block.apply(params, jnp.ones((5, 4))).shape
        (5, 4)

    References:
        :cite:t:`vaswani2017`, section 3.1; :cite:t:`xiong2020layer`, figure 1b.
    """
    width, num_heads = size("width", width), size("num_heads", num_heads)
    each = head_size(width, num_heads)
    choice("implementation", implementation, ("plain", "blockwise"))
    last = None if window is None else less_one(size("window", window))
    attention = multi_head_attention(
        width,
        num_heads,
        head_size=each,
        local_window_size=last,
    )
    attention_norm, feed_forward_norm = layer_norm(width), layer_norm(width)
    mlp = feed_forward(width, hidden=hidden)

    def rest(params: PyTree, z: Array) -> Array:
        normal = feed_forward_norm.apply(params["feed_forward_norm"], z)
        return z + mlp.apply(params["feed_forward"], normal)

    def apply(params: PyTree, x: Array) -> Array:
        normal = attention_norm.apply(params["attention_norm"], x)
        read = attention.apply(
            params["attention"], normal, is_causal=is_causal, implementation=implementation
        )
        return rest(params, x + read)

    def init_state(params: PyTree, max_length: int) -> KVCache:
        length = positive_integer("max_length", max_length)
        weight = params["attention"]["key"]
        capacity = length if window is None else resolve("window", window, weight)
        return attention.init_cache(capacity, dtype=weight.dtype, ring=window is not None)

    def step(params: PyTree, state: KVCache, x_t: Array) -> tuple[KVCache, Array]:
        normal = attention_norm.apply(params["attention_norm"], x_t[None])
        state, read = attention.step(
            params["attention"], state, normal, implementation=implementation
        )
        return state, rest(params, x_t[None] + read)[0]

    weights = {
        "attention_norm": attention_norm.weights,
        "attention": attention.weights,
        "feed_forward_norm": feed_forward_norm.weights,
        "feed_forward": mlp.weights,
    }
    if not is_causal:
        refused = no_step("Make it with is_causal=True.")
        return Layer("transformer_block", weights, apply, *refused)
    return Layer("transformer_block", weights, apply, init_state, step)


@at("layers.stack")
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
    if not isinstance(layer, Layer):
        raise type_error("layer", "must be a layer of this area", layer)
    num_layers = size("num_layers", num_layers)

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
