"""Attention without a softmax, which is a recurrent network with a matrix for a state."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, choice, floating_array, positive_integer, type_error, value_error
from equipoise._types import Array, Bool, Float
from equipoise.attention._kernel.grid import is_named
from equipoise.attention._kernel.mesh import place, placed_by
from equipoise.attention._kernel.operations import only


@at("attention.linear_attention")
def linear_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    mask: Bool[Array, "*batch s"] | None = None,
    *,
    feature_map: Callable[[Array], Array] | None = None,
    is_causal: bool = False,
    form: str = "parallel",
    chunk_size: int = 64,
) -> Float[Array, "*batch t n e"]:
    r"""Attention with weights φ(q)·φ(k), in time and memory linear in the length.

    .. math::

        y_i = \frac{\sum_j m_{ij}\, \phi(q_i)^\top \phi(k_j)\, v_j}
                   {\sum_j m_{ij}\, \phi(q_i)^\top \phi(k_j)}, \qquad
        S_i = S_{i-1} + \phi(k_i) v_i^\top,\; z_i = z_{i-1} + \phi(k_i),\;
        y_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i}

    The second is the recurrent form of the causal first. The parallel form takes a chunk of
    positions at once and carries S and z from chunk to chunk.

    Args:
        query: q. Shape ``(*batch, t, n, h)``.
        key: k. Shape ``(*batch, s, k, h)``; n is a multiple of k.
        value: v. Shape ``(*batch, s, k, e)``.
        mask: Which keys may be read, the same for all rows. Broadcasts to ``(*batch, s)``.
        feature_map: φ, on an array whose last axis is h; positive values keep weights
            positive. Default elu(x) + 1.
        is_causal: Whether row i reads keys j ≤ i alone; t = s.
        form: ``"parallel"`` or ``"recurrent"``; equal up to rounding.
        chunk_size: Positions taken at once in the causal parallel form.

    Returns:
        y, shape ``(*batch, t, n, e)`` in the dtype of ``value``. A row that no key reaches, or
        whose features are all 0, is 0 with gradient 0. Values of masked keys reach nothing.

    Raises:
        ValueError: If shapes disagree, ``is_causal`` with t ≠ s, ``mask`` does not broadcast, or
            ``form`` or ``chunk_size`` is not allowed.
        TypeError: If arrays are not floating-point, or ``mask`` is not boolean.

    Cost: 2·(t + s)·n·f·e FLOPs, f features, plus 2·t·chunk_size·n·(f + e) if causal and parallel.
        Memory linear in t; a reverse derivative keeps S for each chunk (each step if recurrent).

    Examples:
        >>> x = jnp.ones((3, 1, 2))
        >>> v = jnp.arange(3.0)[:, None, None]
        >>> print(attention.linear_attention(x, x, v, is_causal=True)[:, 0, 0])
        [0.  0.5 1. ]

    References:
        :cite:t:`katharopoulos2020`, equations 8 to 12 and 16 to 20.
    """
    q, k, v, mask = _checked(query, key, value, mask)
    t, s = q.shape[-3], k.shape[-3]
    if is_causal and t != s:
        raise value_error(
            "is_causal", f"needs as many rows as keys, t = {t} and s = {s}", is_causal
        )
    form = choice("form", form, ("parallel", "recurrent"))
    chunk_size = positive_integer("chunk_size", chunk_size)
    # The recurrent form is the parallel one by chunks of a single position.
    size = 1 if form == "recurrent" else chunk_size
    if feature_map is not None:
        wide = q.dtype if q.dtype.itemsize >= 4 else jnp.float32
        q, k = feature_map(q.astype(wide)), feature_map(k.astype(wide))
    return _weighted(q, k, v, mask, size if is_causal else None, mapped=feature_map is not None)


def _positive(x: Array) -> Array:
    """elu(x) + 1, without the rounding of the sum where x is negative."""
    return jax.lax.select(x > 0, x + 1, jnp.exp(only(x, x <= 0, 0)))


@placed_by(lambda arguments: place(arguments["q"], without=1, beside=1))
@functools.partial(jax.jit, static_argnames=("size", "mapped"), inline=True)
def _weighted(
    q: Array, k: Array, v: Array, mask: Array | None, size: int | None, *, mapped: bool
) -> Array:
    """The output, causal in chunks of so many positions, or of all keys for None.

    From queries and keys, or from the features that they were mapped to; one program where eager.
    """
    wide = q.dtype if q.dtype.itemsize >= 4 else jnp.float32
    phi_q, phi_k = (q, k) if mapped else (_positive(x.astype(wide)) for x in (q, k))
    dtype, shape, group = phi_q.dtype, phi_q.shape, phi_q.shape[-2] // phi_k.shape[-2]
    # (*batch, t, n, f) to (*batch, t, k, g, f): g query heads read one key head.
    phi_q = phi_q.reshape(*shape[:-2], phi_k.shape[-2], group, shape[-1])
    # A column of ones makes z one more column of S.
    v_1 = jnp.concatenate([v.astype(dtype), jnp.ones((*v.shape[:-1], 1), dtype)], axis=-1)
    if mask is not None:
        mask = mask.reshape((1,) * (v.ndim - 2 - mask.ndim) + mask.shape)
        keep = jnp.broadcast_to(mask, phi_k.shape[:-2])[..., None, None]
        phi_k, v_1 = jnp.where(keep, phi_k, 0), jnp.where(keep, v_1, 0)
    if size is None:
        y = _read(phi_q, jnp.einsum("...skf,...ske->...kfe", phi_k, v_1))
    else:
        # A chunk is no longer than the sequence, as far as the length is known.
        length = size if is_named(shape[-3]) else max(shape[-3], 1)
        y = _causal(phi_q, phi_k, v_1, min(size, length))
    total = y[..., -1:]
    reached = total != 0
    y = jnp.where(reached, y[..., :-1] / jnp.where(reached, total, 1), 0)
    return y.reshape(*shape[:-1], v.shape[-1]).astype(v.dtype)


def _read(phi_q: Array, state: Array) -> Array:
    return jnp.einsum("...tkgf,...kfe->...tkge", phi_q, state)


def _causal(phi_q: Array, phi_k: Array, v_1: Array, size: int) -> Array:
    """Numerator and denominator of every row, carrying S from chunk to chunk."""
    position = phi_k.ndim - 3
    length = phi_k.shape[position]
    count = -(-length // size)

    def chunks(x: Array) -> Array:
        padding = [(0, 0)] * x.ndim
        padding[position] = (0, count * size - length)
        x = jnp.pad(x, padding)
        x = x.reshape(*x.shape[:position], count, size, *x.shape[position + 1 :])
        return jnp.moveaxis(x, position, 0)

    past = jnp.tril(jnp.ones((size, size), bool))

    def step(state: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v = chunk
        if size == 1:
            state = state + jnp.einsum("...skf,...ske->...kfe", k, v)
            return state, _read(q, state)
        score = jnp.einsum("...tkgf,...skf->...kgts", q, k)
        score = jnp.where(past.reshape((1,) * (score.ndim - 2) + past.shape), score, 0)
        y = _read(q, state) + jnp.einsum("...kgts,...ske->...tkge", score, v)
        return state + jnp.einsum("...skf,...ske->...kfe", k, v), y

    # A sum over no keys: zeros that vary over the same devices as the inputs under shard_map.
    nothing = (phi_k[..., :0, :, :], v_1[..., :0, :, :])
    start = jnp.einsum("...skf,...ske->...kfe", *nothing)
    _, y = jax.lax.scan(step, start, tuple(map(chunks, (phi_q, phi_k, v_1))))
    y = jnp.moveaxis(y, 0, position)
    y = y.reshape(*y.shape[:position], count * size, *y.shape[position + 2 :])
    return jax.lax.slice_in_dim(y, 0, length, axis=position)


def _checked(
    query: Array, key: Array, value: Array, mask: Array | None
) -> tuple[Array, Array, Array, Array | None]:
    query = floating_array("query", query)
    key = floating_array("key", key)
    value = floating_array("value", value)
    if query.ndim < 3:
        raise value_error("query", "must have shape (*batch, t, n, h)", query)
    *batch, _, n, h = query.shape
    if key.ndim != query.ndim or list(key.shape[:-3]) != batch or key.shape[-1] != h:
        raise value_error(
            "key", f"must have shape (*batch, s, k, {h}) with batch {tuple(batch)}", key
        )
    if value.ndim != key.ndim or value.shape[:-1] != key.shape[:-1]:
        raise value_error(
            "value", f"must have the lengths and heads of `key`, {key.shape[:-1]}", value
        )
    heads = key.shape[-2]
    if heads == 0 or n % heads:
        raise value_error("query", f"must have a multiple of the {heads} heads of `key`", query)
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.dtype != bool:
            raise type_error("mask", "must be boolean (true is read)", mask)
        full = key.shape[:-2]
        padded = (1,) * (len(full) - mask.ndim) + mask.shape
        if mask.ndim > len(full) or any(a not in (1, b) for a, b in zip(padded, full, strict=True)):
            raise value_error("mask", f"must broadcast to (*batch, s) {full}", mask)
    return query, key, value, mask
