"""This library's attention in the slot that flax has for one; flax itself is not needed."""

from typing import Unpack

import jax.numpy as jnp
from jax.typing import DTypeLike

from equipoise._check import at, value_error
from equipoise._types import Array, Bool, Float, PRNGKeyArray, PyTree
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._masks.mask import Mask
from equipoise.attention._request import Scoring


@at("attention.flax_attention_fn")
def flax_attention_fn(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Float[Array, "..."] | Mask | None = None,
    *,
    dropout_rng: PRNGKeyArray | None = None,
    dropout_rate: float = 0.0,
    broadcast_dropout: bool = True,
    deterministic: bool = False,
    dtype: DTypeLike | None = None,
    precision: PyTree = None,
    module: object = None,
    **options: Unpack[Scoring],
) -> Float[Array, "*batch t n e"]:
    r"""Attention as flax calls it: the ``attention_fn`` of its multi-head layers.

    .. math::

        y_i = \frac{\sum_j m_{ij}\, e^{s_{ij}}\, v_j}{\sum_j m_{ij}\, e^{s_{ij}}}, \qquad
        s_{ij} = \frac{q_i \cdot k_j}{\sqrt{h}} + b_{ij}

    Pass it to ``flax.nnx.MultiHeadAttention`` or ``flax.linen.MultiHeadDotProductAttention``, with
    options of this library bound by ``functools.partial``.

    Args:
        query: q. Shape ``(*batch, t, n, h)``.
        key: k. Shape ``(*batch, s, k, h)``.
        value: v. Shape ``(*batch, s, k, e)``.
        bias: b, added to the scores. Broadcasts to ``(*batch, n, t, s)``.
        mask: m, an array of that shape of Booleans or of numbers, where what is not 0 attends, as
            flax makes them; or a mask value.
        dropout_rng: Random key of the dropout, where there is some and ``deterministic`` is false.
        dropout_rate: Probability that a weight is dropped; the others grow by 1/(1 − rate).
        broadcast_dropout: Without effect: each weight has its own fate.
        deterministic: Whether nothing is dropped.
        dtype: Type to compute in. Default that of the arrays.
        precision: None; :func:`jax.default_matmul_precision` sets that of all products.
        module: None: the weights that flax would sow here never exist.
        **options: The keyword arguments of :func:`dot_product_attention` from ``scale`` to
            ``mask_fn``, with its meanings.

    Returns:
        y, shape ``(*batch, t, n, e)``. A row with no key is 0; in flax it is the mean of values.

    Raises:
        ValueError: If ``precision`` or ``module`` is given, or as :func:`dot_product_attention`
            says.
        TypeError: As :func:`dot_product_attention` says.

    Cost: as :func:`dot_product_attention`.

    Examples:
        >>> x = jnp.eye(2)[:, None, :]
        >>> causal = jnp.tril(jnp.ones((1, 2, 2)))
        >>> print(attention.flax_attention_fn(x, x, x, mask=causal, deterministic=True)[0, 0])
        [1. 0.]

    References:
        :cite:t:`vaswani2017`, equation 1.
    """
    del broadcast_dropout
    for name, given, advice in (
        ("precision", precision, "Set it for all products: jax.default_matmul_precision."),
        ("module", module, "See what rows read with attention.attention_statistics."),
    ):
        if given is not None:
            raise value_error(name, "must be None", type(given).__name__, advice)
    if mask is not None and not isinstance(mask, Mask):
        mask = jnp.asarray(mask).astype(bool)
    if dtype is None:
        dtype = jnp.result_type(query, key, value)
    query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    return dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        dropout_rate=0.0 if deterministic else dropout_rate,
        dropout_key=dropout_rng,
        **options,
    )
