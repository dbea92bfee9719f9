"""One attention problem in normal form, a block of it, the same arrays cut, and its scores."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from equipoise._jax.varying import alike
from equipoise._types import Array, PyTree, record, static_field
from equipoise.attention._kernel.grid import Index
from equipoise.attention._kernel.operations import both, clean, heads_first, only, product
from equipoise.attention._masks.functions import Hoisted
from equipoise.attention._masks.mask import Indices, Mask


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums of this dtype are taken in: float32 or wider."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


@record
class Problem:
    """Everything that decides the weights, in the layout that all algorithms share.

    Attributes:
        query: q, shape (b, t, n, h): n / k = g query heads in a row read the same key head.
        key: k, shape (b, s, k, h).
        value: v, shape (b, s, k, e).
        scale: c, a Python number where it is known while tracing, otherwise a scalar.
        offset: Position of the first query, a Python integer where it is known, or (b or 1,).
        bias: Added to the scores, shape (b or 1, n or 1, t or 1, s or 1), or None.
        allowed: Boolean array of such a shape, or None.
        mask: A mask value, or None.
        captured: The arrays that the score function captured.
        kept: Random words of each row (b, n, t) and of each key (s,) for dropout, or None.
        soft_cap: The bound on the scores, a scalar, or None.
        sinks: A logit for each query head, (n,), or None.
        score_fn: The score function, or None.
        dropout_rate: The probability that a weight is dropped.
    """

    query: Array
    key: Array
    value: Array
    scale: float | Array
    offset: int | Array
    bias: Array | None
    allowed: Array | None
    mask: Mask | None
    captured: tuple[Array, ...]
    kept: tuple[Array, Array] | None
    soft_cap: Array | None
    sinks: Array | None
    score_fn: Hoisted | None = static_field()
    dropout_rate: float = static_field()

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """(b, t, s, k, g)."""
        b, t, n, _ = self.query.shape
        s, k = self.key.shape[1:3]
        return b, t, s, k, n // k

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of scores, sums and weights: at least float32."""
        return wide(self.query.dtype)

    @property
    def masked(self) -> bool:
        """Whether there may be pairs that do not attend, whose vectors must then reach nothing."""
        masks = self.mask, self.allowed, self.bias, self.score_fn
        return any(x is not None for x in masks)

    def cleaned(self) -> "Problem":
        """Where pairs may not attend, with 0 for what is not finite of queries, keys and values.

        So nothing of them reaches a derivative through a weight of 0.
        """
        if not self.masked:
            return self
        query, key, value = map(clean, (self.query, self.key, self.value))
        return dataclasses.replace(self, query=query, key=key, value=value)

    def as_arrays(self) -> "Problem":
        """The problem with nothing but arrays for leaves, to trace and to differentiate.

        They vary over the same axes of a mesh, so that derivatives inside need not tell them apart.
        """
        arrays = dataclasses.replace(
            self,
            scale=_array(self.scale, self.dtype),
            offset=_array(self.offset, jnp.int32).reshape(-1),
        )
        leaves, structure = jax.tree.flatten(arrays)
        return jax.tree.unflatten(structure, alike(leaves))


def _array(number: float | Array, dtype: DTypeLike) -> Array:
    """The number as an array: of NumPy where it is known, so that no program makes it."""
    known = isinstance(number, (int, float))
    found: PyTree = np.asarray(number, dtype) if known else jnp.asarray(number, dtype)
    return found


class Block(NamedTuple):
    """A problem whose arrays were cut to some rows and keys, and where those lie in the whole.

    ``head`` is the first query head, ``rows`` (t,) and ``keys`` (s,) are indices, ``entry`` is
    the first entry of the batch.
    """

    problem: Problem
    head: int | Index
    rows: Array
    keys: Array
    entry: int | Array = 0


def whole(problem: Problem) -> Block:
    """All rows and all keys."""
    _, t, s, _, _ = problem.sizes
    return Block(problem, 0, jnp.arange(t, dtype=jnp.int32), jnp.arange(s, dtype=jnp.int32))


def some_rows(problem: Problem, first: Array, size: int) -> Block:
    """Some rows with all keys; without dropout, whose words stay behind."""
    _, t, s, _, _ = problem.sizes

    def cut(x: Array | None, axis: int) -> Array | None:
        if x is None or x.shape[axis] != t:
            return x
        return jax.lax.dynamic_slice_in_dim(x, first, size, axis)

    rows = dataclasses.replace(
        problem,
        query=jax.lax.dynamic_slice_in_dim(problem.query, first, size, 1),
        bias=cut(problem.bias, 2),
        allowed=cut(problem.allowed, 2),
        kept=None,
    )
    return Block(rows, 0, first + jnp.arange(size, dtype=jnp.int32), jnp.arange(s, dtype=jnp.int32))


def indices(block: Block) -> Indices:
    """The indices of a block's pairs."""
    problem = block.problem
    b, _, _, k, g = problem.sizes
    offset = _array(problem.offset, jnp.int32).reshape(-1)
    return Indices(block.rows, block.keys, offset, block.head, k * g, b, first_batch=block.entry)


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
