"""The rule of ``jax.vmap``: an axis that all entries share becomes one with the batch."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._types import Array, PyTree
from equipoise.attention._fused.blocks import Moving
from equipoise.attention._fused.request import Plan

_Evaluate: TypeAlias = Callable[..., list[Array]]


class Like(NamedTuple):
    """Which array of the request each further operand, and each result, has the batch of."""

    operands: Sequence[int]
    results: Sequence[int]


def _folded(
    bind: _Evaluate,
    evaluate: _Evaluate,
    like: Like,
    args: Sequence[Array],
    dims: Sequence[int | None],
    *,
    copies: bool,
) -> tuple[list[Array], list[int]]:
    """The results of ``bind`` over a batch that is longer by the mapped axis.

    Where query, key or value is shared by the entries, the blocks map ``evaluate`` without copies
    of it, unless copies are asked for.
    """
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    if None in dims[:3] and not copies:
        out = jax.vmap(evaluate, in_axes=tuple(dims), axis_size=size)(*args)
        return out, [0] * len(out)

    def entries(i: int) -> int:
        return int(args[i].shape[1 if dims[i] == 0 else 0])

    batch = entries(0)
    arrays = len(args) - len(like.operands)
    kinds = [*range(arrays), *like.operands]
    # What one entry has for its whole batch, or all entries have, stays single unless it moves.
    longer = {i for i, d in zip(kinds, dims, strict=True) if d is not None} | set(like.results)

    def fold(x: Array, dim: int | None, kind: int) -> Array:
        if kind not in longer:
            shared = jnp.broadcast_to(x, (size, *x.shape)) if x.shape[0] > 1 else x[None]
        else:
            shared = x[None] if dim is None else jnp.moveaxis(x, dim, 0)
            shared = jnp.broadcast_to(shared, (size, batch, *shared.shape[2:]))
        return shared.reshape(-1, *shared.shape[2:])

    def unfold(x: Array, kind: int) -> Array:
        x = x.reshape(size, batch, *x.shape[1:])
        return x if entries(kind) == batch else jnp.sum(x, axis=1, keepdims=True)

    found = bind(*map(fold, args, dims, kinds))
    return list(map(unfold, found, like.results)), [0] * len(found)


def folding(
    bind: _Evaluate, evaluate: _Evaluate, likes: Callable[[int, Moving], Like]
) -> Callable[..., tuple[list[Array], list[int]]]:
    """The rule of vmap of a primitive: ``likes`` says what its operands and results are like."""

    def rule(
        args: Sequence[Array], dims: Sequence[int | None], **params: PyTree
    ) -> tuple[list[Array], list[int]]:
        plan: Plan = params["plan"]
        given = len(args) - len(plan.names) - 2
        return _folded(
            functools.partial(bind, **params),
            functools.partial(evaluate, **params),
            likes(given, params.get("moving", ())),
            args,
            dims,
            copies=plan.forced,
        )

    return rule
