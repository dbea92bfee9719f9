"""An empty cache, its storage at once or in pages, in full or in 8 bits."""

import math
from typing import TypedDict

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from equipoise._check import at, positive_integer, type_error, value_error
from equipoise._types import Array
from equipoise.attention._cache.cache import KVCache
from equipoise.attention._cache.quantized import is_short


class Layout(TypedDict, total=False):
    """What a cache can be asked for beside its capacity and what a token has."""

    batch: tuple[int, ...]
    dtype: DTypeLike
    ring: bool
    ragged: bool
    page_size: int | None
    num_pages: int | None


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
    ragged: bool = False,
    page_size: int | None = None,
    num_pages: int | None = None,
) -> KVCache:
    r"""An empty cache of keys and values.

    .. math::

        K \in \mathbb{R}^{C \times k \times h}, \quad V \in \mathbb{R}^{C \times k \times e},
        \quad \text{length} = 0

    Args:
        capacity: C, tokens that an entry can hold.
        num_heads: k, the heads of keys and values (not of queries).
        head_size: h.
        value_size: e. Default h; 0 where keys are read as values, as latents are.
        batch: Leading axes.
        dtype: Type of keys and values. Numbers of 8 bits, int8 or ``float8_e4m3fn`` and its like,
            have a float32 scale for each token and head beside them.
        ring: Whether a new token replaces the oldest when the cache is full. For windows: a window
            of w past positions, decoded t tokens at a time, needs capacity w + t only.
        ragged: Whether each entry has a length of its own, as requests of a server have. Pages
            imply it.
        page_size: Tokens of a page, which divide C. None for storage without pages. A page is what
            is read at once: on a CPU 64 and more are faster than 16.
        num_pages: Pages that all entries share. Default as many as they can fill. No entry has one
            yet: :func:`reserve_pages` gives them, or you write ``page_table`` yourself.

    Returns:
        :class:`KVCache`, a pytree of fixed shapes, so one compiled step serves all tokens. Donate
        it to the jitted step and it is updated in place.

        In 8 bits a number of a vector x of one token and head comes back as
        :math:`\hat x = s \operatorname{round}(x / s)`, s = max|x| / 127 in int8, so that
        :math:`|\hat x - x| \le \max|x| / 254`; floats of 8 bits have the largest number m of
        their format in place of 127, and :math:`|\hat x - x|` at most 1/17 of :math:`|x|` (e4m3)
        or 1/9 (e5m2), or half the least number of the format times s. Scores c·q·k then move by at
        most δ = c·Σ|q|·max|k| / 254 in int8, weights by a factor between :math:`e^{\pm 2\delta}`,
        and an output by at most :math:`\max|v|\,(1/254 + e^{2\delta} - 1)`. Rounding has no slope:
        the gradient by appended keys and values is 0.

    Raises:
        ValueError: If a size is below 1, pages do not divide the capacity, or a ring has pages.
        TypeError: If a size is no Python integer, or ``dtype`` is neither floating-point nor int8.

    Cost: capacity·k·(h + e) numbers per batch entry; with pages num_pages·page_size·k·(h + e) in
        all.

    Examples:
        >>> cache = attention.init_cache(128, 2, 16, batch=(4,))
        >>> print(cache.key.shape, cache.length)
        (4, 128, 2, 16) 0
        >>> cache = attention.init_cache(128, 2, 16, batch=(4,), page_size=32, num_pages=6)
        >>> print(cache.key.shape, cache.page_table.shape, cache.length)
        (6, 32, 2, 16) (4, 4) [0 0 0 0]

    References:
        :cite:t:`shazeer2019fast`, section 2.4, for incremental decoding; :cite:t:`kwon2023paged`,
        section 4, for pages.
    """
    capacity = positive_integer("capacity", capacity)
    k = positive_integer("num_heads", num_heads)
    h = positive_integer("head_size", head_size)
    e = h if value_size is None else positive_integer("value_size", value_size, minimum=0)
    if not (jnp.issubdtype(dtype, jnp.floating) or is_short(dtype)):
        raise type_error("dtype", "must be floating-point, or int8", str(dtype))
    rows: tuple[int, ...] = (*batch, capacity)
    table = None
    if page_size is not None:
        size = positive_integer("page_size", page_size)
        if capacity % size:
            raise value_error("page_size", f"must divide the capacity, {capacity}", page_size)
        if ring:
            raise value_error(
                "ring",
                "must be False with pages",
                ring,
                "Give back pages behind a window: attention.evict_from_cache(..., before=).",
            )
        most = math.prod(batch) * (capacity // size)
        count = most if num_pages is None else positive_integer("num_pages", num_pages)
        rows, table = (count, size), _filled((*batch, capacity // size), -1)
    elif num_pages is not None:
        raise value_error("num_pages", "must come with `page_size`", num_pages)
    short = is_short(dtype)
    return KVCache(
        key=jnp.zeros((*rows, k, h), dtype),
        value=jnp.zeros((*rows, k, e), dtype),
        length=_filled(batch if ragged or table is not None else (), 0),
        ring=bool(ring),
        page_table=table,
        key_scale=jnp.zeros((*rows, k), jnp.float32) if short else None,
        value_scale=jnp.zeros((*rows, k), jnp.float32) if short and e else None,
    )


def _filled(shape: tuple[int, ...], number: int) -> Array:
    return jnp.asarray(np.full(shape, number, np.int32))
