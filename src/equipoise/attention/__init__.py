"""Exact softmax attention in linear memory, differentiable to any order."""

from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._linear import linear_attention
from equipoise.attention._lookup import (
    LOOKUP_REASONS,
    LookupErrorBound,
    LookupQuery,
    lookup_error_bound,
    lookup_margin,
    lookup_query,
    lookup_sharpness,
)
from equipoise.attention._mask_values import (
    causal,
    from_function,
    prefix,
    segments,
    sliding_window,
)
from equipoise.attention._noisy_lookup import NoisyLookup, noisy_lookup
from equipoise.attention._position import (
    Alibi,
    alibi,
    rotary_embedding,
    rotary_tables,
)
from equipoise.attention._reference import reference_attention

# In teaching order.
__all__ = [  # noqa: RUF022
    "dot_product_attention",
    "reference_attention",
    "causal",
    "sliding_window",
    "segments",
    "prefix",
    "from_function",
    "rotary_embedding",
    "rotary_tables",
    "alibi",
    "Alibi",
    "linear_attention",
    "lookup_query",
    "lookup_margin",
    "lookup_error_bound",
    "lookup_sharpness",
    "LOOKUP_REASONS",
    "LookupQuery",
    "LookupErrorBound",
    "noisy_lookup",
    "NoisyLookup",
]
