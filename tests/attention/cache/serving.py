"""Requests of different lengths, served by one cache and, as what they must equal, each alone."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention

N, K, H, E = 4, 2, 3, 5
EPS = np.finfo(np.float64).eps


def tokens(rng, *lead):
    """Query, key and value of so many tokens."""
    return tuple(
        jnp.asarray(rng.normal(size=(*lead, heads, size)))
        for heads, size in ((N, H), (K, H), (K, E))
    )


def empty(capacity, batch, **options):
    options = {"dtype": jnp.float64, "ragged": True, **options}
    return attention.init_cache(capacity, K, H, value_size=E, batch=batch, **options)


def in_pages(rng, capacity, batch, page_size, spare=3, **options):
    """A cache in pages, which entries have in no order."""
    count = batch[0] * capacity // page_size
    cache = empty(capacity, batch, page_size=page_size, num_pages=count + spare, **options)
    table = rng.permutation(count + spare)[:count].reshape(batch[0], -1)
    return with_table(cache, table)


def with_table(cache, table):
    return jax.tree.unflatten(
        jax.tree.structure(cache),
        [
            jnp.asarray(table, jnp.int32) if x is cache.page_table else x
            for x in jax.tree.leaves(cache)
        ],
    )


def rows(new, entries, starts, t):
    """Tokens from each start on, of these entries: (m, t, ...)."""
    return tuple(
        jnp.stack([x[b, s : s + t] for b, s in zip(entries, starts, strict=True)]) for x in new
    )
