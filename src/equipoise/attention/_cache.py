"""Decoding a few tokens at a time: keys and values of the past are kept, not computed again."""

from collections.abc import Callable
from typing import TypedDict

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from equipoise._check import at, floating_array, positive_integer, type_error, value_error
from equipoise._types import Array, Bool, Float, Int, PyTree, result, static_field
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._kernel.mesh import place, placed_by
from equipoise.attention._kernel.operations import only
from equipoise.attention._kernel.schedule import any_of_batch
from equipoise.attention._masks.kinds import Window, window_sides


@result
class KVCache:
    """Keys and values of the tokens so far; batch entries of equal length.

    Attributes:
        key: Shape ``(*batch, capacity, k, h)``.
        value: Shape ``(*batch, capacity, k, e)``.
        length: Tokens appended so far, those that found no room included. A scalar.
        ring: Whether a new token takes the place of the oldest when there is no room.
    """

    key: Float[Array, "*batch capacity k h"]
    value: Float[Array, "*batch capacity k e"]
    length: Int[Array, ""]
    ring: bool = static_field()

    @property
    def capacity(self) -> int:
        """Tokens that the cache can hold."""
        return self.key.shape[-3]

    @property
    def positions(self) -> Int[Array, " capacity"]:
        """The position of the token in each slot; negative where there is none."""
        slots = jax.lax.iota(jnp.int32, self.capacity)
        if not self.ring:
            return jnp.where(slots < self.length, slots, -1)
        return slots + (self.length - 1 - slots) // self.capacity * self.capacity

    @property
    def overflowed(self) -> Bool[Array, ""]:
        """Whether tokens found no room, so that outputs for them are NaN."""
        return (self.length > self.capacity) & (not self.ring)


@at("attention.init_cache")
def init_cache(
    capacity: int,
    num_heads: int,
    head_size: int,
    *,
    value_size: int | None = None,
    batch: tuple[int, ...] = (),
    dtype: DTypeLike = jnp.float32,
    ring: bool = False,
) -> KVCache:
    r"""An empty cache of keys and values.

    .. math::

        K \in \mathbb{R}^{C \times k \times h}, \quad V \in \mathbb{R}^{C \times k \times e},
        \quad \text{length} = 0

    Args:
        capacity: C, tokens that it can hold.
        num_heads: k, the heads of keys and values (not of queries).
        head_size: h.
        value_size: e. Default h; 0 where keys are read as values, as latents are.
        batch: Leading axes.
        dtype: Of keys and values.
        ring: Whether a new token replaces the oldest when the cache is full. For windows: a window
            of w past positions, decoded t tokens at a time, needs capacity w + t only.

    Returns:
        :class:`KVCache`, a pytree of fixed shapes, so one compiled step serves all tokens. Donate
        it to the jitted step and it is updated in place. For batch entries of different lengths,
        ``vmap`` over caches.

    Raises:
        ValueError: If a size is below 1.
        TypeError: If a size is no Python integer or ``dtype`` is not floating-point.

    Cost: capacity·k·(h + e) numbers a batch entry.

    Examples:
        >>> cache = attention.init_cache(128, 2, 16, batch=(4,))
        >>> print(cache.key.shape, cache.length)
        (4, 128, 2, 16) 0

    References:
        :cite:t:`shazeer2019fast`, section 2.4, for incremental decoding.
    """
    capacity = positive_integer("capacity", capacity)
    k = positive_integer("num_heads", num_heads)
    h = positive_integer("head_size", head_size)
    e = h if value_size is None else positive_integer("value_size", value_size, minimum=0)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise type_error("dtype", "must be floating-point", str(dtype))
    return KVCache(
        key=jnp.zeros((*batch, capacity, k, h), dtype),
        value=jnp.zeros((*batch, capacity, k, e), dtype),
        length=jnp.zeros((), jnp.int32),
        ring=bool(ring),
    )


def places(arguments: dict[str, PyTree]) -> PyTree:
    """The cache stays where it is, and an output lies where its query does, or its inputs."""
    cache = jax.tree.map(place, arguments["cache"])
    rows = arguments.get("query", arguments.get("inputs"))
    return cache if rows is None else (cache, place(rows, without=1, beside=1))


