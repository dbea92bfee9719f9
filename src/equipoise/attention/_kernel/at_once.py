"""Attention of so few pairs that all are computed at once, and their weights are kept.

A loop over blocks, and scores that a derivative computes again, cost more here than what they save.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import numpy as np
from jax import lax

from equipoise._jax.late import Frame, framed, late
from equipoise._jax.zeros import is_zero
from equipoise._types import Array, PyTree
from equipoise.attention._kernel.grid import is_named
from equipoise.attention._kernel.operations import (
    broken_values,
    clean,
    heads_first,
    only,
    spread,
    times_value,
)
from equipoise.attention._kernel.problem import Problem, dropout, scores, whole
from equipoise.attention._kernel.schedule import num_devices
from equipoise.attention._kernel.tangent import scores_along

_Results: TypeAlias = tuple[Array, Array, Array]
# Rows and keys up to which the weights of a row are about as many numbers as its query.
_FEW = 128


def few(problem: Problem) -> bool:
    """Whether there are so few pairs, and one device computes all of them."""
    _, t, s, _, _ = problem.sizes
    return not is_named(t, s) and max(t, s) <= _FEW and num_devices(problem) == 1


def at_once(problem: Problem) -> tuple[Array, Array]:
    """(o, lse) of a problem of arrays without sinks."""
    frame, arrays = framed(problem)
    out, lse, _ = _attend(arrays, frame)
    return out, lse


@jax.custom_jvp
def _attend(arrays: Sequence[Array], frame: Frame) -> _Results:
    """O, L and the weights P, as any of them has a tangent in terms of all."""
    problem: Problem = frame.whole(arrays)
    b, t, s, k, g = problem.sizes
    shapes = (b, t, k * g, problem.value.shape[-1]), (b, t, k * g), (b, k * g, t, s)
    out, lse, weight = late(_values, problem, results=[(x, problem.dtype) for x in shapes])
    return out, lse, weight


def _attend_jvp(
    primals: tuple[Sequence[Array], Frame], tangents: tuple[PyTree, PyTree]
) -> tuple[_Results, _Results]:
    arrays, frame = primals
    out, lse, weight = _attend(arrays, frame)
    directions = frame.by_leaf([None if is_zero(x) else x for x in tangents[0]])
    kinds = [(x.shape, x.dtype) for x in (out, lse, weight)]
    out_dot, lse_dot, weight_dot = late(
        _tangents, frame.whole(arrays), weight, directions, results=kinds
    )
    return (out, lse, weight), (out_dot, lse_dot, weight_dot)


_attend.defjvp(_attend_jvp, symbolic_zeros=True)


def _values(platform: str, problem: Problem) -> _Results:
    del platform
    if problem.masked:
        # As in blocks: a masked value reaches nothing, a broken one whoever may read it.
        key, value = problem.key.astype(problem.dtype), problem.value.astype(problem.dtype)
        key = lax.add(key, spread(broken_values(value), key))
        problem = dataclasses.replace(problem, key=key, value=clean(value))
    block = whole(problem)
    score, allowed = scores(block)
    if allowed is not None:
        score = only(score, allowed, -np.inf)
    top = lax.max(lax.reduce_max(score, (3,)), np.finfo(problem.dtype).min)
    weight = lax.exp(lax.sub(score, spread(top, score)))
    total = lax.reduce_sum(weight, (3,))
    full = total != 0
    safe = only(total, full, 1)
    lse = only(lax.add(top, lax.log(safe)), full, -np.inf)
    weight = lax.div(weight, spread(safe, weight))
    factor = dropout(block)
    read = times_value(weight if factor is None else weight * factor, problem.value)
    return heads_first(read), heads_first(lse), weight


def _tangents(
    platform: str,
    problem: Problem,
    weight: Array,
    directions: Sequence[Array | None],
) -> _Results:
    """With W = P∘Ṡ: L̇ = rowsum W, Ṗ = W − L̇∘P and Ȯ = ṖV + PV̇."""
    del platform
    block = whole(problem.cleaned())
    moving = {i: x for i, x in enumerate(directions) if x is not None}
    _, score_dot, allowed = scores_along(block, moving)
    change = lax.mul(weight, score_dot)
    if allowed is not None:
        change = only(change, allowed, 0)
    lse_dot = lax.reduce_sum(change, (3,))
    weight_dot = lax.sub(change, lax.mul(weight, spread(lse_dot, weight)))
    factor = dropout(block)
    kept, kept_dot = (x if factor is None else x * factor for x in (weight, weight_dot))
    out_dot = times_value(kept_dot, block.problem.value)
    value_dot = jax.tree.unflatten(jax.tree.structure(problem), directions).value
    if value_dot is not None:
        out_dot = lax.add(out_dot, times_value(kept, value_dot))
    return heads_first(out_dot), heads_first(lse_dot), weight_dot
