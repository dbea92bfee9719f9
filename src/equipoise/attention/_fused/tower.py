"""Value, tangent and cotangent of attention as primitives, the kernels below and the blocks above.

On a CUDA GPU the value is lowered to the fused forward and the cotangent to the fused backward,
with which ``jax.grad`` runs at their speed. The tangent, every other platform and the rules of
differentiation are the blocks', so that each of the three can be differentiated as often as one
likes: value → tangent, tangent ↔ cotangent by transposition, and from there on block sums.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp

from equipoise._jax.primitives import OwnPrimitive, bound, is_linear, is_zero, primitive
from equipoise._jax.pruned import pruned
from equipoise._jax.varying import alike
from equipoise._types import Array, PyTree
from equipoise.attention._fused.blocks import Moving, cotangent, split, tangent, value
from equipoise.attention._fused.fold import Like, folding
from equipoise.attention._fused.lowered import cotangent_on_cuda, elsewhere, value_on_cuda
from equipoise.attention._fused.request import Plan, planned
from equipoise.attention._kernel.problem import Problem

_Rule = Callable[..., PyTree]


def attend(problem: Problem, *, forced: bool = False) -> tuple[Array, Array]:
    """(o, lse) of a problem that the kernels serve, in the dtype of sums; o is rounded once.

    A forced request raises where it is lowered to anything but the kernels.
    """
    leaves, plan = planned(problem, forced=forced)
    out, lse = bound(value_p, *alike(leaves), plan=plan)
    return out.astype(problem.dtype), lse


def _value_jvp(
    primals: Sequence[Array], tangents: Sequence[PyTree], *, plan: Plan
) -> tuple[list[Array], list[Array]]:
    results = bound(value_p, *primals, plan=plan)
    moving = tuple(i for i, x in enumerate(tangents) if not is_zero(x))
    along = [tangents[i] for i in moving]
    dots = bound(_tangent_p, *primals, *results, *along, plan=plan, moving=moving)
    return results, dots


def _jvp_by_blocks(
    bind: Callable[..., list[Array]], evaluate: Callable[..., list[Array]]
) -> Callable[..., tuple[list[Array], list[Array]]]:
    """The rule of a primitive that keeps its own value and has the tangent of its definition."""

    def rule(
        primals: Sequence[Array], tangents: Sequence[PyTree], **params: PyTree
    ) -> tuple[list[Array], list[Array]]:
        moving = [i for i, x in enumerate(tangents) if not is_zero(x)]
        count = len(moving)

        def change(*args: Array) -> Sequence[Array]:
            at_point, along, fixed = args[:count], args[count : 2 * count], list(args[2 * count :])

            def moved(*values: Array) -> list[Array]:
                for i, x in zip(moving, values, strict=True):
                    fixed[i] = x
                return evaluate(*fixed, **params)

            return jax.jvp(moved, at_point, along)[1]

        operands = [primals[i] for i in moving], [tangents[i] for i in moving], primals
        return bind(*primals, **params), pruned(change)(*operands[0], *operands[1], *operands[2])

    return rule


def _tangent_transpose(
    cotangents: Sequence[PyTree], *args: PyTree, plan: Plan, moving: Moving
) -> Sequence[Array | None]:
    leaves, results, along = split(plan, args)
    linear = tuple(i for i, x in zip(moving, along, strict=True) if is_linear(x))
    out, lse = cotangents
    given = [_or_zeros(out, results[0])] + ([] if is_zero(lse) else [lse])
    found = bound(cotangent_p, *leaves, *results, *given, plan=plan, moving=linear)
    by_leaf = dict(zip(linear, found, strict=True))
    return [*[None] * (len(leaves) + 2), *(by_leaf.get(i) for i in moving)]


def _cotangent_transpose(
    cotangents: Sequence[PyTree], *args: PyTree, plan: Plan, moving: Moving
) -> Sequence[Array | None]:
    leaves, results, given = split(plan, args)
    nonzero = [(i, x) for i, x in zip(moving, cotangents, strict=True) if not is_zero(x)]
    indices = tuple(i for i, _ in nonzero)
    along = [x for _, x in nonzero]
    found = bound(_tangent_p, *leaves, *results, *along, plan=plan, moving=indices)
    wanted = [x if is_linear(y) else None for x, y in zip(found, given, strict=False)]
    return [*[None] * (len(leaves) + 2), *wanted]


def _or_zeros(cotangent: PyTree, like: Array) -> Array:
    return alike((jnp.zeros_like(like), like))[0] if is_zero(cotangent) else cotangent


def _outline(*args: PyTree, plan: Plan, moving: Moving = ()) -> Sequence[PyTree]:
    """O is as its query, lse as that without an axis."""
    del plan, moving
    traced = jax.make_jaxpr(lambda query: jnp.sum(query.astype(jnp.float32), axis=-1))
    return [args[0], *traced(args[0]).out_avals]


def _outline_cotangent(*args: PyTree, plan: Plan, moving: Moving) -> Sequence[PyTree]:
    del plan
    return [args[i] for i in moving]


def _made(
    name: str,
    evaluate: _Rule,
    likes: Callable[[int, Moving], Like],
    *,
    shapes: _Rule,
    jvp: _Rule | None = None,
    transpose: _Rule | None = None,
    lowered: Mapping[str | None, _Rule] = MappingProxyType({}),
) -> OwnPrimitive:
    def bind(*args: Array, **params: PyTree) -> list[Array]:
        return bound(made, *args, **params)

    made = primitive(
        name,
        evaluate=evaluate,
        shapes=shapes,
        jvp=jvp or _jvp_by_blocks(bind, evaluate),
        batch=folding(bind, evaluate, likes),
        transpose=transpose,
        static=("plan", "moving"),
        lowered=lowered,
    )
    return made


value_p = _made(
    "equipoise_attention",
    value,
    lambda given, moving: Like((), (0, 0)),
    shapes=_outline,
    jvp=_value_jvp,
    lowered={"cuda": value_on_cuda, None: elsewhere},
)
_tangent_p = _made(
    "equipoise_attention_tangent",
    tangent,
    lambda given, moving: Like((0, 0, *moving), (0, 0)),
    shapes=_outline,
    transpose=_tangent_transpose,
)
cotangent_p = _made(
    "equipoise_attention_cotangent",
    cotangent,
    lambda given, moving: Like((0, 0) + (0,) * given, moving),
    shapes=_outline_cotangent,
    transpose=_cotangent_transpose,
    lowered={"cuda": cotangent_on_cuda},
)