@at("attention.append_to_cache")
@placed_by(places)
def append_to_cache(
    cache: KVCache, key: Float[Array, "*batch t k h"], value: Float[Array, "*batch t k e"]
) -> KVCache:
    r"""A cache with the keys and values of further tokens.

    .. math::

        K_{\ell + i} = k_i, \quad V_{\ell + i} = v_i, \quad \ell \leftarrow \ell + t
        \qquad (\text{positions modulo } C \text{ in a ring})

    Args:
        cache: The tokens so far.
        key: k of the new tokens. Shape ``(*batch, t, k, h)``; converted to the cache's dtype.
        value: v of the new tokens. Shape ``(*batch, t, k, e)``.

    Returns:
        The cache with t more tokens. Without ``ring``, tokens that find no room are dropped, the
        length counts on and ``overflowed`` is true; nothing that was kept is lost.

    Raises:
        ValueError: If shapes do not fit the cache, or t exceeds its capacity.
        TypeError: If an array is not floating-point, or ``cache`` is no :class:`KVCache`.

    Cost: t·k·(h + e) numbers written, whatever the capacity, if the cache is donated.

    Examples:
        >>> cache = attention.init_cache(2, 1, 1)
        >>> one = jnp.ones((1, 1, 1))
        >>> for _ in range(3):
        ...     cache = attention.append_to_cache(cache, one, one)
        >>> print(cache.length, cache.overflowed)
        3 True

    References:
        :cite:t:`shazeer2019fast`, section 2.4.
    """
    return _append(cache, key, value)


def check_cache(cache: object) -> None:
    """Raises where a cache is something else, such as the outputs that come with one."""
    if not isinstance(cache, KVCache):
        raise type_error("cache", "must be a KVCache", cache, "Make one: attention.init_cache().")


def _append(cache: KVCache, key: Array, value: Array) -> KVCache:
    check_cache(cache)
    key = floating_array("key", key)
    value = floating_array("value", value)
    t = key.shape[-3] if key.ndim >= 3 else -1
    for name, new, old in (("key", key, cache.key), ("value", value, cache.value)):
        expected = (*old.shape[:-3], t, *old.shape[-2:])
        if new.shape != expected:
            text = str(("t" if t < 0 else t, *old.shape[-2:])).replace("'", "")
            raise value_error(name, f"must have the batch axes of the cache and then {text}", new)
    if t > cache.capacity:
        raise value_error(
            "key", f"must hold at most {cache.capacity} tokens, the cache's capacity", key
        )
    first = cache.length % cache.capacity if cache.ring else cache.length
    slots = cache.length + jnp.arange(t, dtype=jnp.int32)
    if cache.ring:
        slots = slots % cache.capacity
    # A branch, because otherwise XLA would write once for every reader, each time to a copy of the
    # whole cache.
    room = any_of_batch(first < jnp.asarray(cache.capacity, jnp.int32))

    def write(old: Array, new: Array) -> Array:
        return jax.lax.cond(room, _write, _keep, old, new.astype(old.dtype), slots)

    return KVCache(write(cache.key, key), write(cache.value, value), cache.length + t, cache.ring)


def _write(old: Array, new: Array, slots: Array) -> Array:
    return old.at[..., slots, :, :].set(new, mode="drop")


def _keep(old: Array, new: Array, slots: Array) -> Array:
    del new, slots
    return old


