"""Writing: tokens of all entries or of chosen ones, as many of each as it has."""

import dataclasses

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, value_error
from equipoise._jax.varying import alike
from equipoise._types import Array, Float, Int
from equipoise.attention._cache.cache import KVCache, check_cache, places
from equipoise.attention._cache.checks import check_room
from equipoise.attention._cache.program import one_program
from equipoise.attention._cache.quantized import quantized
from equipoise.attention._cache.rows import Rows, address, in_rows, num_rows, rows_of
from equipoise.attention._kernel.loop import most_of_batch
from equipoise.attention._kernel.mesh import placed_by


@at("attention.append_to_cache")
@placed_by(places)
def append_to_cache(
    cache: KVCache,
    key: Float[Array, "*batch t k h"],
    value: Float[Array, "*batch t k e"],
    *,
    entries: Int[Array, " m"] | None = None,
    lengths: Int[Array, "*batch"] | None = None,
) -> KVCache:
    r"""A cache with the keys and values of further tokens.

    .. math::

        K_{\ell + i} = k_i, \quad V_{\ell + i} = v_i, \quad \ell \leftarrow \ell + t
        \qquad (\text{positions modulo } C \text{ in a ring})

    Args:
        cache: The tokens so far.
        key: k of the new tokens. Shape ``(*batch, t, k, h)``; converted to the cache's dtype.
        value: v of the new tokens. Shape ``(*batch, t, k, e)``.
        entries: Which entries get them, all different, where each has a length of its own. Then the
            arrays have m for ``*batch``. A number that is no entry's, such as -1, is a row that is
            dropped. Default all entries in order.
        lengths: How many of the t tokens each of them gets, the first ones. From 0 to t, which is
            the default.

    Returns:
        The cache with these tokens. Without ``ring``, tokens that find no room are dropped: those
        beyond the capacity, or on a page that the table does not name. The length counts on and
        ``overflowed`` is true; nothing that was kept is lost.

    Raises:
        ValueError: If shapes do not fit the cache, or t exceeds its capacity. Where each entry has
            a length and values are known, not traced, also if one is full, its table names no
            page for a token, or ``entries`` or ``lengths`` lie outside.
        TypeError: If an array has another kind of dtype, or ``cache`` is no :class:`KVCache`.

    Cost: t·k·(h + e) numbers written, whatever the capacity, if the cache is donated.

    Examples:
        >>> cache = attention.init_cache(4, 1, 1, batch=(3,), ragged=True)
        >>> prompts = jnp.ones((2, 3, 1, 1))
        >>> cache = attention.append_to_cache(
        ...     cache, prompts, prompts, entries=jnp.array([2, 0]), lengths=jnp.array([3, 1])
        ... )
        >>> print(cache.length)
        [1 0 3]

    References:
        :cite:t:`shazeer2019fast`, section 2.4; :cite:t:`kwon2023paged`, section 4, for pages.
    """
    check_cache(cache)
    check_room(cache, key, entries, lengths)
    return _append(cache, key, value, entries, lengths)


@one_program
def _append(
    cache: KVCache, key: Array, value: Array, entries: Array | None, lengths: Array | None
) -> KVCache:
    return appended(cache, key, value, entries, lengths)[0]


def appended(
    cache: KVCache, key: Array, value: Array, entries: Array | None, lengths: Array | None
) -> tuple[KVCache, Rows, Array]:
    """The cache with new tokens, the rows of the call, and which of their tokens are kept."""
    key, value = floating_array("key", key), floating_array("value", value)
    t = key.shape[-3] if key.ndim >= 3 else -1
    rows = rows_of(cache, t, entries, lengths)
    for name, new, old in (("key", key, cache.key), ("value", value, cache.value)):
        if new.shape != (*rows.batch, t, *old.shape[-2:]):
            text = str(("t" if t < 0 else t, *old.shape[-2:])).replace("'", "")
            of = "the cache" if entries is None else "`entries`"
            raise value_error(name, f"must have the batch axes of {of} and then {text}", new)
    if t > cache.capacity:
        raise value_error(
            "key", f"must hold at most {cache.capacity} tokens, the cache's capacity", key
        )
    step = jnp.arange(t, dtype=jnp.int32)[None]
    row, column = address(cache, rows.entry[:, None], rows.start[:, None] + step)
    kept, none = row < num_rows(cache), num_rows(cache)
    if lengths is not None:
        rows = dataclasses.replace(rows, count=jnp.clip(rows.count, 0, t))
        row = jnp.where(step < rows.count[:, None], row, none)
    # A branch, because otherwise XLA would write once for every reader, each time to a copy of the
    # whole cache.
    shared = jnp.zeros_like(cache.length), cache.length
    there = row if cache.ragged else address(cache, *shared)[0]
    room = most_of_batch((there < none).any())
    place = _apart if cache.page_table is None and rows.every else _anywhere

    def written(old: Array, new: Array) -> Array:
        new = new.astype(old.dtype).reshape(*row.shape, *new.shape[len(rows.batch) + 1 :])
        operands = alike([in_rows(cache, old), new, row, column])
        return jax.lax.cond(room, place, _keep, *operands).reshape(old.shape)

    def both(old: Array, scale: Array | None, new: Array) -> tuple[Array, Array | None]:
        if scale is None:
            return written(old, new), None
        short, factor = quantized(new, old.dtype)
        return written(old, short), written(scale, factor)

    k, key_scale = both(cache.key, cache.key_scale, key)
    v, value_scale = both(cache.value, cache.value_scale, value)
    if entries is not None:
        length = cache.length.at[rows.entry].add(rows.count, mode="drop")
    else:
        length = cache.length + (rows.count.reshape(rows.batch) if cache.ragged else t)
    cache = dataclasses.replace(
        cache, key=k, value=v, length=length, key_scale=key_scale, value_scale=value_scale
    )
    return cache, rows, kept


def _keep(old: Array, new: Array, row: Array, column: Array) -> Array:
    del new, row, column
    return old


def _anywhere(old: Array, new: Array, row: Array, column: Array) -> Array:
    return old.at[row, column].set(new, mode="drop")


def _apart(old: Array, new: Array, row: Array, column: Array) -> Array:
    """Row by row, so that nothing is sent where they are divided between devices."""
    column = jnp.where(row < old.shape[0], column, old.shape[1])
    return jax.vmap(lambda old, new, column: old.at[column].set(new, mode="drop"))(old, new, column)
