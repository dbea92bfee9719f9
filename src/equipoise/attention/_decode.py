"""Decoding a few tokens at a time: keys and values of the past are kept, not computed again."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, value_error
from equipoise._jax.varying import mesh_of
from equipoise._jax.zeros import is_zero
from equipoise._types import Array, Bool, Float, Int, PyTree
from equipoise.attention._cache.append import appended
from equipoise.attention._cache.cache import KVCache, check_cache, places
from equipoise.attention._cache.checks import check_room
from equipoise.attention._cache.program import one_program
from equipoise.attention._cache.read import read, whole
from equipoise.attention._cache.ring import by_position, only_by_position
from equipoise.attention._cache.rows import Rows
from equipoise.attention._dot_product import attended
from equipoise.attention._kernel.blockwise import blockwise
from equipoise.attention._kernel.grid import is_named
from equipoise.attention._kernel.mesh import placed_by
from equipoise.attention._kernel.operations import only
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._masks.kinds import Window
from equipoise.attention._masks.mask import Mask
from equipoise.attention._reference import with_sinks
from equipoise.attention._request import Options, problem_of


@at("attention.decode_step")
@placed_by(places)
def decode_step(
    cache: KVCache,
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch t k h"],
    value: Float[Array, "*batch t k e"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Mask | None = None,
    *,
    entries: Int[Array, " m"] | None = None,
    lengths: Int[Array, "*batch"] | None = None,
    scale: float | Float[Array, ""] | None = None,
    local_window_size: Window = None,
    logits_soft_cap: float | None = None,
    segment_ids: tuple[Int[Array, "*batch t"], Int[Array, "*batch capacity"]] | None = None,
    sinks: Float[Array, " n"] | None = None,
    score_fn: Callable[..., Array] | None = None,
    mask_fn: Callable[..., Array] | None = None,
    implementation: str | None = None,
    return_residual: bool = False,
) -> tuple[KVCache, Float[Array, "*batch t n e"] | PyTree]:
    r"""Causal attention of the next tokens to themselves and all tokens before them.

    .. math::

        y_{\ell + i} = \sum_{j \le \ell + i} \alpha_{ij} v_j, \qquad \ell = \text{length}

    The rows ℓ, …, ℓ + t − 1 of the full causal computation, ℓ being each entry's own where they
    have lengths of their own. Rotate query and key beforehand, with ``offset=cache.length``, or
    ``positions=cache.length[:, None] + jnp.arange(t)``.

    Args:
        cache: The ℓ tokens so far.
        query: q of the new tokens. Shape ``(*batch, t, n, h)``; usually t = 1.
        key: k of the new tokens. Shape ``(*batch, t, k, h)``.
        value: v of the new tokens. Shape ``(*batch, t, k, e)``; without features (e = 0) where the
            keys are read as values.
        bias: b, added to the scores. Broadcasts to ``(*batch, n, t, capacity)``. Not for a ring.
        mask: m, a boolean array of that shape or a mask value, beside the causal one. Not for a
            ring.
        entries: As in :func:`append_to_cache`: whose tokens these are; m stands for ``*batch``.
        lengths: As in :func:`append_to_cache`: rows of each entry; later ones are 0.
        scale: Factor on q·k. Default 1/√h.
        local_window_size: (left, right) of positions around each; right is 0 in effect. Numbers
            for a ring.
        logits_soft_cap: x ↦ cap·tanh(x/cap) on the scores.
        segment_ids: Ids of the new tokens and of all positions; only equal ids attend. Not for a
            ring.
        sinks: Logit per head that takes weight.
        score_fn: ``f(score, batch, head, q_index, k_index)``, indices are positions; ``batch``
            counts the rows of ``query``.
        mask_fn: ``f(batch, head, q_index, k_index)``, indices are positions.
        implementation: As in :func:`dot_product_attention`.
        return_residual: Whether y comes with the log-sum-exp of its scores (and sink).

    Returns:
        (cache, y), y of shape ``(*batch, t, n, e)`` in the dtype of ``query``, e = h where keys are
        read as values; with ``return_residual`` (cache, (y, log-sum-exp)). Rows of tokens that
        found no room in the cache are NaN, and so are rows that may read a page that the table
        does not name; other entries are as ever. A ring without a window reads the last
        capacity − t tokens before each new one. Derivatives of any order are those of the whole
        computation, and cost as much as one over the capacity.

    Raises:
        ValueError: If shapes do not fit the cache, a ring is too small for the window or is given
            what is not told by position, or as in :func:`append_to_cache`.
        TypeError: If an array is not floating-point, or ``cache`` is no :class:`KVCache`.

    Cost: 2·n·t·L·(h + e) FLOPs, L the tokens so far, or left + t with a window, in whole blocks of
        keys or pages; whatever the capacity of the cache and the lengths of other entries, if it
        is donated. A ring reads its whole capacity; ``vmap`` over caches copies them, and all read
        as many blocks as the longest; so do, without a copy, arrays on a mesh outside of
        ``jax.shard_map``.

    Examples:
        >>> cache = attention.init_cache(8, 1, 1)
        >>> for token in (1.0, 2.0, 3.0):
        ...     x = jnp.full((1, 1, 1), token)
        ...     cache, y = attention.decode_step(cache, 0 * x, x, x)
        >>> print(y[0, 0], cache.length)
        [2.] 3

    References:
        :cite:t:`shazeer2019fast`, section 2.4; :cite:t:`kwon2023paged`, section 4.1.
    """
    check_cache(cache)
    check_room(cache, key, entries, lengths)
    scoring = Options(scale=scale, logits_soft_cap=logits_soft_cap, sinks=sinks)
    masking = Options(local_window_size=local_window_size, segment_ids=segment_ids)
    functions = Options(score_fn=score_fn, mask_fn=mask_fn)
    options: Options = {**scoring, **masking, **functions}
    new = query, key, value
    cache, y, lse = _decode(cache, *new, bias, mask, entries, lengths, implementation, options)
    return cache, ((y, lse) if return_residual else y)


@one_program
def _decode(
    cache: KVCache,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    mask: Array | Mask | None,
    entries: Array | None,
    lengths: Array | None,
    implementation: str | None,
    options: Options,
) -> tuple[KVCache, Array, Array]:
    query = floating_array("query", query)
    if query.ndim < 3 or query.shape[:-2] != jnp.shape(key)[:-2]:
        raise value_error("query", "must have the batch axes and tokens of `key`", query)
    start, t = cache.length, query.shape[-3]
    cache, rows, kept = appended(cache, key, value, entries, lengths)
    options["query_offset"] = rows.start.reshape(rows.batch) if cache.ragged else start
    if lengths is not None:
        options["query_seq_lengths"] = rows.count.reshape(rows.batch)
    if cache.ring:
        only_by_position(bias=bias, mask=mask, segment_ids=options["segment_ids"])
        asked = options["local_window_size"], options["score_fn"], options["mask_fn"]
        options = {**options, **by_position(cache, rows, t, *asked)}
    else:
        options["is_causal"] = True
    stored = cache
    if not cache.value.shape[-1]:
        stored = dataclasses.replace(cache, value=cache.key, value_scale=cache.key_scale)
    # The problem of the whole, of whose keys and values the sizes alone are read.
    zero, tokens = jnp.zeros((), query.dtype), (*rows.batch, cache.capacity)
    problem = problem_of(
        query,
        jnp.broadcast_to(zero, tokens + stored.key.shape[-2:]),
        jnp.broadcast_to(zero, tokens + stored.value.shape[-2:]),
        bias,
        mask,
        **options,
    )
    divided = mesh_of(query).auto_axes or is_named(*tokens)
    if divided or implementation not in (None, "blockwise", "xla"):
        keys, values = whole(stored, rows, query.dtype)
        in_full = dataclasses.replace(problem, key=keys, value=values)
        y, lse = attended(in_full, implementation, None)
    else:
        alone = dataclasses.replace(problem, sinks=None, key=problem.key[:, :0], value=zero)
        y, lse = _read(alone.as_arrays(), stored, rows)
    y, lse = with_sinks(y, lse, problem.sinks)
    if not cache.ring:
        late = jnp.arange(t, dtype=jnp.int32)[None] >= rows.count[:, None]
        found = (kept | late)[..., None]
        y, lse = only(y, found[..., None], jnp.nan), only(lse, found, jnp.nan)
    shape = query.shape[:-1]
    return cache, y.reshape(*shape, y.shape[-1]).astype(query.dtype), lse.reshape(shape)


@jax.custom_jvp
def _read(problem: Problem, cache: KVCache, rows: Rows) -> tuple[Array, Array]:
    return read(problem, cache, rows)


def _read_jvp(
    primals: tuple[Problem, KVCache, Rows], tangents: tuple[PyTree, PyTree, PyTree]
) -> tuple[PyTree, PyTree]:
    """Tangents are those of the whole, whose keys and values are gathered."""
    leaves, structure = jax.tree.flatten(primals)
    directions = [None if is_zero(x) else x for x in jax.tree.leaves(tangents, is_leaf=is_zero)]
    moving = [i for i, direction in enumerate(directions) if direction is not None]

    def along(*values: Array) -> tuple[Array, Array]:
        known = dict(zip(moving, values, strict=True))
        full = [known.get(i, x) for i, x in enumerate(leaves)]
        problem, cache, rows = jax.tree.unflatten(structure, full)
        keys, values_ = whole(cache, rows, problem.query.dtype)
        return blockwise(dataclasses.replace(problem, key=keys, value=values_), None)

    return jax.jvp(along, [leaves[i] for i in moving], [directions[i] for i in moving])


_read.defjvp(_read_jvp, symbolic_zeros=True)
