"""Sums over blocks of pairs: one loop, closed under jvp, transposition and vmap.

``pair_sum`` runs a body on each scheduled block (i, j) of a rows × keys grid, for one block of
heads after another, and adds what the body returns: outputs with a row axis into the rows of block
i, outputs with a key axis into the keys of block j, others into one total. Its tangent is the sum
of the body's tangents and its transpose the sum of the body's transposes, over the same schedule;
so every derivative, of any order, computes the same blocks, recomputes what it needs in a block,
and stores nothing between blocks. ``lax.scan`` would store residuals and add zeros of full size at
each read of a block.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from equipoise._types import Array
from equipoise.attention._grid import Axes, Grid, Place, Schedule
from equipoise.attention._products import evaluate

_ZERO = np.int32(0)
_shaped: Any = jax.ShapeDtypeStruct
_is_linear: Any = ad.is_undefined_primal


def pair_sum(
    body: Callable[..., Sequence[Array]],
    schedule: Schedule,
    arrays: Sequence[Array],
    axes: Sequence[Axes],
    out_axes: Sequence[Axes],
    out_shapes: Sequence[jax.ShapeDtypeStruct],
    grid: Grid,
) -> list[Array]:
    """Sums of ``body(place, *blocks)`` over the schedule."""
    return _bind(body, schedule, arrays, tuple(axes), tuple(out_axes), tuple(out_shapes), grid)


def _bind(
    body: Any, schedule: Any, arrays: Any, axes: Any, out_axes: Any, out_shapes: Any, grid: Any
) -> list[Array]:
    start = jax.typeof(jnp.int32(0))
    place = Place(*3 * (start,), *2 * (jax.typeof(schedule.order).update(shape=()),))
    blocks = [
        jax.typeof(x).update(shape=grid.shape(x.shape, a))
        for x, a in zip(arrays, axes, strict=True)
    ]
    program = jax.make_jaxpr(lambda place, *blocks: list(body(Place(*place), *blocks)))(
        place, *blocks
    )
    # Arrays that the body captured are operands like others.
    captured = list(program.consts)
    program = _with_operands(program)
    out: list[Array] = pair_sum_p.bind(
        *schedule,
        *captured,
        *arrays,
        body=program,
        axes=(Axes(),) * len(captured) + axes,
        out_axes=out_axes,
        out_shapes=out_shapes,
        grid=grid,
    )
    return out


def _with_operands(program: Any) -> ClosedJaxpr:
    """The program with its constants as operands, after the numbers of the place."""
    first, count = len(Place._fields), len(program.consts)

    def run(*args: Any) -> Any:
        place, consts, blocks = args[:first], args[first : first + count], args[first + count :]
        return jaxpr_as_fun(program.replace(consts=list(consts)))(*place, *blocks)

    avals = program.in_avals
    return jax.make_jaxpr(run)(*avals[:first], *map(jax.typeof, program.consts), *avals[first:])


def zero_like_all(arrays: Sequence[Array], dtype: Any) -> Array:
    """A scalar zero that varies over the mesh axes that any of the arrays varies over."""
    total = jnp.zeros((), dtype)
    for x in arrays:
        if x.ndim and not jnp.issubdtype(x.dtype, jax.dtypes.extended):
            empty = lax.slice_in_dim(x, 0, 0, axis=0)
            total = total + jnp.sum(empty).astype(dtype)
        elif not x.ndim:
            total = total + jnp.sum(x[None][:0]).astype(dtype)
    return total


def repeat(count: Any, body: Callable[..., Any], carry: Any, *, most: int) -> Any:
    """The carry after ``body(i, carry)`` for i < count ≤ most; without a loop where most is 1.

    A single block may be computed though nothing in it is allowed: it adds zeros.
    """
    if most == 1:
        return body(_ZERO, carry)
    return lax.fori_loop(_ZERO, jnp.asarray(count, jnp.int32), body, carry)


def _evaluate(
    order: Array,
    counts: Array,
    *arrays: Array,
    body: ClosedJaxpr,
    axes: tuple[Axes, ...],
    out_axes: tuple[Axes, ...],
    out_shapes: tuple[jax.ShapeDtypeStruct, ...],
    grid: Grid,
) -> list[Array]:
    def add(total: Array, part: Array, a: Axes, place: Place) -> Array:
        if a == Axes():
            return total + part
        return grid.write(total, grid.read(total, a, place) + part, a, place)

    by_row = [a.row is not None and a.key is None for a in axes]
    out_by_row = [a.row is not None and a.key is None for a in out_axes]
    nothing = {s.dtype: zero_like_all((order, *arrays), s.dtype) for s in out_shapes}

    def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.broadcast_to(nothing[dtype], shape)

    def row_block(i: Array, totals: list[Array]) -> list[Array]:
        rows = grid.rows_at(i)
        held = [
            grid.read(x, a, rows) if r else x for x, a, r in zip(arrays, axes, by_row, strict=True)
        ]
        # What belongs to these rows alone gathers in a block, and is written once.
        carry = [
            zeros(grid.shape(s.shape, a), s.dtype) if r else total
            for total, s, a, r in zip(totals, out_shapes, out_axes, out_by_row, strict=True)
        ]
        entry = i % order.shape[0]

        def pair(p: Array, carry: list[Array]) -> list[Array]:
            place = grid.keys_at(rows, order[entry, jnp.asarray(p, jnp.int32)])
            blocks = [
                x if r else grid.read(x, a, place)
                for x, a, r in zip(held, axes, by_row, strict=True)
            ]
            parts = evaluate(body, *place, *blocks)
            return [
                total + part if r else add(total, part, a, place)
                for total, part, a, r in zip(carry, parts, out_axes, out_by_row, strict=True)
            ]

        carry = repeat(counts[entry], pair, carry, most=order.shape[1])
        return [
            add(total, part, a, rows) if r else part
            for total, part, a, r in zip(totals, carry, out_axes, out_by_row, strict=True)
        ]

    totals = [zeros(s.shape, s.dtype) for s in out_shapes]
    steps = grid.head_blocks * order.shape[0]
    return list(repeat(steps, row_block, totals, most=steps))


def _abstract(order: Any, counts: Any, *arrays: Any, out_shapes: Any, **_: Any) -> Any:
    def outline(*args: Array) -> list[Array]:
        return [jnp.broadcast_to(zero_like_all(args, s.dtype), s.shape) for s in out_shapes]

    return jax.make_jaxpr(outline)(order, *arrays).out_avals


def _jvp(primals: Any, tangents: Any, *, body: Any, axes: Any, **params: Any) -> Any:
    order, counts, *arrays = primals
    out = pair_sum_p.bind(*primals, body=body, axes=axes, **params)
    moving = [i for i, t in enumerate(tangents[2:]) if not isinstance(t, ad.Zero)]
    run = jaxpr_as_fun(body)
    count = len(arrays)

    def tangent(place: Place, *blocks: Array) -> Any:
        fixed, directions = list(blocks[:count]), blocks[count:]

        def along(*values: Array) -> Any:
            full = list(fixed)
            for i, v in zip(moving, values, strict=True):
                full[i] = v
            return run(*place, *full)

        return jax.jvp(along, tuple(fixed[i] for i in moving), tuple(directions))[1]

    tangents_out = _bind(
        tangent,
        Schedule(order, counts),
        [*arrays, *(tangents[2 + i] for i in moving)],
        axes + tuple(axes[i] for i in moving),
        **params,
    )
    return out, tangents_out


def _transpose(
    cotangents: Any,
    order: Any,
    counts: Any,
    *arrays: Any,
    body: Any,
    axes: Any,
    out_axes: Any,
    out_shapes: Any,
    grid: Any,
) -> Any:
    linear = [i for i, x in enumerate(arrays) if _is_linear(x)]
    known = [i for i in range(len(arrays)) if i not in linear]
    given = [i for i, ct in enumerate(cotangents) if not isinstance(ct, ad.Zero)]
    run = jaxpr_as_fun(body)

    def transposed(place: Place, *blocks: Array) -> Any:
        values, cts = blocks[: len(known)], blocks[len(known) :]

        def forward(*directions: Array) -> Any:
            full: list[Any] = [None] * len(arrays)
            for i, v in zip(known, values, strict=True):
                full[i] = v
            for i, v in zip(linear, directions, strict=True):
                full[i] = v
            out = run(*place, *full)
            return [out[i] for i in given]

        avals = [
            arrays[i].aval.update(shape=grid.shape(arrays[i].aval.shape, axes[i])) for i in linear
        ]
        return jax.linear_transpose(forward, *avals)(list(cts))

    result = _bind(
        transposed,
        Schedule(order, counts),
        [*(arrays[i] for i in known), *(cotangents[i] for i in given)],
        tuple(axes[i] for i in known) + tuple(out_axes[i] for i in given),
        out_axes=tuple(axes[i] for i in linear),
        out_shapes=tuple(_shaped(arrays[i].aval.shape, arrays[i].aval.dtype) for i in linear),
        grid=grid,
    )
    full: list[Any] = [None] * (2 + len(arrays))
    for i, ct in zip(linear, result, strict=True):
        full[2 + i] = ct
    return full


def _batch(
    args: Any, dims: Any, *, body: Any, axes: Any, out_axes: Any, out_shapes: Any, grid: Any
) -> Any:
    order, counts, *arrays = args
    if any(d is not None for d in dims[:2]):
        raise NotImplementedError("a schedule is shared by all entries of a vmap")
    mapped = [d is not None for d in dims[2:]]
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    arrays = [
        jnp.moveaxis(x, d, 0) if m else x for x, d, m in zip(arrays, dims[2:], mapped, strict=True)
    ]
    run = jax.vmap(
        lambda place, *blocks: jaxpr_as_fun(body)(*place, *blocks),
        in_axes=(None, *(0 if m else None for m in mapped)),
        axis_size=size,
    )
    out = _bind(
        run,
        Schedule(order, counts),
        arrays,
        tuple(a.shifted() if m else a for a, m in zip(axes, mapped, strict=True)),
        tuple(a.shifted() for a in out_axes),
        tuple(_shaped((size, *s.shape), s.dtype) for s in out_shapes),
        grid,
    )
    return out, (0,) * len(out)


pair_sum_p: Any = Primitive("equipoise_pair_sum")
pair_sum_p.multiple_results = True
pair_sum_p.def_impl(
    jax.jit(_evaluate, static_argnames=("body", "axes", "out_axes", "out_shapes", "grid"))
)
pair_sum_p.def_abstract_eval(_abstract)
ad.primitive_jvps[pair_sum_p] = _jvp
ad.primitive_transposes[pair_sum_p] = _transpose
batching.primitive_batchers[pair_sum_p] = _batch
mlir.register_lowering(pair_sum_p, mlir.lower_fun(_evaluate, multiple_results=True))
