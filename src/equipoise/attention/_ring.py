"""Attention over a sequence that is split across devices: keys travel, queries stay."""

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Float, Int
from equipoise.attention._dot_product import dot_product_attention
from equipoise.attention._masks.kinds import Window


@at("attention.ring_attention")
def ring_attention(
    query: Float[Array, "*batch t n h"],
    key: Float[Array, "*batch s k h"],
    value: Float[Array, "*batch s k e"],
    bias: Float[Array, "..."] | None = None,
    *,
    axis_name: str,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    local_window_size: Window = None,
    logits_soft_cap: float | None = None,
    segment_ids: Int[Array, "*batch t"] | tuple[Array, Array] | None = None,
    implementation: str | None = None,
    block_size: int | None = None,
    return_residual: bool = False,
) -> Float[Array, "*batch t n e"] | tuple[Float[Array, "*batch t n e"], Float[Array, "*batch t n"]]:
    r"""Exact attention over a sequence that is split across devices.

    .. math::

        L = \log \sum_r e^{L_r}, \qquad o = \sum_r e^{L_r - L}\, o_r

    Call it inside :func:`jax.shard_map`; every device holds equal parts of query, key and value,
    in order. Block r of the keys comes from the device r places before. Every order of derivative
    has the same form: what arrives is received again rather than kept.

    Args:
        query: q, this device's rows. Shape ``(*batch, t, n, h)``.
        key: k, this device's keys. Shape ``(*batch, s, k, h)``; n is a multiple of k.
        value: v. Shape ``(*batch, s, k, e)``.
        bias: Added to the scores. Either this device's rows for *all* keys, broadcasting to
            ``(*batch, n, t, devices · s)``, or equal for all rows and split with the keys,
            broadcasting to ``(*batch, n, 1, s)``.
        axis_name: The mesh axis that the sequence is split over.
        scale: Factor on q·k. Default 1/√h.
        is_causal: Whether key j ≤ row i, counted over all devices, is required.
        local_window_size: (left, right) of a band of positions, or one number for both.
        logits_soft_cap: x ↦ cap·tanh(x/cap), after the bias.
        segment_ids: Ids of this device's tokens, ``(*batch, t)``, or a pair (rows, keys).
        implementation: As in :func:`dot_product_attention`, for each block.
        block_size: As in :func:`dot_product_attention`.
        return_residual: Whether to return this device's log-sum-exp too.

    Returns:
        y of this device's rows, ``(*batch, t, n, e)`` in the dtype of ``value``, equal to attention
        on one device up to rounding; with ``return_residual`` also the log-sum-exp ``(*batch, t,
        n)``. A row that reads nothing is 0 and its log-sum-exp −inf.

    Raises:
        ValueError: If shapes disagree, as :func:`dot_product_attention` says, ``bias`` is split in
            neither way, or ``is_causal`` or a window come with t ≠ s.
        TypeError: If dtypes are wrong, as :func:`dot_product_attention` says.

    Cost: as :func:`dot_product_attention` over all keys, shared by the devices; memory is linear in
        the tokens of one device. Keys and values travel devices − 1 times.

    Examples:
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("sequence",))
        >>> split = jax.sharding.PartitionSpec(None, "sequence")
        >>> ring = jax.shard_map(
        ...     lambda q, k, v: attention.ring_attention(
        ...         q, k, v, axis_name="sequence", is_causal=True),
        ...     mesh=mesh, in_specs=(split,) * 3, out_specs=split)
        >>> x = jnp.ones((1, 4, 1, 2))
        >>> print(ring(x, x, x)[0, :, 0, 0])
        [1. 1. 1. 1.]

    References:
        :cite:t:`liu2023ring`; :cite:t:`milakov2018online` for the merge.
    """
    query = floating_array("query", query)
    key = floating_array("key", key)
    value = floating_array("value", value)
    devices, me = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    t, s = query.shape[-3:-2] + key.shape[-3:-2]
    if t != s and (is_causal or local_window_size is not None):
        raise value_error(
            "key",
            f"must have as many tokens as `query`, {t}, to be causal or windowed",
            key,
        )
    travels = bias is not None and _bias_travels(bias, query, s, devices)
    pair = segment_ids if isinstance(segment_ids, (tuple, list)) else (segment_ids, segment_ids)
    rows, key_ids = pair

    # Rematerialized: a derivative receives the block again instead of keeping one for each device.
    def block(
        shift: int, query: Array, key: Array, value: Array, bias: Array | None, ids: Array | None
    ) -> tuple[Array, Array]:
        moving = (key, value, bias if travels else None, ids)
        if shift:
            ring = [(device, (device + shift) % devices) for device in range(devices)]
            moving = jax.lax.ppermute(moving, axis_name, ring)  # type: ignore[no-untyped-call]
        key, value, moved, ids = moving
        source = (me - shift) % devices
        if bias is not None and not travels and bias.shape[-1] != 1:
            moved = jax.lax.dynamic_slice_in_dim(bias, source * s, s, axis=-1)
        elif bias is not None and not travels:
            moved = bias
        return dot_product_attention(
            query,
            key,
            value,
            moved,
            scale=scale,
            is_causal=is_causal,
            local_window_size=local_window_size,
            logits_soft_cap=logits_soft_cap,
            segment_ids=None if ids is None or rows is None else (rows, ids),
            # Positions count from this block's first key.
            query_offset=(me - source) * s,
            implementation=implementation,
            block_size=block_size,
            return_residual=True,
        )

    received = jax.checkpoint(block, static_argnums=0)
    out, lse = received(0, query, key, value, bias, key_ids)
    for shift in range(1, devices):
        out, lse = _merged(out, lse, *received(shift, query, key, value, bias, key_ids))
    out = out.astype(value.dtype)
    return (out, lse) if return_residual else out


def _merged(o_1: Array, l_1: Array, o_2: Array, l_2: Array) -> tuple[Array, Array]:
    """Two partial results as one; a part that read nothing has l = −inf and weighs 0."""
    nothing = jnp.isneginf(l_1) & jnp.isneginf(l_2)
    a, b = jnp.where(nothing, 0, l_1), jnp.where(nothing, 0, l_2)
    top = jax.lax.stop_gradient(jnp.maximum(a, b))
    w_1, w_2 = (
        jnp.where(jnp.isneginf(x), 0, jnp.exp(jnp.where(jnp.isneginf(x), 0, x - top)))
        for x in (a, b)
    )
    total = w_1 + w_2
    o_1, o_2 = o_1.astype(l_1.dtype), o_2.astype(l_1.dtype)
    out = (w_1 / total)[..., None] * o_1 + (w_2 / total)[..., None] * o_2
    return out, jnp.where(nothing, -jnp.inf, jnp.log(total) + top)


def _bias_travels(bias: Array, query: Array, s: int, devices: int) -> bool:
    """Whether the bias is split with the keys rather than with the rows."""
    bias = floating_array("bias", bias)
    row_axis = bias.shape[-2] if bias.ndim > 1 else 1
    if bias.ndim > query.ndim or bias.shape[-1:] not in ((1,), (s,), (devices * s,)):
        raise value_error("bias", f"must have {s} (one device's) or {devices * s} (all) keys", bias)
    travels = bias.shape[-1] == s != 1 and devices > 1
    if travels and row_axis != 1:
        raise value_error(
            "bias",
            f"must be equal for all rows where it is split with the keys ({s} of them)",
            bias,
            f"Split it with the rows and keep all {devices * s} keys.",
        )
    return travels
