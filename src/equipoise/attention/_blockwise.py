"""Attention by blocks: the forward loop, and its tangent as a sum over pairs of blocks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from equipoise._types import Array
from equipoise.attention._fused import Kernel
from equipoise.attention._grid import Axes, Grid, Place, Schedule
from equipoise.attention._pair_sum import pair_sum, repeat, zero_like_all
from equipoise.attention._problem import Problem
from equipoise.attention._schedule import any_of_batch, grid_of, schedule_of
from equipoise.attention._scores import Block, dropout, scores

# Of (b, t, n, ...): the outputs and what is like them.
_BY_ROW = Axes(head=2, row=1)


def blockwise(
    problem: Problem, block_size: int | None, kernel: Kernel | None = None
) -> tuple[Array, Array]:
    """(o, lse) with o (b, t, n, e) and lse (b, t, n) in the dtype of sums.

    A kernel gives the value of o where nothing is differentiated; lse is then not to be used.
    """
    b, t, s, k, g = problem.sizes
    if 0 in (b, t, s, g):
        shape = (b, t, k * g)
        zero = zero_like_all(jax.tree.leaves(problem), problem.dtype)
        out = jnp.broadcast_to(zero, (*shape, problem.value.shape[-1]))
        return out, jnp.broadcast_to(zero - jnp.inf, shape)
    problem = dataclasses.replace(problem, sinks=None, static_scale=None)
    grid = grid_of(problem, block_size)
    return _attend(problem, schedule_of(problem, grid), _Static(grid, kernel))


def _axes(problem: Problem) -> Problem:
    """For each array of the problem, which of its axes run over heads, rows and keys."""

    def pairs(x: Any) -> Any:
        return None if x is None else Axes(*(a if x.shape[a] > 1 else None for a in (1, 2, 3)))

    everywhere = jax.tree.map(lambda _: Axes(), problem)
    axes: Problem = dataclasses.replace(
        everywhere,
        query=Axes(head=2, row=1),
        key=Axes(head=2, key=1),
        value=Axes(head=2, key=1),
        bias=pairs(problem.bias),
        allowed=pairs(problem.allowed),
        kept=None if problem.kept is None else (Axes(head=1, row=2), Axes(key=0)),
    )
    return axes


def _leaf_axes(problem: Problem) -> list[Axes]:
    return jax.tree.leaves(_axes(problem), is_leaf=lambda x: isinstance(x, Axes))


def _block(problem: Problem, place: Place, grid: Grid) -> tuple[Problem, Block]:
    """A problem whose arrays were cut to a block, with the indices of its rows and keys."""
    rows = place.row_start + jnp.arange(grid.row_block, dtype=jnp.int32)
    keys = place.key_start + jnp.arange(grid.key_block, dtype=jnp.int32)
    words = problem.kept or (None, None)
    first_head = place.head * problem.sizes[-1]
    return problem, Block(
        problem.query, problem.key, first_head, rows, keys, problem.bias, problem.allowed, *words
    )


def _overlap(place: Place, block: Block, grid: Grid, *, of_rows: bool) -> Array | None:
    """Pairs that no earlier block had, (1, 1, t or 1, s or 1); None where all are new."""
    fresh = None
    if grid.keys % grid.key_block:
        fresh = (block.keys >= place.key_first)[None, None, None, :]
    if of_rows and grid.rows % grid.row_block:
        rows = (block.rows >= place.row_first)[None, None, :, None]
        fresh = rows if fresh is None else rows & fresh
    return fresh


def _also(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a & b


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    grid: Grid
    kernel: Kernel | None = None


@jax.custom_jvp
def _attend(problem: Problem, schedule: Schedule, static: Any) -> tuple[Array, Array]:
    if static.kernel is not None:
        return static.kernel(problem)
    return _forward(problem, schedule, static.grid)


def _clean(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _forward(problem: Problem, schedule: Schedule, grid: Grid) -> tuple[Array, Array]:
    """Streams keys past each block of rows with a running maximum."""
    b, t, _, k, g = problem.sizes
    e, dtype = problem.value.shape[-1], problem.dtype
    leaves, structure = jax.tree.flatten(problem)
    axes = _leaf_axes(problem)
    zero = zero_like_all((*leaves, *schedule), dtype)

    def row_block(i: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
        rows = grid.rows_at(i)
        # What runs over keys is read pair by pair, anything else once for the rows.
        held = [
            grid.read(x, a, rows) if a.key is None else x for x, a in zip(leaves, axes, strict=True)
        ]
        entry = i % len(schedule.order)

        def pair(p: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, acc = carry
            place = grid.keys_at(rows, schedule.order[entry, jnp.asarray(p, jnp.int32)])
            cuts = [
                x if a.key is None else grid.read(x, a, place)
                for x, a in zip(held, axes, strict=True)
            ]
            part, block = _block(jax.tree.unflatten(structure, cuts), place, grid)
            score, allowed = scores(part, block)
            allowed = _also(allowed, _overlap(place, block, grid, of_rows=False))
            if allowed is not None:
                score = jnp.where(allowed, score, -jnp.inf)
            peak = jnp.maximum(top, jnp.max(score, axis=-1))
            finite = jnp.where(jnp.isneginf(peak), 0, peak)
            weight = jnp.exp(score - finite[..., None])
            shrink = jnp.exp(top - finite)
            total = total * shrink + jnp.sum(weight, axis=-1)
            factor = dropout(part, block)
            if factor is not None:
                weight = weight * factor
            acc = acc * shrink[..., None] + _weighted(weight, allowed, part.value)
            return peak, total, acc

        shape = (b, grid.head_block * g, grid.row_block)
        start = (
            jnp.broadcast_to(zero - jnp.inf, shape),
            jnp.broadcast_to(zero, shape),
            jnp.broadcast_to(zero, (*shape, e)),
        )
        top, total, acc = repeat(schedule.counts[entry], pair, start, most=schedule.order.shape[1])
        empty = total == 0
        safe = jnp.where(empty, 1, total)
        lse = jnp.where(empty, -jnp.inf, top + jnp.log(safe))
        parts = jnp.swapaxes(acc / safe[..., None], 1, 2), jnp.swapaxes(lse, 1, 2)
        return tuple(  # type: ignore[return-value]
            grid.write(whole, part, _BY_ROW, rows)
            for whole, part in zip(totals, parts, strict=True)
        )

    whole = (
        jnp.broadcast_to(zero, (b, t, k * g, e)),
        jnp.broadcast_to(zero, (b, t, k * g)),
    )
    steps = grid.head_blocks * len(schedule.order)
    out, lse = repeat(steps, row_block, whole, most=steps)
    return out, lse


def _times_value(weight: Array, value: Array) -> Array:
    """(b, n, t, s) × (b, s, k, e) → (b, n, t, e); query heads of a group share the rows."""
    b, n, t, s = weight.shape
    keys = jnp.swapaxes(value.astype(weight.dtype), 1, 2)
    k = keys.shape[1]
    out = jnp.einsum("bkrs,bkse->bkre", weight.reshape(b, k, n // k * t, s), keys)
    return out.reshape(b, n, t, -1)


def _weighted(weight: Array, allowed: Array | None, value: Array) -> Array:
    """The weighted sum of values; what is not finite counts only where it may be read."""
    if allowed is None:
        return _times_value(weight, value)

    def exact(weight: Array, value: Array) -> Array:
        reads = jnp.broadcast_to(allowed, weight.shape).astype(weight.dtype)
        out = _times_value(weight, _clean(value))
        for test, result in (
            (jnp.isnan, jnp.nan),
            (jnp.isposinf, jnp.inf),
            (jnp.isneginf, -jnp.inf),
        ):
            out = out + jnp.where(_times_value(reads, test(value)) > 0, result, 0).astype(out.dtype)
        return out

    broken = any_of_batch(~jnp.isfinite(jnp.max(jnp.abs(value))))
    out: Array = lax.cond(broken, exact, _times_value, weight, value)
    return out


def _attend_jvp(primals: Any, tangents: Any) -> Any:
    problem, schedule, static = primals
    out, lse = _attend(problem, schedule, _Static(static.grid))
    moving = [
        not isinstance(x, SymbolicZero) for x in jax.tree.leaves(tangents[0], is_leaf=_is_zero)
    ]
    directions = [
        x for x in jax.tree.leaves(tangents[0], is_leaf=_is_zero) if not isinstance(x, SymbolicZero)
    ]
    return (out, lse), _tangent(problem, schedule, static.grid, out, lse, moving, directions)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


_attend.defjvp(_attend_jvp, symbolic_zeros=True)


def _tangent(
    problem: Problem,
    schedule: Schedule,
    grid: Grid,
    out: Array,
    lse: Array,
    moving: list[bool],
    directions: list[Array],
) -> tuple[Array, Array]:
    """The tangent of (o, lse): with W = P∘Ṡ, L̇ = rowsum W and Ȯ = WV + PV̇ − L̇∘O."""
    leaves, structure = jax.tree.flatten(problem)
    axes = _leaf_axes(problem)
    count = len(leaves)

    def body(place: Place, *blocks: Array) -> tuple[Array, Array]:
        values, out, lse, directions = (
            list(blocks[:count]),
            blocks[count],
            blocks[count + 1],
            blocks[count + 2 :],
        )
        part = jax.tree.unflatten(structure, values)
        part = dataclasses.replace(
            part, query=_clean(part.query), key=_clean(part.key), value=_clean(part.value)
        )
        values = jax.tree.leaves(part)
        # One entry a leaf: its direction, or None where it stands still.
        along = iter(directions)
        steps = [next(along) if m else None for m in moving]

        def moved(*variables: Array) -> tuple[Array, Array | None]:
            given = iter(variables)
            full = [next(given) if m else v for m, v in zip(moving, values, strict=True)]
            return scores(*_block(jax.tree.unflatten(structure, full), place, grid))

        score, score_dot, allowed = jax.jvp(
            moved,
            [v for m, v in zip(moving, values, strict=True) if m],
            list(directions),
            has_aux=True,
        )
        _, block = _block(part, place, grid)
        allowed = _also(allowed, _overlap(place, block, grid, of_rows=True))
        lse = jnp.swapaxes(lse, 1, 2)[..., None]
        shifted = score - jnp.where(jnp.isneginf(lse), 0, lse)
        if allowed is not None:
            shifted = jnp.where(allowed, shifted, -jnp.inf)
        weight = jnp.exp(shifted)
        change = weight * score_dot
        if allowed is not None:
            change = jnp.where(allowed, change, 0)
        lse_dot = jnp.sum(change, axis=-1)
        factor = dropout(part, block)
        if factor is not None:
            weight, change = weight * factor, change * factor
        out_dot = _times_value(change, part.value) - lse_dot[..., None] * jnp.swapaxes(out, 1, 2)
        value_dot = jax.tree.unflatten(structure, [x if x is not None else 0 for x in steps]).value
        if not isinstance(value_dot, int):
            out_dot = out_dot + _times_value(weight, value_dot)
        return jnp.swapaxes(out_dot, 1, 2), jnp.swapaxes(lse_dot, 1, 2)

    shaped: Any = jax.ShapeDtypeStruct
    result = pair_sum(
        body,
        schedule,
        [*leaves, out, lse, *directions],
        [*axes, _BY_ROW, _BY_ROW, *(a for a, m in zip(axes, moving, strict=True) if m)],
        (_BY_ROW, _BY_ROW),
        [shaped(x.shape, x.dtype) for x in (out, lse)],
        grid,
    )
    return result[0], result[1]
