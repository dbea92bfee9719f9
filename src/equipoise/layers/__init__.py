r"""Sequence layers as values: each acts on one sequence (n, d); take ``jax.vmap`` for a batch.

.. math::

    y_{1:n} = \mathrm{apply}(\theta, x_{1:n}), \qquad
    (s_{t+1}, y_t) = \mathrm{step}(\theta, s_t, x_t)

Attention is not among them. :func:`equipoise.attention.multi_head_attention` is its one layer: it
serves batches and decoding, takes named sizes as these do, and ``transformer_block`` is built on
it.

A layer has ``init(key)``, ``apply(params, x)`` and, if it reads no later position,
``init_state(params, max_length)`` and ``step(params, state, x_t)``, equal to ``apply``.
"""

from equipoise._types import legible as _legible
from equipoise.layers._convolution import convolution
from equipoise.layers._layer import Layer
from equipoise.layers._linear_attention import linear_attention
from equipoise.layers._pointwise import feed_forward, layer_norm
from equipoise.layers._recurrent import elman_rnn, gru
from equipoise.layers._transformer import stack, transformer_block

# In teaching order.
__all__ = [  # noqa: RUF022
    "Layer",
    "layer_norm",
    "feed_forward",
    "elman_rnn",
    "gru",
    "convolution",
    "linear_attention",
    "transformer_block",
    "stack",
]

_legible(globals())
