"""Attention problems that the tests share: small, ragged, each with another option."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention

B, T, S, N, K, H, E = 2, 21, 27, 4, 2, 5, 3
_rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(_rng.normal(size=shape))


QUERY, KEY, VALUE = normal(B, T, N, H), normal(B, S, K, H), normal(B, S, K, E)
SLOPES, TABLE = normal(N), normal(T, S)
ROW_IDS = jnp.asarray(np.sort(_rng.integers(0, 4, (B, T)), axis=1))
KEY_IDS = jnp.asarray(np.sort(_rng.integers(1, 5, (B, S)), axis=1))

PROBLEMS = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"local_window_size": (3, 2)},
    "bias": {"bias": normal(N, 1, S), "is_causal": True},
    "pair bias": {"bias": normal(B, 1, T, S)},
    "mask": {"mask": jnp.asarray(_rng.random((B, 1, T, S)) < 0.4)},
    "segments": {"segment_ids": (ROW_IDS, KEY_IDS)},
    "lengths": {
        "query_seq_lengths": jnp.array([5, T], jnp.int32),
        "key_value_seq_lengths": jnp.array([S - 4, 0], jnp.int32),
    },
    "cap and sinks": {"logits_soft_cap": 1.5, "sinks": SLOPES},
    "score function": {
        "score_fn": lambda s, b, h, q, k: (
            s - SLOPES[h] * jnp.sin((q - k).astype(float)) + TABLE[q, k]
        )
    },
    "mask function": {"mask_fn": lambda b, h, q, k: (q + 2 * k + h) % 3 != b},
    "dropout": {"dropout_rate": 0.3, "dropout_key": jax.random.key(1)},
    "composed": {"mask": (attention.causal() | attention.prefix(7)) & ~attention.sliding_window(2)},
    "offset": {"query_offset": jnp.array([3, -4]), "is_causal": True},
    "together": {
        "bias": normal(N, 1, S),
        "is_causal": True,
        "query_offset": 4,
        "local_window_size": (9, None),
        "logits_soft_cap": 2.0,
        "segment_ids": (ROW_IDS, KEY_IDS),
    },
}
