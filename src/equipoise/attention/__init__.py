"""Exact softmax attention in linear memory, differentiable to any order."""

from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._mask_values import (
    causal,
    from_function,
    prefix,
    segments,
    sliding_window,
)
from equipoise.attention._reference import reference_attention

__all__ = [
    "causal",
    "dot_product_attention",
    "from_function",
    "prefix",
    "reference_attention",
    "segments",
    "sliding_window",
]