@at("attention.decode_step")
@placed_by(places)
def decode_step(
    cache: KVCache,
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch t k h"],
    value: Float[Array, "*batch t k e"],
    *,
    scale: float | Float[Array, ""] | None = None,
    local_window_size: Window = None,
    logits_soft_cap: float | None = None,
    sinks: Float[Array, " n"] | None = None,
    score_fn: Callable[..., Array] | None = None,
    mask_fn: Callable[..., Array] | None = None,
    implementation: str | None = None,
) -> tuple[KVCache, Float[Array, "*batch t n e"]]:
    r"""Causal attention of the next tokens to themselves and all tokens before them.

    .. math::

        y_{\ell + i} = \sum_{j \le \ell + i} \alpha_{ij} v_j, \qquad \ell = \text{length}

    The rows ℓ, …, ℓ + t − 1 of the full causal computation. Rotate query and key beforehand, with
    ``offset=cache.length``.

    Args:
        cache: The ℓ tokens so far.
        query: q of the new tokens. Shape ``(*batch, t, n, h)``; usually t = 1.
        key: k of the new tokens. Shape ``(*batch, t, k, h)``.
        value: v of the new tokens. Shape ``(*batch, t, k, e)``; without features (e = 0) where the
            keys are read as values.
        scale: Factor on q·k. Default 1/√h.
        local_window_size: (left, right) of positions around each; right is 0 in effect. Numbers
            for a ring.
        logits_soft_cap: x ↦ cap·tanh(x/cap) on the scores.
        sinks: Logit per head that takes weight.
        score_fn: ``f(score, batch, head, q_index, k_index)``, indices are positions.
        mask_fn: ``f(batch, head, q_index, k_index)``, indices are positions.
        implementation: As in :func:`dot_product_attention`.

    Returns:
        (cache, y), y of shape ``(*batch, t, n, e)`` in the dtype of ``query``, e = h where keys are
        read as values. Rows of tokens that
        found no room in the cache are NaN. A ring without a window reads the last
        capacity − t tokens before each new one.

    Raises:
        ValueError: If shapes do not fit the cache, or a ring is too small for the window.
        TypeError: If an array is not floating-point, or ``cache`` is no :class:`KVCache`.

    Cost: 2·n·t·L·(h + e) FLOPs, L the tokens so far, or left + t with a window, in whole blocks of
        keys; whatever the capacity of the cache, if it is donated and has the dtype of ``query``.
        A ring reads its whole capacity; ``vmap`` over caches copies it.

    Examples:
        >>> cache = attention.init_cache(8, 1, 1)
        >>> for token in (1.0, 2.0, 3.0):
        ...     x = jnp.full((1, 1, 1), token)
        ...     cache, y = attention.decode_step(cache, 0 * x, x, x)
        >>> print(y[0, 0], cache.length)
        [2.] 3

    References:
        :cite:t:`shazeer2019fast`, section 2.4.
    """
    check_cache(cache)
    query = floating_array("query", query)
    if query.ndim < 3 or query.shape[:-2] != jnp.shape(key)[:-2]:
        raise value_error("query", "must have the batch axes and tokens of `key`", query)
    start, t = cache.length, query.shape[-3]
    cache = _append(cache, key, value)
    left = None
    if local_window_size is not None:
        left, _ = window_sides("local_window_size", local_window_size)
    keys = cache.key.astype(query.dtype)
    values = cache.value.astype(query.dtype) if cache.value.shape[-1] else keys
    if cache.ring:
        if isinstance(left, jax.Array):
            raise type_error(
                "local_window_size", "must be Python integers for a ring, which they size", left
            )
        if left is not None and left + t > cache.capacity:
            raise value_error(
                "local_window_size",
                f"must leave room in a ring of {cache.capacity} for {t} new tokens",
                local_window_size,
                f"A ring needs a capacity of {left + t} here.",
            )
        left = cache.capacity - t if left is None else left
        options: _ByPosition = _at_positions(cache.positions, left, score_fn, mask_fn)
    else:
        options = {
            "is_causal": True,
            "local_window_size": local_window_size,
            "score_fn": score_fn,
            "mask_fn": mask_fn,
        }
    y = dot_product_attention(
        query,
        keys,
        values,
        scale=scale,
        logits_soft_cap=logits_soft_cap,
        sinks=sinks,
        query_offset=start,
        implementation=implementation,
        **options,
    )
    if not cache.ring:
        found = start + jnp.arange(t, dtype=jnp.int32) < cache.capacity
        y = only(y, found.reshape((1,) * (y.ndim - 3) + (t, 1, 1)), jnp.nan)
    return cache, y


class _ByPosition(TypedDict, total=False):
    """The options of attention that depend on where a key is."""

    is_causal: bool
    local_window_size: Window
    score_fn: Callable[..., Array] | None
    mask_fn: Callable[..., Array] | None


def _at_positions(
    positions: Array,
    left: int,
    score_fn: Callable[..., Array] | None,
    mask_fn: Callable[..., Array] | None,
) -> _ByPosition:
    """Options that see the position of a key where attention sees its slot."""

    def allowed(batch: Array, head: Array, q: Array, slot: Array) -> Array:
        p = positions[slot]
        inside = (p >= 0) & (p <= q) & (p >= q - left)
        return inside if mask_fn is None else inside & mask_fn(batch, head, q, p)

    if score_fn is None:
        return {"mask_fn": allowed}

    def score_at(score: Array, batch: Array, head: Array, q: Array, slot: Array) -> Array:
        return score_fn(score, batch, head, q, positions[slot])

    return {"mask_fn": allowed, "score_fn": score_at}
