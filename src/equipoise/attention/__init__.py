r"""Exact softmax attention in linear memory, differentiable to any order.

.. math::

    y_i = \frac{\sum_j m_{ij}\, e^{c\, q_i \cdot k_j}\, v_j}{\sum_j m_{ij}\, e^{c\, q_i \cdot k_j}}

Start with ``dot_product_attention``: it takes the arguments of ``jax.nn.dot_product_attention`` and
never forms the matrix of weights. Masks are values that compose, caches decode one token at a time,
and ``attention_statistics`` says what each row reads. The lookup functions turn the question round:
which query copies a value, or averages some, and how wrong can it be?
"""

from equipoise._types import legible as _legible
from equipoise.attention._cache.append import append_to_cache
from equipoise.attention._cache.cache import KVCache
from equipoise.attention._cache.pages import evict_from_cache, reserve_pages
from equipoise.attention._cache.start import init_cache
from equipoise.attention._decode import decode_step
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._flax import flax_attention_fn
from equipoise.attention._heads import MultiHeadAttention
from equipoise.attention._linear import linear_attention
from equipoise.attention._lookup.bound import (
    LookupErrorBound,
    lookup_error_bound,
    lookup_sharpness,
)
from equipoise.attention._lookup.lookup import (
    LookupQuery,
    LookupReason,
    lookup_margin,
    lookup_query,
)
from equipoise.attention._lookup.noisy import NoisyLookup, noisy_lookup
from equipoise.attention._masks.mask import Mask
from equipoise.attention._masks.named import causal, chunked, from_function, sliding_window
from equipoise.attention._masks.packed import document, prefix, segments
from equipoise.attention._masks.tree import tree
from equipoise.attention._multi_head import multi_head_attention
from equipoise.attention._position import (
    Alibi,
    alibi,
    rotary_embedding,
    rotary_tables,
)
from equipoise.attention._reference import reference_attention
from equipoise.attention._ring import ring_attention
from equipoise.attention._statistics import AttentionStatistics, attention_statistics

# In teaching order.
__all__ = [  # noqa: RUF022
    "dot_product_attention",
    "reference_attention",
    "Mask",
    "causal",
    "sliding_window",
    "chunked",
    "segments",
    "document",
    "prefix",
    "tree",
    "from_function",
    "rotary_embedding",
    "rotary_tables",
    "alibi",
    "Alibi",
    "multi_head_attention",
    "MultiHeadAttention",
    "attention_statistics",
    "AttentionStatistics",
    "init_cache",
    "append_to_cache",
    "decode_step",
    "evict_from_cache",
    "reserve_pages",
    "KVCache",
    "ring_attention",
    "linear_attention",
    "flax_attention_fn",
    "lookup_query",
    "lookup_margin",
    "lookup_error_bound",
    "lookup_sharpness",
    "LookupQuery",
    "LookupReason",
    "LookupErrorBound",
    "noisy_lookup",
    "NoisyLookup",
]

_legible(globals())
