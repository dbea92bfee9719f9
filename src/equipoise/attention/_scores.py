"""Scores, permission and dropout of one block of (row, key) pairs, from the arrays of the block."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._masks import Indices
from equipoise.attention._problem import Problem


class Block(NamedTuple):
    """The rows and keys of a block, with what belongs to its pairs.

    ``query`` (b, t, n, h), ``key`` (b, s, k, h), ``first_head`` the index of the first query head,
    ``rows`` (t,), ``keys`` (s,), ``bias`` and ``allowed`` as in :class:`Problem`, ``row_words``
    (b, n, t) and ``key_words`` (s,) or None.
    """

    query: Any
    key: Any
    first_head: Any
    rows: Any
    keys: Any
    bias: Any
    allowed: Any
    row_words: Any
    key_words: Any


def indices(problem: Problem, block: Block) -> Indices:
    """The indices of a block's pairs."""
    b, _, _, k, g = problem.sizes
    row = block.rows[None, None, :, None]
    offset = jnp.asarray(problem.offset, jnp.int32).reshape(-1, 1, 1, 1)
    return Indices(
        jnp.arange(b, dtype=jnp.int32)[:, None, None, None],
        (block.first_head + jnp.arange(k * g, dtype=jnp.int32))[None, :, None, None],
        row,
        row + offset,
        block.keys[None, None, None, :],
    )


def scores(problem: Problem, block: Block) -> tuple[Array, Array | None]:
    """(scores, permission), the first (b, n, t, s), the second broadcasting to it or None.

    Scores of pairs that may not attend are finite and mean nothing.
    """
    b, _, _, k, g = problem.sizes
    dtype = problem.dtype
    t, s = len(block.rows), len(block.keys)
    query = jnp.swapaxes(block.query.astype(dtype) * problem.scale, 1, 2)
    key = jnp.swapaxes(block.key.astype(dtype), 1, 2)
    # Query heads that share a key head are further rows of one product.
    score = jnp.einsum("bkrh,bksh->bkrs", query.reshape(b, k, g * t, -1), key)
    score = score.reshape(b, k * g, t, s)
    at = indices(problem, block)
    parts = []
    if block.allowed is not None:
        parts.append(block.allowed)
    if problem.mask is not None:
        parts.append(problem.mask.allowed(at))
    bias = None
    if block.bias is not None:
        bias = block.bias.astype(dtype)
        parts.append(~jnp.isneginf(bias))
        bias = jnp.where(parts[-1], bias, 0)
    allowed = None
    for part in parts:
        allowed = part if allowed is None else allowed & part
    if allowed is not None:
        # Masked first, so that nothing that a masked key holds enters what follows.
        score = jnp.where(allowed, score, 0)
    if bias is not None:
        score = score + bias
    if problem.soft_cap is not None:
        score = problem.soft_cap * jnp.tanh(score / problem.soft_cap)
    if problem.score_fn is not None:
        scalars = (score, at.batch, at.head, at.query, at.key)
        score = problem.score_fn(problem.captured, scalars).astype(dtype)
        reached = ~jnp.isneginf(score)
        score = jnp.where(reached, score, 0)
        allowed = reached if allowed is None else allowed & reached
    return score, allowed


def dropout(problem: Problem, block: Block) -> Array | None:
    """What each weight of the block is multiplied by: 0 or 1 / (1 - rate), (b, n, t, s)."""
    if block.row_words is None:
        return None
    word = block.row_words[..., None] ^ block.key_words[None, None, None]
    # Two rounds of multiply and shift mix the words of row and key (MurmurHash3's finalizer).
    for factor, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        word = (word ^ (word >> 16)) * jnp.uint32(factor)
        word = word ^ (word >> shift)
    threshold = jnp.uint32(min(int(problem.dropout_rate * 2**32), 2**32 - 1))
    return jnp.where(word >= threshold, 1 / (1 - problem.dropout_rate), 0).astype(problem.dtype)
