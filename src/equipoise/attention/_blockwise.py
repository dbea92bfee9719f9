"""Attention by blocks of queries, each rematerialized: linear memory at any order."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._problem import Problem
from equipoise.attention._scores import Block, dropout, scores


def softmax_block(problem: Problem, block: Block, value: Array) -> tuple[Array, Array]:
    """(o, lse) of whole rows: o (b, t, k, g, e) and lse (b, t, k, g)."""
    score, allowed = scores(problem, block)
    masked = score if allowed is None else jnp.where(allowed, score, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(masked, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(jnp.isneginf(top), 0, top)
    weight = jnp.exp(score - top)
    if allowed is not None:
        weight = jnp.where(allowed, jnp.exp(jnp.where(allowed, score - top, 0)), 0)
    total = jnp.sum(weight, axis=-1)
    empty = total == 0
    safe = jnp.where(empty, 1, total)
    lse = jnp.where(empty, -jnp.inf, jnp.log(safe) + top[..., 0])
    factor = dropout(problem, block)
    if factor is not None:
        weight = weight * factor
    finite = jnp.isfinite(value)
    value = value.astype(weight.dtype)
    out = jnp.einsum("bkgts,bske->btkge", weight, jnp.where(finite, value, 0))
    if allowed is not None:
        bad = jnp.where(finite, 0, jnp.nan)
        del bad
    to_rows = functools.partial(jnp.moveaxis, source=-1, destination=1)
    return out / to_rows(safe)[..., None], to_rows(lse)


def blockwise(problem: Problem, block_size: int | None) -> tuple[Array, Array]:
    """(o, lse) of the whole problem, a block of queries at a time."""
    b, t, s, k, g = problem.sizes
    size = min(block_size or 256, max(t, 1))
    count = -(-t // size)
    pad = count * size - t

    def rows(x: Any, axis: int) -> Any:
        if x is None or x.shape[axis] == 1:
            return None
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(x.reshape(count, size, *x.shape[1:]), 1, axis + 1)

    moving = (
        rows(problem.query, 1),
        None if problem.bias is None else rows(problem.bias, 2),
        None if problem.allowed is None else rows(problem.allowed, 2),
        None if problem.kept is None else rows(problem.kept[0], 2),
        jnp.arange(count, dtype=jnp.int32) * size,
    )

    @jax.checkpoint
    def body(args: Any) -> tuple[Array, Array]:
        query, bias, allowed, row_words, start = args
        block = Block(
            query,
            problem.key,
            start + jnp.arange(size, dtype=jnp.int32),
            jnp.arange(s, dtype=jnp.int32),
            problem.bias if bias is None else bias,
            problem.allowed if allowed is None else allowed,
            row_words if row_words is not None else (problem.kept and problem.kept[0]),
            problem.kept and problem.kept[1],
        )
        return softmax_block(problem, block, problem.value)

    out, lse = jax.lax.map(body, moving)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(b, count * size, *x.shape[3:])[:, :t]

    return join(out), join(lse)
