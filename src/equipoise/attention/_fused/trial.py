"""Whether the kernel can be trusted on the machine at hand: it is tried before it is used."""

import concurrent.futures
import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array
from equipoise.attention._fused import guard
from equipoise.attention._fused.request import Arrays, Plan

_LOGGER = logging.getLogger("equipoise.attention")
_Types = tuple[tuple[tuple[int, ...], np.dtype], ...]


def fault(plan: Plan, leaves: tuple[Array, ...], *, backward: bool) -> str | None:
    """Why the kernel is not to be used for such a request on this machine; None where it is.

    Where no CUDA device is at hand the program is for another machine, and nothing can be tried.
    """
    types = tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
    return cached_fault(dataclasses.replace(plan, forced=False), types, backward)


@functools.cache
def cached_fault(plan: Plan, types: _Types, backward: bool) -> str | None:  # noqa: FBT001
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:
        return None
    # In a thread of its own neither a trace nor a mesh of the caller's reaches the trial.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reason = pool.submit(_tried, plan, types, backward, device).result()
    if reason is not None:
        _LOGGER.warning("cuDNN's attention is not used for %s of %s: %s", plan, types, reason)
    return reason


def _tried(plan: Plan, types: _Types, backward: bool, device: jax.Device) -> str | None:  # noqa: FBT001
    """The reason against the kernel, or None."""
    run = jax.jit(functools.partial(_both if backward else _values, plan))
    sizes = dict(zip(plan.names, types, strict=True))
    with (
        jax.default_device(device),
        jax.numpy_dtype_promotion("standard"),
        jax.default_matmul_precision("highest"),
    ):
        try:
            asked = [jax.ShapeDtypeStruct(*x) for x in (*types, types[0])]  # type: ignore[no-untyped-call]
            run.lower(*asked).compile()
            small = _small(plan, sizes)
            errors = jax.jit(functools.partial(_errors, plan))(run(*small), small)
        # Whatever it raises where a driver, a library or a shape does not suit it.
        except Exception as error:
            return f"it raises {type(error).__name__}: {error}"
    for name, (off, size) in errors.items():
        # Rounding of operands, weights and results to half precision, 2^-9 each, in sums of
        # terms of either sign; a wrong mask, scale or head is off by the whole.
        if not off <= 0.02 * size:
            return f"its {name} is off by {float(off):.3g}"
    return None


def _values(plan: Plan, *leaves: Array) -> dict[str, Array]:
    out, lse, _ = guard.forward(plan, plan.arrays(leaves[:-1]))
    return _named(out, lse)


def _both(plan: Plan, *leaves: Array) -> dict[str, Array]:
    arrays = plan.arrays(leaves[:-1])
    out, lse, _ = guard.forward(plan, arrays)
    grads, _ = guard.backward(plan, arrays, out, lse, leaves[-1])
    return _named(out, lse) | {f"cotangent of {name}": x for name, x in grads.items()}


def _small(plan: Plan, sizes: dict[str, tuple[tuple[int, ...], np.dtype]]) -> list[Array]:
    """Random arrays of a small request of the same kind, and a cotangent of its output."""
    rng = np.random.default_rng(0)
    (b, t, n, h), dtype = sizes["query"]
    _, s, k, _ = sizes["key"][0]
    batch, heads = min(b, 2), min(k, 2)
    # One whole block of rows or keys, and what is left over.
    rows, keys = (160 if t >= s else 96), (160 if t <= s else 96)
    whole = (batch, n // k * heads, rows, keys)
    shapes = dict.fromkeys(("key", "value"), (batch, keys, heads, h))
    shapes["query"] = (batch, rows, whole[1], h)
    made = []
    for name in plan.names:
        shape = sizes[name][0]
        if name in shapes:
            x = rng.normal(size=shapes[name])
        elif name in ("bias", "allowed"):
            cut = tuple(m if size > 1 else 1 for m, size in zip(whole, shape, strict=True))
            x = rng.normal(size=cut)
            x = x if name == "bias" else (x < 0.5) | (np.arange(cut[-1]) == 0)
        else:
            x = np.array([(rows if name == "rows" else keys) - 7, 5])[: min(shape[0], batch)]
        made.append(x.astype(sizes[name][1]))
    return [jnp.asarray(x) for x in (*made, rng.normal(size=shapes["query"]).astype(dtype))]


def _errors(
    plan: Plan, found: dict[str, Array], leaves: list[Array]
) -> dict[str, tuple[Array, Array]]:
    """How far each array is off from its definition at most, and how large that is at most."""
    wanted = _definition(plan, leaves)
    off = {name: jnp.abs(x.astype(jnp.float32) - wanted[name]) for name, x in found.items()}
    return {name: (jnp.max(x), jnp.max(jnp.abs(wanted[name]))) for name, x in off.items()}


def _definition(plan: Plan, leaves: list[Array]) -> dict[str, Array]:
    """What the kernel is to give, from whole matrices in float32."""
    arrays = plan.arrays(leaves[:-1])
    groups = arrays.query.shape[2] // arrays.key.shape[2]
    mask = permitted(plan, arrays)
    mask = mask if arrays.allowed is None else mask & arrays.allowed

    def attend(moving: dict[str, Array]) -> tuple[Array, Array]:
        k, v = (jnp.repeat(moving[name], groups, 2) for name in ("key", "value"))
        score = plan.scale * jnp.einsum("btnh,bsnh->bnts", moving["query"], k)
        score = jnp.where(mask, score + moving.get("bias", 0), -jnp.inf)
        top = jax.lax.stop_gradient(jnp.maximum(jnp.max(score, -1, keepdims=True), -1e30))
        weight = jnp.exp(score - top)
        total = jnp.sum(weight, -1, keepdims=True)
        lse = jnp.swapaxes((jnp.log(total) + top)[..., 0], 1, 2)
        weight = weight / jnp.where(total == 0, 1, total)
        return jnp.einsum("bnts,bsnh->btnh", weight, v), lse

    names = [name for name in ("query", "key", "value", "bias") if name in plan.names]
    moving = {name: getattr(arrays, name).astype(jnp.float32) for name in names}
    out, pull, lse = jax.vjp(attend, moving, has_aux=True)
    (grads,) = pull(leaves[-1].astype(jnp.float32))
    return _named(out, lse) | {f"cotangent of {name}": x for name, x in grads.items()}


def _named(out: Array, lse: Array) -> dict[str, Array]:
    # A row that reads nothing has −inf, which has no distance to itself.
    return {"output": out, "log-sum-exp": jnp.where(jnp.isneginf(lse), 0, lse)}


def permitted(plan: Plan, arrays: Arrays) -> Array:
    """The pairs (b or 1, 1, t, s) that positions and lengths permit."""
    t, s = arrays.query.shape[1], arrays.key.shape[1]
    row, key = (jnp.arange(m, dtype=jnp.int32) for m in (t, s))
    row, key = row[None, None, :, None], key[None, None, None]
    mask = jnp.ones((1, 1, t, s), bool)
    if plan.causal:
        mask = mask & (key <= row)
    if plan.window is not None:
        mask = mask & (key >= row - plan.window)
    if arrays.rows is not None:
        mask = mask & (row < arrays.rows[:, None, None, None])
    if arrays.keys is not None:
        mask = mask & (key < arrays.keys[:, None, None, None])
    return mask
