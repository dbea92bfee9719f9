"""What the kernel's results hold where it masks, and whether anything leaked through its masks.

A kernel multiplies what it masks by a weight of 0, so that a key or cotangent that is not finite
reaches results that it must not. It then reaches a result that is not finite either: where all of
them are finite nothing leaked, and that is looked at instead of the operands.
"""

import jax.numpy as jnp

from equipoise._types import Array
from equipoise.attention._fused import cudnn
from equipoise.attention._fused.request import Arrays, Plan


def forward(plan: Plan, arrays: Arrays) -> tuple[Array, Array, Array | None]:
    """(o, lse (b, t, n), whether they are sound); None where nothing is masked."""
    out, lse = cudnn.forward(plan, arrays)
    sound = None
    if arrays.bias is not None or arrays.allowed is not None:
        sound = jnp.all(cudnn.reached(arrays, lse))
    lse = jnp.swapaxes(lse, 1, 2)
    rows, _ = _alive(plan, arrays)
    if rows is not None:
        out = jnp.where(rows[..., None, None], out, 0)
        lse = jnp.where(rows[..., None], lse, -jnp.inf)
    if _all_meet(plan, arrays):
        # The last row reads every key.
        return out, lse, _finite(out[:, -1:]) if plan.causal else sound
    return out, lse, _finite(out) if sound is None else sound & _finite(out)


def backward(
    plan: Plan, arrays: Arrays, out: Array, lse: Array, cotangent: Array
) -> tuple[dict[str, Array], Array | None]:
    """(cotangents by name, whether they are sound); None where nothing is masked."""
    rows, keys = _alive(plan, arrays)
    if rows is not None:
        # Weights of a row that reads nothing are e^(score − lse) = 0.
        lse = jnp.where(rows[..., None], lse, 2.0**40)
        cotangent = jnp.where(rows[..., None, None], cotangent, 0)
    grads = cudnn.backward(plan, arrays, out, jnp.swapaxes(lse, 1, 2), cotangent)
    for name, alive in (("query", rows), ("key", keys), ("value", keys)):
        if alive is not None:
            grads[name] = jnp.where(alive[..., None, None], grads[name], 0)
    if not _all_meet(plan, arrays):
        return grads, jnp.all(jnp.stack([_finite(x) for x in grads.values()]))
    if not plan.causal:
        return grads, None
    # Every row reads the first key, and the last row every key.
    met = grads["query"][:, -1:], grads["key"][:, :1], grads["value"][:, :1]
    return grads, jnp.all(jnp.stack([_finite(x) for x in met]))


def _all_meet(plan: Plan, arrays: Arrays) -> bool:
    """Whether no pair is masked, but for a causal mask under which the last row reads all keys."""
    extras = (arrays.bias, arrays.allowed, arrays.rows, arrays.keys, plan.window)
    met = not plan.causal or arrays.key.shape[1] <= arrays.query.shape[1]
    return met and all(x is None for x in extras)


def _finite(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x))


def _alive(plan: Plan, arrays: Arrays) -> tuple[Array | None, Array | None]:
    """Which rows (b or 1, t) read some key, and which keys (b or 1, s) count; None for all."""
    t, s = arrays.query.shape[1], arrays.key.shape[1]
    row, key = (jnp.arange(n, dtype=jnp.int32)[None] for n in (t, s))
    keys = None if arrays.keys is None else key < arrays.keys[:, None]
    # The first key that a row reads, if its window is not beyond all of them.
    first = jnp.zeros_like(row) if plan.window is None else jnp.maximum(row - plan.window, 0)
    beyond = plan.window is not None and t - 1 - plan.window >= s
    rows = None
    if arrays.keys is not None or beyond:
        rows = first < (s if arrays.keys is None else arrays.keys[:, None])
    if arrays.rows is not None:
        inside = row < arrays.rows[:, None]
        rows = inside if rows is None else rows & inside
    return rows, keys
