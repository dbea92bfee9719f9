"""The definitions of value, tangent and cotangent of attention, by blocks, on the same operands.

Each is a function of the request's arrays, first of all, with o and log-sum-exp after them where
the value is known; those in the dtype of the query and in that of sums.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax

from equipoise._types import Array, PyTree
from equipoise.attention._fused.request import Plan, as_problem
from equipoise.attention._kernel.blockwise import blockwise
from equipoise.attention._kernel.mesh import rows_divided
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._kernel.schedule import Where
from equipoise.attention._kernel.tangent import tangent as block_tangent

Moving: TypeAlias = tuple[int, ...]
"""Which arrays of a request have a tangent: their indices."""


def value(*leaves: Array, plan: Plan) -> list[Array]:
    out, lse = blockwise(as_problem(plan, plan.arrays(leaves)), None)
    return [out.astype(leaves[0].dtype), lse]


def tangent(*args: Array, plan: Plan, moving: Moving) -> list[Array]:
    """From the arrays, o, lse and a direction of each array that moves."""
    leaves, (out, lse), along = split(plan, args)
    problem = as_problem(plan, plan.arrays(leaves))
    known = {plan.names[i]: direction for i, direction in zip(moving, along, strict=True)}
    out_dot, lse_dot = block_tangent(
        problem.as_arrays(),
        out.astype(problem.dtype),
        lse,
        [known.get(name) for name in _leaf_names(problem)],
        Where(None, rows_divided()),
    )
    return [out_dot.astype(out.dtype), lse_dot]


def _leaf_names(problem: Problem) -> list[str]:
    """For each array of the problem the name of its field, if it may move."""
    names: PyTree = jax.tree.map(lambda _: "", problem.as_arrays())
    bias = None if problem.bias is None else "bias"
    names = dataclasses.replace(names, query="query", key="key", value="value", bias=bias)
    return jax.tree.leaves(names)


def cotangent(*args: Array, plan: Plan, moving: Moving) -> list[Array]:
    """From the arrays, o, lse and the cotangent of o, or those of both."""
    leaves, results, given = split(plan, args)

    def forward(*along: Array) -> list[Array]:
        return tangent(*leaves, *results, *along, plan=plan, moving=moving)[: len(given)]

    along = [jax.typeof(leaves[i]) for i in moving]
    return list(jax.linear_transpose(forward, *along)(list(given)))


def split(
    plan: Plan, args: Sequence[PyTree]
) -> tuple[Sequence[PyTree], Sequence[PyTree], Sequence[PyTree]]:
    count = len(plan.names)
    return args[:count], args[count : count + 2], args[count + 2 :]
