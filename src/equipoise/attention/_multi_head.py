"""The layer of attention from what a user says of its sizes."""

from equipoise._check import at, value_error
from equipoise.attention._heads import MultiHeadAttention
from equipoise.attention._layer.weights import Size, quotient, size


@at("attention.multi_head_attention")
def multi_head_attention(
    model_size: Size,
    num_heads: Size,
    *,
    num_key_heads: Size | None = None,
    head_size: Size | None = None,
    value_size: Size | None = None,
    latent_size: Size | None = None,
    query_latent_size: Size | None = None,
    rotary_base: float | None = None,
    rotary_size: Size | None = None,
    use_bias: bool = False,
    local_window_size: Size | tuple[Size | None, Size | None] | None = None,
    logits_soft_cap: float | None = None,
    scale: float | None = None,
    normalize_keys: bool = False,
    use_sinks: bool = False,
    dropout_rate: float = 0.0,
) -> MultiHeadAttention:
    r"""Attention layer of several heads, as pure ``init``, ``apply`` and ``step``.

    .. math::

        y = \sum_{h=1}^{n} \operatorname{softmax}\!\left(
            \frac{x W^Q_h (c W^K_h)^\top}{\sqrt{d_h}}\right) c\, W^V_h W^O_h

    With a latent each token is represented by c numbers ℓ and one rotated key κ, which is all that
    a cache holds; a head's keys and values are linear maps of them:

    .. math::

        \ell = c\, W^L, \quad k_h = [\,c\, W^{KR};\; \ell\, W^K_h\,], \quad v_h = \ell\, W^V_h,
        \qquad q_h = [\,x\, W^{QR}_h;\; x\, W^Q_h\,]

    It is the library's one layer of attention: ``equipoise.layers`` builds its transformer block on
    it. It has batch axes, contexts and grouped heads for use, and takes named sizes for counting.

    Args:
        model_size: d, features of input and output; a number, or, as all sizes, a name for
            ``cost.analyze``, which takes ``shapes()`` and ``apply`` with
            ``implementation="plain"``.
        num_heads: n, query heads.
        num_key_heads: Key and value heads, a divisor of n; 1 is multi-query. Default n.
        head_size: Features of a query or key. Default d / n.
        value_size: Features of a value. Default ``head_size``.
        latent_size: Numbers of a latent, of which keys and values of all heads are made; 512 in
            DeepSeek-V2. ``step`` reads the latents as they are: W^K goes to the query, W^V to the
            mean of latents. Default none: each head has keys and values of its own.
        query_latent_size: The same for queries; 1536 there. Default none.
        rotary_base: Base of a rotary embedding of queries and keys. Default none.
        rotary_size: How many features are turned: the first ones of a head, all by default; with a
            latent those beside it, by default half of ``head_size``.
        use_bias: Whether projections add a bias; without a latent.
        local_window_size: (left, right) of positions that a row reads, or one number.
        logits_soft_cap: x ↦ cap·tanh(x/cap) on the scores.
        scale: Factor on q·k. Default 1/√h, h with what is turned beside a latent.
        normalize_keys: Whether each query and key, or its latent where there is one, is divided by
            the root of its mean square and multiplied by a weight, before it is turned.
        use_sinks: Whether each head learns a logit that takes weight and gives no value.
        dropout_rate: Probability that a weight is dropped where ``apply`` has a ``dropout_key``.

    Returns:
        :class:`MultiHeadAttention` with ``init(key, dtype)`` → parameters, ``apply(params, inputs,
        context=None, ...)`` → outputs, and for decoding ``init_cache(capacity, ...)`` and
        ``step(params, cache, inputs)`` → (cache, outputs), equal to the causal ``apply``.

    Raises:
        ValueError: If a size is below 1, ``num_key_heads`` does not divide ``num_heads``,
            ``num_heads`` does not divide ``model_size`` where ``head_size`` is not given,
            ``dropout_rate`` lies outside [0, 1), ``rotary_size`` is given without ``rotary_base``,
            or a latent with key heads of their own or biases.
        TypeError: If a size is neither a Python integer nor a string.

    Cost: 4·t·d·(n·h + k·h) + 4·n·t·s·h FLOPs for h = e; memory linear in t. The cache has k·(h + e)
        numbers per token, or with a latent of c numbers c + r, and then a step over s tokens takes
        4·n·s·(c + r) FLOPs and 2·n·c·(h + e) to absorb the maps.

    Examples:
        >>> layer = attention.multi_head_attention(8, 4, num_key_heads=2, rotary_base=1e4)
        >>> params = layer.init(jax.random.key(0))
        >>> y = layer.apply(params, jnp.ones((2, 5, 8)), is_causal=True)
        >>> print(y.shape)
        (2, 5, 8)
        >>> latent = attention.multi_head_attention(
        ...     64, 4, latent_size=24, rotary_base=1e4, rotary_size=8)
        >>> print(latent.init_cache(100).key.shape)
        (100, 1, 32)

    References:
        :cite:t:`vaswani2017`, section 3.2.2; :cite:t:`ainslie2023gqa`; :cite:t:`henry2020qknorm`
        for norms of queries and keys; :cite:t:`xiao2024sinks` for sinks; :cite:t:`deepseek2024v2`,
        section 2.1 and appendix C, for the latent.
    """
    if not 0 <= dropout_rate < 1:
        raise value_error("dropout_rate", "must lie in [0, 1)", dropout_rate)
    d, n = size("model_size", model_size), size("num_heads", num_heads)
    k = n if num_key_heads is None else size("num_key_heads", num_key_heads)
    if quotient(n, k) is None:
        raise value_error("num_key_heads", f"must divide `num_heads`, {n}", str(k))
    each = quotient(d, n) if head_size is None else size("head_size", head_size)
    if each is None:
        raise value_error(
            "num_heads", f"must divide `model_size`, {d}", str(n), "Or pass `head_size`."
        )
    h, e = each, each if value_size is None else size("value_size", value_size)
    c, q = (
        None if width is None else size(name, width)
        for name, width in (("latent_size", latent_size), ("query_latent_size", query_latent_size))
    )
    if c is not None:
        _check_shared(num_key_heads, use_bias=use_bias)
    if rotary_size is not None and rotary_base is None:
        raise value_error("rotary_size", "needs a `rotary_base`", str(rotary_size))
    r = None if rotary_base is None else _rotary_size(rotary_size, h, beside=c is not None)
    return MultiHeadAttention(
        model_size=d,
        num_heads=n,
        num_key_heads=k,
        head_size=h,
        value_size=e,
        latent_size=c,
        query_latent_size=q,
        rotary_base=rotary_base,
        rotary_size=r,
        use_bias=use_bias,
        local_window_size=local_window_size,
        logits_soft_cap=logits_soft_cap,
        scale=scale,
        normalize_keys=normalize_keys,
        use_sinks=use_sinks,
        dropout_rate=dropout_rate,
    )


def _check_shared(num_key_heads: Size | None, *, use_bias: bool) -> None:
    """Raises where keys that are made of a latent are asked for more than that."""
    refused = (("num_key_heads", num_key_heads, None), ("use_bias", use_bias, False))
    for name, came, wanted in refused:
        if came is not wanted:
            raise value_error(
                name, f"must be {wanted} with a `latent_size`, which all heads share", str(came)
            )


def _rotary_size(given: Size | None, h: Size, *, beside: bool) -> Size:
    """How many features are turned: of the h of a head, or beside them."""
    default = quotient(h, 2) if beside else h
    r = default if given is None else size("rotary_size", given)
    if r is None or (isinstance(r, int) and r % 2):
        raise value_error("rotary_size", "must be even", str(h if r is None else r))
    if not beside and isinstance(r, int) and isinstance(h, int) and r > h:
        raise value_error("rotary_size", f"must be at most the head size, {h}", str(r))
    return r
