"""Exact softmax attention in linear memory, differentiable to any order."""

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

__all__ = [
    "LOOKUP_REASONS",
    "LookupErrorBound",
    "LookupQuery",
    "NoisyLookup",
    "lookup_error_bound",
    "lookup_margin",
    "lookup_query",
    "lookup_sharpness",
    "noisy_lookup",
]
