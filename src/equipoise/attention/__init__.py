"""Exact softmax attention in linear memory, differentiable to any order."""

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
from equipoise.attention._noisy_lookup import NoisyLookup, noisy_lookup
from equipoise.attention._position import (
    Alibi,
    alibi,
    rotary_embedding,
    rotary_tables,
)

__all__ = [
    "LOOKUP_REASONS",
    "Alibi",
    "LookupErrorBound",
    "LookupQuery",
    "NoisyLookup",
    "alibi",
    "linear_attention",
    "lookup_error_bound",
    "lookup_margin",
    "lookup_query",
    "lookup_sharpness",
    "noisy_lookup",
    "rotary_embedding",
    "rotary_tables",
]
