"""Mistakes in values that are known: a full entry, a page that is none, entries that are not there.

Traced values are not looked at: what they lead to is defined, and told by the cache.
"""

import jax
import numpy as np

from equipoise._check import is_traced, value_error
from equipoise._types import PyTree
from equipoise.attention._cache.cache import KVCache


def check_room(cache: KVCache, key: PyTree, entries: PyTree, lengths: PyTree) -> None:
    """Raises where a cache of one length an entry has no place for the tokens."""
    given = (cache.length, cache.page_table, entries, lengths)
    if not cache.ragged or np.ndim(key) < 3 or any(map(is_traced, jax.tree.leaves(given))):
        return
    start = np.asarray(cache.length).reshape(-1)
    chosen = np.arange(start.size) if entries is None else np.asarray(entries).reshape(-1)
    check_entries(cache, chosen)
    t = np.shape(key)[-3]
    count = np.full(chosen.size, t) if lengths is None else np.asarray(lengths).reshape(-1)
    if ((count < 0) | (count > t)).any():
        raise value_error("lengths", f"must lie in 0, …, {t}, the tokens of `key`", str(count))
    if count.size != chosen.size:
        return  # their shapes do not fit, which is told elsewhere
    there = (chosen >= 0) & (count > 0)
    end = np.where(there, start[chosen] + count, 0)
    if cache.ring:
        return
    if (end > cache.capacity).any():
        full = chosen[end > cache.capacity]
        raise value_error(
            "cache",
            f"must have room for the new tokens, {cache.capacity} an entry",
            f"entries {full} with {start[full]} tokens and {count[end > cache.capacity]} more",
            "Empty one with attention.evict_from_cache(), or make the capacity larger.",
        )
    if cache.page_table is not None:
        _check_pages(cache, chosen, np.where(there, start[chosen], 0), end)


def check_entries(cache: KVCache, entries: np.ndarray) -> None:
    """Raises where entries are not there or named twice; negative ones stand for none."""
    total = int(np.prod(cache.batch))
    if (entries >= total).any():
        expected = f"must be below {total}, the entries of the cache"
        raise value_error("entries", expected, str(entries))
    named = entries[entries >= 0]
    if len(set(named.tolist())) != named.size:
        raise value_error("entries", "must all be different", str(entries))


def _check_pages(cache: KVCache, entries: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    count, size = cache.key.shape[:2]
    pages = np.asarray(cache.page_table)
    pages = pages.reshape(-1, pages.shape[-1])[entries]
    first = np.arange(pages.shape[-1]) * size
    new = (first < end[:, None]) & (first + size > start[:, None])
    lost = (pages >= count) | (new & (pages < 0))
    if lost.any():
        row, number = np.argwhere(lost)[0]
        raise value_error(
            "page_table",
            f"must name pages 0, …, {count - 1}, and one for each new token",
            f"{pages[row, number]} for positions from {first[number]} on of entry {entries[row]}",
            "Give entries pages with attention.reserve_pages().",
        )
