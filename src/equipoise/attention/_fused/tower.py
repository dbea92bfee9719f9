"""Value, tangent and cotangent of attention as primitives, the kernels below and the blocks above.

On a CUDA GPU the value is lowered to the fused forward and the cotangent to the fused backward,
with which ``jax.grad`` runs at their speed. The tangent, every other platform and the rules of
differentiation are the blocks', so that each of the three can be differentiated as often as one
likes: value → tangent, tangent ↔ cotangent by transposition, and from there on block sums.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from equipoise._check import at, value_error
from equipoise._jax.primitives import is_linear, is_zero, primitive
from equipoise._jax.pruned import pruned
from equipoise._jax.varying import alike
from equipoise._types import Array, PyTree
from equipoise.attention._fused import guard
from equipoise.attention._fused.fold import Like, folded
from equipoise.attention._fused.request import Plan, as_problem, planned
from equipoise.attention._fused.trial import fault
from equipoise.attention._kernel.blockwise import blockwise
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._kernel.schedule import grid_of, schedule_of
from equipoise.attention._kernel.tangent import tangent

_Moving = tuple[int, ...]
"""Which arrays of a request have a tangent: their indices."""


def attend(problem: Problem, *, forced: bool = False) -> tuple[Array, Array]:
    """(o, lse) of a problem that the kernels serve, in the dtype of sums; o is rounded once.

    A forced request raises where it is lowered to anything but the kernels.
    """
    leaves, plan = planned(problem, forced=forced)
    out, lse = _value_p.bind(*alike(leaves), plan=plan)  # type: ignore[no-untyped-call]
    return out.astype(problem.dtype), lse


# The definitions, by blocks.


def _value(*leaves: Array, plan: Plan) -> list[Array]:
    out, lse = blockwise(as_problem(plan, plan.arrays(leaves)), None)
    return [out.astype(leaves[0].dtype), lse]


def _tangent(*args: Array, plan: Plan, moving: _Moving) -> list[Array]:
    """From the arrays, o, lse and a direction of each array that moves."""
    leaves, (out, lse), along = _split(plan, args)
    problem = as_problem(plan, plan.arrays(leaves))
    grid = grid_of(problem, None)
    known = {plan.names[i]: direction for i, direction in zip(moving, along, strict=True)}
    out_dot, lse_dot = tangent(
        problem.as_arrays(),
        schedule_of(problem, grid),
        grid,
        out.astype(problem.dtype),
        lse,
        [known.get(name) for name in _leaf_names(problem)],
    )
    return [out_dot.astype(out.dtype), lse_dot]


def _leaf_names(problem: Problem) -> list[str]:
    """For each array of the problem the name of its field, if it may move."""
    names: PyTree = jax.tree.map(lambda _: "", problem.as_arrays())
    bias = None if problem.bias is None else "bias"
    names = dataclasses.replace(names, query="query", key="key", value="value", bias=bias)
    return jax.tree.leaves(names)


def _cotangent(*args: Array, plan: Plan, moving: _Moving) -> list[Array]:
    """From the arrays, o, lse and the cotangent of o, or those of both."""
    leaves, results, given = _split(plan, args)

    def forward(*along: Array) -> list[Array]:
        return _tangent(*leaves, *results, *along, plan=plan, moving=moving)[: len(given)]

    along = [jax.typeof(leaves[i]) for i in moving]
    return list(jax.linear_transpose(forward, *along)(list(given)))


def _split(
    plan: Plan, args: Sequence[PyTree]
) -> tuple[Sequence[PyTree], Sequence[PyTree], Sequence[PyTree]]:
    count = len(plan.names)
    return args[:count], args[count : count + 2], args[count + 2 :]


# What they are lowered to.


def _value_on_cuda(*leaves: Array, plan: Plan, obstacle: str | None) -> list[Array]:
    if _avoided(plan, leaves, obstacle, backward=False):
        return _value(*leaves, plan=plan)
    out, lse, sound = guard.forward(plan, plan.arrays(leaves))
    return _unless(sound, [out, lse], lambda: _value(*leaves, plan=plan))


def _cotangent_on_cuda(
    *args: Array, plan: Plan, moving: _Moving, obstacle: str | None
) -> list[Array]:
    leaves, (out, lse), given = _split(plan, args)
    by_blocks = functools.partial(_cotangent, *args, plan=plan, moving=moving)
    # The kernel has no place for a cotangent of lse.
    if len(given) > 1 or _avoided(plan, leaves, obstacle, backward=True):
        return by_blocks()
    grads, sound = guard.backward(plan, plan.arrays(leaves), out, lse, given[0])
    return _unless(sound, [grads[plan.names[i]] for i in moving], by_blocks)


def _unless(
    sound: Array | None, results: list[Array], otherwise: Callable[[], list[Array]]
) -> list[Array]:
    return results if sound is None else lax.cond(sound, lambda: results, otherwise)


def _avoided(
    plan: Plan, leaves: Sequence[Array], obstacle: str | None, *, backward: bool
) -> bool:
    """Whether the kernels are not to be used; an error where the request insists on them."""
    reason = obstacle or fault(plan, tuple(leaves), backward=backward)
    if reason is not None and plan.forced:
        with at("attention.dot_product_attention"):
            raise value_error(
                "implementation",
                "'cudnn' needs a program and a machine that the kernel serves",
                reason,
                "Use implementation=None, which serves all.",
            )
    return reason is not None


def _elsewhere(*leaves: Array, plan: Plan, obstacle: str | None) -> list[Array]:
    del obstacle
    if plan.forced:
        with at("attention.dot_product_attention"):
            raise value_error(
                "implementation",
                "'cudnn' needs an NVIDIA GPU",
                "a program for another platform",
                "Use implementation=None, which runs everywhere.",
            )
    return _value(*leaves, plan=plan)


# The rules.


def _value_jvp(
    primals: Sequence[Array], tangents: Sequence[PyTree], *, plan: Plan
) -> tuple[list[Array], list[Array]]:
    results = _value_p.bind(*primals, plan=plan)  # type: ignore[no-untyped-call]
    moving = tuple(i for i, x in enumerate(tangents) if not is_zero(x))
    along = [tangents[i] for i in moving]
    dots = _tangent_p.bind(*primals, *results, *along, plan=plan, moving=moving)  # type: ignore[no-untyped-call]
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
                for i, value in zip(moving, values, strict=True):
                    fixed[i] = value
                return evaluate(*fixed, **params)

            return jax.jvp(moved, at_point, along)[1]

        operands = [primals[i] for i in moving], [tangents[i] for i in moving], primals
        return bind(*primals, **params), pruned(change)(*operands[0], *operands[1], *operands[2])

    return rule


def _tangent_transpose(
    cotangents: Sequence[PyTree], *args: PyTree, plan: Plan, moving: _Moving
) -> list[Array | None]:
    leaves, results, along = _split(plan, args)
    linear = tuple(i for i, x in zip(moving, along, strict=True) if is_linear(x))
    out, lse = cotangents
    given = [_or_zeros(out, results[0])] + ([] if is_zero(lse) else [lse])
    found = _cotangent_p.bind(*leaves, *results, *given, plan=plan, moving=linear)  # type: ignore[no-untyped-call]
    by_leaf = dict(zip(linear, found, strict=True))
    return [None] * (len(leaves) + 2) + [by_leaf.get(i) for i in moving]


def _cotangent_transpose(
    cotangents: Sequence[PyTree], *args: PyTree, plan: Plan, moving: _Moving
) -> list[Array | None]:
    leaves, results, given = _split(plan, args)
    nonzero = [(i, x) for i, x in zip(moving, cotangents, strict=True) if not is_zero(x)]
    indices = tuple(i for i, _ in nonzero)
    along = [x for _, x in nonzero]
    found = _tangent_p.bind(*leaves, *results, *along, plan=plan, moving=indices)  # type: ignore[no-untyped-call]
    wanted = [x if is_linear(y) else None for x, y in zip(found, given, strict=False)]
    return [None] * (len(leaves) + 2) + wanted


def _or_zeros(cotangent: PyTree, like: Array) -> Array:
    return alike((jnp.zeros_like(like), like))[0] if is_zero(cotangent) else cotangent


def _batch(
    bind: Callable[..., list[Array]],
    evaluate: Callable[..., list[Array]],
    likes: Callable[[int, _Moving], Like],
) -> Callable[..., tuple[list[Array], list[int]]]:
    """The rule of vmap of a primitive."""

    def rule(
        args: Sequence[Array], dims: Sequence[int | None], **params: PyTree
    ) -> tuple[list[Array], list[int]]:
        plan: Plan = params["plan"]
        given = len(args) - len(plan.names) - 2
        return folded(
            functools.partial(bind, **params),
            functools.partial(evaluate, **params),
            likes(given, params.get("moving", ())),
            args,
            dims,
            copies=plan.forced,
        )

    return rule


def _outline(*args: PyTree, plan: Plan, moving: _Moving = ()) -> Sequence[PyTree]:
    """o is as its query, lse as that without an axis."""
    del plan, moving
    traced = jax.make_jaxpr(lambda query: jnp.sum(query.astype(jnp.float32), axis=-1))
    return [args[0], *traced(args[0]).out_avals]


def _outline_cotangent(*args: PyTree, plan: Plan, moving: _Moving) -> Sequence[PyTree]:
    del plan
    return [args[i] for i in moving]


_value_p = primitive(
    "equipoise_attention",
    evaluate=_value,
    shapes=_outline,
    jvp=_value_jvp,
    batch=_batch(lambda *a, **p: _value_p.bind(*a, **p), _value, lambda *_: Like((), (0, 0))),
    static=("plan",),
    lowered={"cuda": _value_on_cuda, None: _elsewhere},
)
_tangent_p = primitive(
    "equipoise_attention_tangent",
    evaluate=_tangent,
    shapes=_outline,
    jvp=_jvp_by_blocks(lambda *a, **p: _tangent_p.bind(*a, **p), _tangent),
    transpose=_tangent_transpose,
    batch=_batch(
        lambda *a, **p: _tangent_p.bind(*a, **p),
        _tangent,
        lambda _, moving: Like((0, 0, *moving), (0, 0)),
    ),
    static=("plan", "moving"),
)
_cotangent_p = primitive(
    "equipoise_attention_cotangent",
    evaluate=_cotangent,
    shapes=_outline_cotangent,
    jvp=_jvp_by_blocks(lambda *a, **p: _cotangent_p.bind(*a, **p), _cotangent),
    transpose=_cotangent_transpose,
    batch=_batch(
        lambda *a, **p: _cotangent_p.bind(*a, **p),
        _cotangent,
        lambda given, moving: Like((0,) * (2 + given), moving),
    ),
    static=("plan", "moving"),
    lowered={"cuda": _cotangent_on_cuda},
)
