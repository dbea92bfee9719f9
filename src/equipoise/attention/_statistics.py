"""What attention weights look like, a block of rows at a time."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from equipoise._check import at, floating_array, positive_integer, value_error
from equipoise._types import Array, Bool, Float, Int, PyTree, result
from equipoise.attention._kernel.grid import int32, is_named, least
from equipoise.attention._kernel.mesh import axes_of, place, placed, placed_by
from equipoise.attention._kernel.operations import only
from equipoise.attention._kernel.problem import Problem, scores, some_rows
from equipoise.attention._masks.mask import Mask
from equipoise.attention._request import problem_of

_Limits: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
# Scores of a block held at once, when the caller does not say.
_BLOCK_SCORES = 2**20


@result
class AttentionStatistics:
    """Summary of the weights of every row.

    Attributes:
        entropy: −Σ α log α in nats, the sink included, ``(*batch, t, n)``.
        top_weights: The largest weights, largest first, ``(*batch, t, n, top_k)``; 0 where fewer
            keys may be read.
        top_indices: Their keys; −1 where fewer may be read.
        key_mass: Weight that each key gets from all rows, ``(*batch, s, n)``.
        log_sum_exp: Log-sum-exp of the scores and the sink, ``(*batch, t, n)``.
        block: Weights of the chosen block, ``(*batch, n, rows, keys)``, or None.
    """

    entropy: Float[Array, "*batch t n"]
    top_weights: Float[Array, "*batch t n top_k"]
    top_indices: Int[Array, "*batch t n top_k"]
    key_mass: Float[Array, "*batch s n"]
    log_sum_exp: Float[Array, "*batch t n"]
    block: Float[Array, "*batch n rows keys"] | None


# So that a program that returns one can be exported and loaded.
export.register_pytree_node_serialization(
    AttentionStatistics,
    serialized_name="equipoise.attention.AttentionStatistics",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)


def _places(arguments: dict[str, PyTree]) -> AttentionStatistics:
    query = arguments["query"]
    *batch, _, head, _ = axes_of(query)
    rows, tops = place(query, without=1), place(query, without=1, beside=1)
    block = None if arguments["block"] is None else placed(*batch, head, None, None)
    places: PyTree = AttentionStatistics
    mass = placed(*batch, None, head)
    return places(rows, tops, tops, mass, rows, block)


@at("attention.attention_statistics")
@placed_by(_places)
def attention_statistics(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    scale: float | Float[Array, ""] | None = None,
    logits_soft_cap: float | None = None,
    sinks: Float[Array, " n"] | None = None,
    query_offset: int | Int[Array, "*batch"] = 0,
    score_fn: Callable[..., Array] | None = None,
    top_k: int = 1,
    block: tuple[tuple[int, int], tuple[int, int]] | None = None,
    block_size: int | None = None,
) -> AttentionStatistics:
    r"""Entropy, largest weights and mass per key, without the matrix of weights.

    .. math::

        H_i = L_i - \sum_j \alpha_{ij} s_{ij}, \qquad \alpha_{ij} = e^{s_{ij} - L_i}, \qquad
        \text{mass}_j = \sum_i \alpha_{ij}

    Args:
        query: q. Shape ``(*batch, t, n, h)``.
        key: k. Shape ``(*batch, s, k, h)``.
        bias: Added to the scores. Broadcasts to ``(*batch, n, t, s)``.
        mask: A boolean array of that shape, or a mask value such as ``attention.causal()``.
        scale: Factor on q·k. Default 1/√h.
        logits_soft_cap: x ↦ cap·tanh(x/cap), after the bias.
        sinks: Logit per head that takes weight.
        query_offset: Position of the first row.
        score_fn: ``f(score, batch, head, q_index, k_index)`` on scalars, after the cap.
        top_k: How many of the largest weights of a row to keep.
        block: ((first row, end), (first key, end)) of weights to return as they are.
        block_size: Rows held at once. Affects time and memory, not the result beyond rounding.

    Returns:
        :class:`AttentionStatistics` in float32 at least. A row that reads nothing has entropy 0,
        weights 0 and log-sum-exp −inf. Everything but ``top_indices`` can be differentiated.

    Raises:
        ValueError: If shapes disagree as :func:`dot_product_attention` says, ``top_k`` is not
            between 1 and s (1 where there are no keys), or ``block`` does not lie within t × s.
        TypeError: If dtypes are wrong, as :func:`dot_product_attention` says.

    Cost: 2·n·t·s·h FLOPs; O(n·s·block_size) memory besides the result.

    Examples:
        >>> x = jnp.eye(4)[:, None, :]
        >>> found = attention.attention_statistics(
        ...     x, x, mask=attention.causal(), scale=0.0)
        >>> print(np.round(jnp.exp(found.entropy[:, 0]).tolist(), 3))  # keys that each row reads
        [1. 2. 3. 4.]
        >>> print(np.round(found.key_mass[:, 0].tolist(), 3))
        [2.083 1.083 0.583 0.25 ]

    References:
        :cite:t:`clark2019`, section 3, for entropy and mass as measures.
    """
    key = floating_array("key", key)
    problem = problem_of(
        query,
        key,
        key,  # whose values do not matter
        bias,
        mask,
        scale=scale,
        logits_soft_cap=logits_soft_cap,
        sinks=sinks,
        query_offset=query_offset,
        score_fn=score_fn,
    )
    b, t, s, heads, group = problem.sizes
    n = heads * group
    top_k = positive_integer("top_k", top_k)
    if not is_named(s) and top_k > max(s, 1):
        raise value_error("top_k", f"must be at most the number of keys, {s}", top_k)
    if block_size is None:
        scores_of_row = 1 if is_named(b, n, s) else b * n * s
        block_size = min(256, -(-_BLOCK_SCORES // max(scores_of_row, 1)))
    block_size = positive_integer("block_size", block_size)
    limits = None if block is None else _limits(block, t, s)
    return _measured(problem.as_arrays(), jnp.shape(query)[:-3], top_k, block_size, limits)


@functools.partial(jax.jit, static_argnames=("batch", "top_k", "block_size", "limits"), inline=True)
def _measured(
    problem: Problem, batch: tuple[int, ...], top_k: int, block_size: int, limits: _Limits | None
) -> AttentionStatistics:
    """The statistics of a problem, a block of rows after another; one program where eager."""
    b, t, s, heads, group = problem.sizes
    size = least(t, block_size if is_named(t) else min(block_size, t))
    count = -(-t // block_size)
    # Keys that no row may read stand in for those that there may not be.
    missing = top_k if is_named(s) else max(top_k - s, 0)

    # Rematerialized, so that a derivative does not keep the scores of every block.
    @jax.checkpoint
    def step(mass: Array, start: Array) -> tuple[Array, tuple[Array, ...]]:
        # The last block is moved back inside; rows that it shares count for the mass once.
        first = jnp.minimum(start, int32(t - size))
        score, allowed, lse = _rows(problem, first, size)
        weight = _weights(score, allowed, lse)
        entropy = jnp.where(jnp.isneginf(lse), 0, lse) - jnp.sum(weight * score, axis=-1)
        if problem.sinks is not None:
            sink = problem.sinks.astype(lse.dtype)[None, :, None]
            entropy = entropy - jnp.exp(sink - lse) * sink
        entropy = jnp.where(jnp.isneginf(lse), 0, entropy)
        readable = weight if allowed is None else jnp.where(allowed, weight, -1)
        if missing:
            readable = jnp.pad(readable, (*[(0, 0)] * 3, (0, missing)), constant_values=-1)
        top, index = jax.lax.top_k(readable, top_k)
        new = first + jnp.arange(size, dtype=jnp.int32) >= start
        mass = mass + jnp.einsum("bnrs,r->bns", weight, new.astype(weight.dtype))
        return mass, (entropy, jnp.maximum(top, 0), jnp.where(top < 0, -1, index), lse)

    # A sum over no rows: zeros that vary over the same devices as the inputs under shard_map.
    empty = jnp.einsum("btnh,bskh->bns", problem.query[:, :0], problem.key).astype(problem.dtype)
    mass, rows = jax.lax.scan(step, empty, jnp.arange(count, dtype=jnp.int32) * int32(size))

    def joined(x: Array) -> Array:
        """(count, b, n, size, ...) as (*batch, t, n, ...), without the rows seen twice."""
        x = jnp.moveaxis(x, (0, 3), (1, 2))
        x = x.reshape(b, count * size, *x.shape[3:])
        if count * size != t:
            row = jnp.arange(t, dtype=jnp.int32)
            moved = jnp.where(row < int32((count - 1) * size), 0, int32(count * size - t))
            x = x.at[:, row + moved].get(mode="promise_in_bounds", unique_indices=True)
        return x.reshape(*batch, *x.shape[1:])

    entropy, top_weights, top_indices, lse = map(joined, rows)
    chosen = None
    if limits is not None:
        (r0, r1), (c0, c1) = limits
        score, allowed, total = _rows(problem, jnp.int32(r0), r1 - r0)
        chosen = _weights(score, allowed, total)[..., c0:c1]
        chosen = chosen.reshape(*batch, *chosen.shape[1:])
    return AttentionStatistics(
        entropy=entropy,
        top_weights=top_weights,
        top_indices=top_indices,
        key_mass=jnp.moveaxis(mass, 1, 2).reshape(*batch, s, heads * group),
        log_sum_exp=lse,
        block=chosen,
    )


def _rows(problem: Problem, first: Array, size: int) -> tuple[Array, Array | None, Array]:
    """Scores (b, n, size, s), permission and log-sum-exp (b, n, size) of some rows, all keys."""
    b, _, s, heads, group = problem.sizes
    shape = (b, heads * group, size, s)
    score, allowed = scores(some_rows(problem, first, size))
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed, shape)
    masked = score if allowed is None else only(score, allowed, -jnp.inf)
    if problem.sinks is not None:
        sink = problem.sinks.astype(score.dtype)[None, :, None, None]
        masked = jnp.concatenate([masked, jnp.broadcast_to(sink, (*shape[:-1], 1))], axis=-1)
    lowest = np.finfo(score.dtype).min
    top = jax.lax.stop_gradient(jnp.max(masked, axis=-1, initial=lowest))
    total = jnp.sum(jnp.exp(masked - top[..., None]), axis=-1)
    reached = total > 0
    lse = only(jnp.log(only(total, reached, 1)) + top, reached, -jnp.inf)
    return score, allowed, lse


def _weights(score: Array, allowed: Array | None, lse: Array) -> Array:
    shift = jnp.where(jnp.isneginf(lse), 0, lse)[..., None]
    if allowed is None:
        return jnp.exp(score - shift)
    return jnp.where(allowed, jnp.exp(jnp.where(allowed, score - shift, 0)), 0)


def _limits(block: _Limits, t: int, s: int) -> _Limits:
    pairs = []
    for (first, end), length in zip(block, (t, s), strict=True):
        if not 0 <= first < end <= length:
            raise value_error(
                "block", f"must be two ranges (first, end) within {t} rows, {s} keys", block
            )
        pairs.append((int(first), int(end)))
    return pairs[0], pairs[1]
