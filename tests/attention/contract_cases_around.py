import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention
from tests.contract import Case, Pytree, Static

_rng = np.random.default_rng(20)
_KEYS = jnp.asarray(_rng.normal(size=(6, 4)))
_WEIGHTS = jnp.array([0.0, 0.7, 0.0, 0.0, 0.3, 0.0])
_VALUES = jnp.asarray(_rng.normal(size=(6, 3)))


def _noisy_lookup(keys, queries, noise):
    return attention.noisy_lookup(keys, queries, jax.random.key(0), noise=noise, num_samples=64)


_QUERY = jnp.asarray(_rng.normal(size=(2, 7, 4, 6)))
_KEY = jnp.asarray(_rng.normal(size=(2, 7, 2, 6)))
_VALUE = jnp.asarray(_rng.normal(size=(2, 7, 2, 3)))


def _decode_step(query, key, value):
    cache = attention.append_to_cache(
        attention.init_cache(9, 2, 6, value_size=3, batch=(2,), dtype=key.dtype), key, value
    )
    return attention.decode_step(cache, query[:, :1], key[:, :1], value[:, :1])


def _append_to_cache(key, value):
    cache = attention.init_cache(9, 2, 6, value_size=3, batch=(2,), dtype=key.dtype)
    return attention.append_to_cache(cache, key, value)


def _paged():
    return attention.init_cache(8, 2, 6, batch=(2,), page_size=2, num_pages=7)


def _reserved(lengths):
    return attention.reserve_pages(_paged(), lengths)


def _statistics(query, key):
    return attention.attention_statistics(
        query, key, mask=attention.causal(), top_k=2, block_size=3
    )


CASES: dict = {
    "LookupReason": Static("an enumeration of sentences; test_lookup.py reads each"),
    "lookup_query": Case(
        lambda keys, weights, sharpness: attention.lookup_query(keys, weights, sharpness=sharpness),
        (_KEYS, _WEIGHTS, jnp.array(3.0)),
        rtol=1e-11,
    ),
    "lookup_margin": Case(attention.lookup_margin, (_KEYS, _WEIGHTS), rtol=1e-11),
    "lookup_error_bound": Case(
        lambda weights, values, margin: attention.lookup_error_bound(
            weights, values, margin=margin
        ),
        (_WEIGHTS, _VALUES, jnp.array(2.0)),
    ),
    "lookup_sharpness": Case(
        lambda weights, leak: attention.lookup_sharpness(weights, leaked_weight=leak),
        (_WEIGHTS, jnp.array(0.01)),
    ),
    "noisy_lookup": Case(_noisy_lookup, (_KEYS, _KEYS[:2], jnp.ones((6, 4, 1)) * 0.1)),
    "linear_attention": Case(
        lambda q, k, v: attention.linear_attention(q, k, v, is_causal=True, chunk_size=4),
        (_QUERY, _KEY, _VALUE),
    ),
    "rotary_embedding": Case(attention.rotary_embedding, (_QUERY,)),
    "rotary_tables": Case(
        lambda positions: attention.rotary_tables(positions, 4),
        (jnp.arange(5),),
        grad=False,
        why="positions are integers",
    ),
    "alibi": Static("slopes of a number of heads; test_position.py compares them"),
    "Alibi": Pytree(lambda: attention.alibi(3)),
    "attention_statistics": Case(_statistics, (_QUERY, _KEY)),
    "AttentionStatistics": Pytree(lambda: _statistics(_QUERY, _KEY)),
    "multi_head_attention": Static("makes a layer from sizes; test_multi_head.py holds it"),
    "MultiHeadAttention": Pytree(lambda: attention.multi_head_attention(6, 3)),
    "init_cache": Static("zeros of given sizes; test_cache.py fills and reads them"),
    "append_to_cache": Case(_append_to_cache, (_KEY, _VALUE)),
    "decode_step": Case(_decode_step, (_QUERY, _KEY, _VALUE)),
    "reserve_pages": Case(_reserved, (jnp.array([3, 2]),), grad=False, why="pages are numbers"),
    "evict_from_cache": Case(
        lambda lengths, entries: attention.evict_from_cache(_reserved(lengths), entries),
        (jnp.array([3, 2]), jnp.array([1])),
        grad=False,
        why="pages are numbers",
    ),
    "KVCache": Pytree(lambda: attention.init_cache(9, 2, 6)),
    "ring_attention": Static("runs inside shard_map; test_ring.py holds it"),
    "LookupQuery": Pytree(lambda: attention.lookup_query(_KEYS, _WEIGHTS, sharpness=3.0)),
    "LookupErrorBound": Pytree(lambda: attention.lookup_error_bound(_WEIGHTS, _VALUES, margin=2.0)),
    "NoisyLookup": Pytree(lambda: _noisy_lookup(_KEYS, _KEYS[:2], jnp.ones((6, 4, 1)) * 0.1)),
}
