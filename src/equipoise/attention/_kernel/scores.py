"""Scores, permission and dropout of one block of (row, key) pairs, from the arrays of the block."""

import jax.numpy as jnp
import numpy as np

from equipoise._types import Array
from equipoise.attention._kernel.operations import both, heads_first, only, product
from equipoise.attention._kernel.problem import Block, indices


def scores(block: Block) -> tuple[Array, Array | None]:
    """(scores, permission), the first (b, n, t, s), the second broadcasting to it or None.

    Scores of pairs that may not attend are finite and mean nothing.
    """
    problem = block.problem
    b, t, s, k, g = problem.sizes
    dtype = problem.dtype
    query = heads_first(problem.query.astype(dtype))
    key = heads_first(problem.key.astype(dtype))
    # Query heads that share a key head are further rows of one product.
    score = product(query.reshape(b, k, g * t, query.shape[-1]), key, along=3)
    score = score.reshape(b, k * g, t, s) * problem.scale
    at = indices(block)
    allowed = problem.allowed
    if problem.mask is not None:
        allowed = both(allowed, problem.mask.allowed(at))
    bias = None
    if problem.bias is not None:
        bias = problem.bias.astype(dtype)
        finite = ~jnp.isneginf(bias)
        allowed, bias = both(allowed, finite), jnp.where(finite, bias, 0)
    if allowed is not None:
        # Masked first, so that nothing that a masked key holds enters what follows.
        score = only(score, allowed, 0)
    if bias is not None:
        score = score + bias
    if problem.soft_cap is not None:
        score = problem.soft_cap * jnp.tanh(score / problem.soft_cap)
    if problem.score_fn is not None:
        scalars = (score, at.batch, at.head, at.query, at.key)
        # What the function makes of NaN must not hide it.
        found = problem.score_fn(problem.captured, scalars).astype(dtype)
        score = jnp.where(jnp.isnan(score), score, found)
        reached = ~jnp.isneginf(score)
        score = jnp.where(reached, score, 0)
        allowed = both(allowed, reached)
    return score, allowed


def dropout(block: Block) -> Array | None:
    """What each weight of the block is multiplied by: 0 or 1 / (1 - rate), (b, n, t, s)."""
    problem = block.problem
    if problem.kept is None:
        return None
    rows, keys = problem.kept
    word = rows[..., None] ^ keys[None, None, None]
    # Two rounds of multiply and shift mix the words of row and key (MurmurHash3's finalizer).
    for factor, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        word = (word ^ (word >> 16)) * jnp.uint32(factor)
        word = word ^ (word >> shift)
    threshold = jnp.uint32(min(int(problem.dropout_rate * 2**32), 2**32 - 1))
    kept = np.asarray(1 / (1 - problem.dropout_rate), problem.dtype)
    return jnp.where(word >= threshold, kept, np.zeros_like(kept))
