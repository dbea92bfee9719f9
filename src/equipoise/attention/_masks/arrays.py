"""The arrays of masks and biases in the form that a problem of given sizes has them in."""

import math

import jax.numpy as jnp

from equipoise._check import value_error
from equipoise._types import Array


def over_pairs(argument: str, array: Array, sizes: tuple[int, ...]) -> Array:
    """An array over (*batch, n, t, s) as (b or 1, n or 1, t or 1, s or 1).

    It may have more leading axes than the query, of one entry each, as it may in ``jax.nn``.
    """
    beyond = max(array.ndim - len(sizes), 0)
    full = (1,) * (len(sizes) - array.ndim) + array.shape[beyond:]
    over = any(n != 1 for n in array.shape[:beyond])
    if over or any(a not in (1, n) for a, n in zip(full, sizes, strict=True)):
        raise value_error(argument, f"must broadcast to (*batch, N, T, S) = {sizes}", array)
    batch = full[:-3]
    if any(a != 1 for a in batch):
        batch = sizes[:-3]
        array = jnp.broadcast_to(array.reshape(full), (*batch, *full[-3:]))
    return array.reshape(math.prod(batch), *full[-3:])


def check_entries(array: Array, sizes: tuple[int, ...], shape: tuple[int, ...] = ()) -> None:
    """An array of a mask has this shape for each batch entry, or once for all."""
    b = math.prod(sizes[:-3])
    if array.shape not in ((b, *shape), (1, *shape)):
        raise value_error(
            "mask",
            f"must have arrays of shape {(b, *shape)} (batch axes as one) or {shape}",
            array,
            "Build the mask from ids or lengths of this query and key.",
        )
