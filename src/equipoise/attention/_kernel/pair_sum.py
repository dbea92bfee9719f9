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
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._jax.evaluation import as_function, with_operands
from equipoise._jax.primitives import bound, is_linear, is_zero, primitive
from equipoise._jax.programs import ClosedProgram, constants
from equipoise._jax.varying import alike, types_alike
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.grid import Axes, Grid, Place, Schedule
from equipoise.attention._kernel.loop import walk, written_whole, zero_like_all
from equipoise.attention._kernel.products import evaluate

_Body = Callable[..., Sequence[Array]]
_PLACE, _SCHEDULE = len(Place._fields), len(Schedule._fields)


class Output(NamedTuple):
    """An output of the sum: its shape, and which of its axes run over heads, rows and keys."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: Axes


class Layout(NamedTuple):
    """What is static of a sum: where its arrays and its outputs lie on the grid."""

    axes: tuple[Axes, ...]
    outputs: tuple[Output, ...]
    grid: Grid


def pair_sum(
    body: _Body, schedule: Schedule, arrays: Sequence[Array], layout: Layout
) -> list[Array]:
    """Sums of ``body(place, *blocks)`` over the schedule."""
    place = Place(*_PLACE * (_resized(schedule.stop, ()),))
    blocks = [
        _resized(x, layout.grid.shape(x.shape, a)) for x, a in zip(arrays, layout.axes, strict=True)
    ]
    traced = jax.make_jaxpr(lambda place, *blocks: list(body(Place(*place), *blocks)))
    program = traced(place, *blocks)
    # Arrays that the body captured are operands like others.
    captured = constants(program)
    layout = layout._replace(axes=(Axes(),) * len(captured) + layout.axes)
    return _sums([*schedule, *captured, *arrays], with_operands(program, after=_PLACE), layout)


def _sums(operands: Sequence[Array], body: ClosedProgram, layout: Layout) -> list[Array]:
    return bound(_pair_sum_p, *operands, body=body, layout=layout)


def _split(operands: Sequence[PyTree]) -> tuple[Schedule, Sequence[PyTree]]:
    """The schedule and the arrays."""
    return Schedule(*operands[:_SCHEDULE]), operands[_SCHEDULE:]


def _resized(x: PyTree, shape: tuple[int, ...]) -> PyTree:
    """The type of an array, or of a direction yet to come, in another shape."""
    return (x.aval if is_linear(x) else jax.typeof(x)).update(shape=shape)


def _evaluate(*operands: Array, body: ClosedProgram, layout: Layout) -> list[Array]:
    axes, outputs, grid = layout
    schedule, arrays = _split(operands)
    nothing = {o.dtype: zero_like_all(operands, o.dtype) for o in outputs}

    def add(total: Array, part: Array, a: Axes, place: Place) -> Array:
        return grid.write(total, grid.read(total, a, place) + part, a, place)

    def update(totals: list[Array], place: Place, blocks: list[Array]) -> list[Array]:
        # Some of these are the loop's; the body was traced for the schedule's.
        *place_alike, _ = alike([*place, schedule.stop])
        parts = evaluate(body, *place_alike, *blocks)
        return [
            add(total, part, o.axes, place)
            for total, part, o in zip(totals, parts, outputs, strict=True)
        ]

    totals = [jnp.broadcast_to(nothing[o.dtype], o.shape) for o in outputs]
    found = walk(
        grid,
        schedule,
        arrays,
        axes,
        totals,
        start=lambda totals, _: totals,
        update=update,
        finish=lambda _, totals, __: totals,
    )
    return [written_whole(x, o.axes, grid) for x, o in zip(found, outputs, strict=True)]


def _abstract(*operands: PyTree, body: ClosedProgram, layout: Layout) -> Sequence[PyTree]:
    del body
    return types_alike([(o.shape, o.dtype) for o in layout.outputs], operands)


def _jvp(
    primals: Sequence[Array], tangents: Sequence[PyTree], *, body: ClosedProgram, layout: Layout
) -> tuple[list[Array], list[Array]]:
    schedule, arrays = _split(primals)
    out = _sums(primals, body, layout)
    moving = [i for i, t in enumerate(_split(tangents)[1]) if not is_zero(t)]
    run = as_function(body)
    count = len(arrays)

    def tangent(place: Place, *blocks: Array) -> Sequence[Array]:
        fixed, directions = blocks[:count], blocks[count:]

        def along(*values: Array) -> Sequence[Array]:
            full = list(fixed)
            for i, v in zip(moving, values, strict=True):
                full[i] = v
            return run(*place, *full)

        return jax.jvp(along, tuple(fixed[i] for i in moving), tuple(directions))[1]

    directions = [tangents[_SCHEDULE + i] for i in moving]
    axes = layout.axes + tuple(layout.axes[i] for i in moving)
    return out, pair_sum(tangent, schedule, [*arrays, *directions], layout._replace(axes=axes))


def _transpose(
    cotangents: Sequence[PyTree],
    *operands: PyTree,
    body: ClosedProgram,
    layout: Layout,
) -> list[Array | None]:
    axes, outputs, grid = layout
    schedule, arrays = _split(operands)
    linear = [i for i, x in enumerate(arrays) if is_linear(x)]
    known = [i for i in range(len(arrays)) if i not in linear]
    given = [i for i, ct in enumerate(cotangents) if not is_zero(ct)]
    run = as_function(body)
    directions = [_resized(arrays[i], grid.shape(arrays[i].aval.shape, axes[i])) for i in linear]

    def transposed(place: Place, *blocks: Array) -> Sequence[Array]:
        values = dict(zip(known, blocks, strict=False))

        def forward(*directions: Array) -> list[Array]:
            full = values | dict(zip(linear, directions, strict=True))
            out = run(*place, *(full[i] for i in range(len(arrays))))
            return [out[i] for i in given]

        return jax.linear_transpose(forward, *directions)(list(blocks[len(known) :]))

    sums = pair_sum(
        transposed,
        schedule,
        [*(arrays[i] for i in known), *(cotangents[i] for i in given)],
        Layout(
            tuple(axes[i] for i in known) + tuple(outputs[i].axes for i in given),
            tuple(Output(arrays[i].aval.shape, arrays[i].aval.dtype, axes[i]) for i in linear),
            grid,
        ),
    )
    found = dict(zip(linear, sums, strict=True))
    return [*[None] * _SCHEDULE, *(found.get(i) for i in range(len(arrays)))]


def _batch(
    args: Sequence[Array], dims: Sequence[int | None], *, body: ClosedProgram, layout: Layout
) -> tuple[list[Array], list[int]]:
    schedule, arrays = _split(args)
    if any(d is not None for d in dims[:_SCHEDULE]):
        raise NotImplementedError("a schedule is shared by all entries of a vmap")
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    at = dims[_SCHEDULE:]
    run = jax.vmap(
        lambda place, *blocks: as_function(body)(*place, *blocks),
        in_axes=(None, *(None if d is None else 0 for d in at)),
        axis_size=size,
    )
    out = pair_sum(
        run,
        schedule,
        [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(arrays, at, strict=True)],
        Layout(
            tuple(a if d is None else a.shifted() for a, d in zip(layout.axes, at, strict=True)),
            tuple(Output((size, *o.shape), o.dtype, o.axes.shifted()) for o in layout.outputs),
            layout.grid,
        ),
    )
    return out, [0] * len(out)


_pair_sum_p = primitive(
    "equipoise_pair_sum",
    evaluate=_evaluate,
    shapes=_abstract,
    jvp=_jvp,
    transpose=_transpose,
    batch=_batch,
    static=("body", "layout"),
)
