"""The tangent of attention, or of a part of it, as a sum over pairs of blocks."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from equipoise._jax.late import late
from equipoise._jax.zeros import is_zero
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.grid import Axes, Grid, Place, times
from equipoise.attention._kernel.operations import (
    both,
    heads_first,
    only,
    spread,
    times_rows,
    times_value,
)
from equipoise.attention._kernel.pair_sum import Layout, Output, pair_sum
from equipoise.attention._kernel.problem import Block, Problem, dropout, scores
from equipoise.attention._kernel.schedule import Where, grid_of, schedule_of

# Of (b, t, n, ...): the outputs and what is like them.
BY_ROW = Axes(head=2, row=1)


def leaf_axes(problem: Problem) -> list[Axes]:
    """For each array of the problem, which of its axes run over heads, rows and keys."""

    def pairs(x: Array | None) -> Axes | None:
        return None if x is None else Axes(*(None if x.shape[a] == 1 else a for a in (1, 2, 3)))

    axes: PyTree = jax.tree.map(lambda _: Axes(), problem)
    axes = dataclasses.replace(
        axes,
        query=BY_ROW,
        key=Axes(head=2, key=1),
        value=Axes(head=2, key=1),
        bias=pairs(problem.bias),
        allowed=pairs(problem.allowed),
        kept=None if problem.kept is None else (Axes(head=1, row=2), Axes(key=0)),
    )
    return jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes))


def block_of(problem: Problem, place: Place, grid: Grid) -> Block:
    """The block at a place, of a problem whose arrays were cut to it."""
    rows = lax.add(lax.iota(jnp.int32, grid.block_rows), place.row_start)
    keys = lax.add(lax.iota(jnp.int32, grid.block_keys), place.key_start)
    return Block(problem, times(place.head, problem.sizes[-1]), rows, keys)


def overlap(place: Place, block: Block, grid: Grid, *, of_rows: bool) -> Array | None:
    """Pairs that no earlier block had, (1, 1, t or 1, s or 1); None where all are new."""
    fresh = None
    if grid.keys % grid.block_keys != 0:
        fresh = (block.keys >= place.key_first)[None, None, None, :]
    if of_rows and grid.rows % grid.block_rows != 0:
        fresh = both((block.rows >= place.row_first)[None, None, :, None], fresh)
    return fresh


def scores_along(block: Block, directions: dict[int, Array]) -> tuple[Array, Array, Array | None]:
    """(scores, their tangent, permission) along directions of some arrays of the problem."""
    fixed, structure = jax.tree.flatten(block.problem)

    def moved(variables: dict[int, Array]) -> tuple[Array, Array | None]:
        full = [variables.get(i, x) for i, x in enumerate(fixed)]
        return scores(block._replace(problem=jax.tree.unflatten(structure, full)))

    point = {i: fixed[i] for i in directions}
    return jax.jvp(moved, (point,), (directions,), has_aux=True)


def tangent(
    problem: Problem,
    out: Array,
    lse: Array,
    directions: Sequence[Array | None],
    where: Where,
) -> tuple[Array, Array]:
    """The tangent of (o, lse): with W = P∘Ṡ, L̇ = rowsum W and Ȯ = WV + PV̇ − L̇∘O.

    There is a direction for each array of the problem; None where it stands still.
    """
    kinds = [(x.shape, x.dtype) for x in (out, lse)]
    out_dot, lse_dot = late(_tangent, where, problem, out, lse, list(directions), results=kinds)
    return out_dot, lse_dot


def _tangent(
    platform: str,
    where: Where,
    problem: Problem,
    out: Array,
    lse: Array,
    directions: Sequence[Array | None],
) -> tuple[Array, Array]:
    grid = grid_of(problem, where.on(platform))
    schedule = schedule_of(problem, grid)
    leaves, structure = jax.tree.flatten(problem)
    moving = [i for i, direction in enumerate(directions) if direction is not None]
    count = len(leaves)

    def body(place: Place, *blocks: Array) -> tuple[Array, Array]:
        values, lse, along = blocks[:count], blocks[count], blocks[count + 1 :]
        part = jax.tree.unflatten(structure, values)
        block = block_of(part.cleaned(), place, grid)
        score, score_dot, allowed = scores_along(block, dict(zip(moving, along, strict=True)))
        allowed = both(allowed, overlap(place, block, grid, of_rows=True))
        lse = heads_first(lse)
        safe = only(lse, lse != -jnp.inf, 0)
        shifted = lax.sub(score, spread(safe, score))
        if allowed is not None:
            shifted = only(shifted, allowed, -jnp.inf)
        weight = lax.exp(shifted)
        change = lax.mul(weight, score_dot)
        if allowed is not None:
            change = only(change, allowed, 0)
        lse_dot = lax.reduce_sum(change, (3,))
        factor = dropout(block)
        if factor is not None:
            weight, change = weight * factor, change * factor
        read = times_value(change, block.problem.value)
        known = dict(zip(moving, along, strict=True))
        value_dot = jax.tree.unflatten(structure, [known.get(i) for i in range(count)]).value
        if value_dot is not None:
            read = lax.add(read, times_value(weight, value_dot))
        return heads_first(read), heads_first(lse_dot)

    axes = leaf_axes(problem)
    read, lse_dot = pair_sum(
        body,
        schedule,
        [*leaves, lse, *(d for d in directions if d is not None)],
        Layout(
            (*axes, BY_ROW, *(axes[i] for i in moving)),
            tuple(Output(x.shape, x.dtype, BY_ROW) for x in (out, lse)),
            grid,
        ),
    )
    # L̇ is a sum over keys: its product with O waits until all are read. It is negative before, as
    # the cotangent of the difference would be made a second time, negated.
    return lax.add(read, times_rows(lax.neg(lse_dot), out)), lse_dot


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def given(problem: Problem, out: Array, lse: Array, where: Where) -> tuple[Array, Array]:
    """(o, lse) of a whole, with the tangents that this part of its problem adds to theirs."""
    del problem, where
    return out, lse


def _given_jvp(
    where: Where, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    problem, out, lse = primals
    directions = [None if is_zero(x) else x for x in jax.tree.leaves(tangents[0], is_leaf=is_zero)]
    return (out, lse), tangent(problem, out, lse, directions, where)


given.defjvp(_given_jvp, symbolic_zeros=True)
