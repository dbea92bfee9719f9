"""Sequence layers as values: each acts on one sequence (n, d); take ``jax.vmap`` for a batch.

A layer has ``init(key)``, ``apply(params, x)`` and, if it reads no later position,
``init_state(params, max_length)`` and ``step(params, state, x_t)``, equal to ``apply``.
"""

from equipoise.layers._attention import self_attention
from equipoise.layers._convolution import convolution
from equipoise.layers._layer import Layer
from equipoise.layers._linear_attention import linear_attention
from equipoise.layers._pointwise import feed_forward, layer_norm
from equipoise.layers._recurrent import elman_rnn, gru
from equipoise.layers._transformer import stack, transformer_block

__all__ = [
    "Layer",
    "convolution",
    "elman_rnn",
    "feed_forward",
    "gru",
    "layer_norm",
    "linear_attention",
    "self_attention",
    "stack",
    "transformer_block",
]
