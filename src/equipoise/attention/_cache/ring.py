"""A ring: attention sees the place of a key, and what is asked for goes by its position."""

from collections.abc import Callable
from typing import TypedDict

import jax
import jax.numpy as jnp

from equipoise._check import type_error, value_error
from equipoise._types import Array, PyTree
from equipoise.attention._cache.cache import KVCache
from equipoise.attention._cache.rows import Rows
from equipoise.attention._masks.kinds import Window, window_sides


class _ByPosition(TypedDict):
    """The options of attention that depend on where a key is."""

    local_window_size: Window
    key_value_seq_lengths: Array
    score_fn: Callable[..., Array] | None
    mask_fn: Callable[..., Array] | None


def only_by_position(**given: PyTree) -> None:
    """Raises where a ring is given what has a place for each key of a whole sequence."""
    for name, value in given.items():
        if value is not None:
            raise value_error(
                name,
                "must not be given for a ring, whose positions go beyond its capacity",
                value,
                "A function of positions does: mask_fn, or score_fn.",
            )


def by_position(
    cache: KVCache,
    rows: Rows,
    t: int,
    window: Window,
    score_fn: Callable[..., Array] | None,
    mask_fn: Callable[..., Array] | None,
) -> _ByPosition:
    """Options that see the position of a key where attention sees its place."""
    left = None if window is None else window_sides("local_window_size", window)[0]
    if isinstance(left, jax.Array):
        raise type_error(
            "local_window_size", "must be Python integers for a ring, which they size", left
        )
    if left is not None and left + t > cache.capacity:
        raise value_error(
            "local_window_size",
            f"must leave room in a ring of {cache.capacity} for {t} new tokens",
            window,
            f"A ring needs a capacity of {left + t} here.",
        )
    reach = cache.capacity - t if left is None else left
    positions = jnp.broadcast_to(cache.positions, (*cache.batch, cache.capacity))
    positions = positions.reshape(-1, cache.capacity)
    if not rows.every:
        positions = positions.at[rows.entry].get(mode="fill", fill_value=-1)

    def allowed(batch: Array, head: Array, q: Array, place: Array) -> Array:
        p = positions[batch, place]
        inside = (p >= 0) & (p <= q) & (p >= q - reach)
        return inside if mask_fn is None else inside & mask_fn(batch, head, q, p)

    def score_at(score: Array, batch: Array, head: Array, q: Array, place: Array) -> Array:
        assert score_fn is not None
        return score_fn(score, batch, head, q, positions[batch, place])

    # Places beyond are empty, which tells blocks that need not be read.
    filled = jnp.minimum(rows.start + rows.count, cache.capacity)
    return _ByPosition(
        local_window_size=None,
        key_value_seq_lengths=filled.reshape(rows.batch),
        score_fn=None if score_fn is None else score_at,
        mask_fn=allowed,
    )
