"""What value and cotangent are lowered to: on CUDA the kernels, for what they can do there."""

import functools
from collections.abc import Callable, Sequence

from jax import lax

from equipoise._check import at, value_error
from equipoise._types import Array
from equipoise.attention._fused import guard
from equipoise.attention._fused.blocks import Moving, cotangent, split, value
from equipoise.attention._fused.request import Plan
from equipoise.attention._fused.trial import fault


def value_on_cuda(*leaves: Array, plan: Plan, obstacle: str | None) -> list[Array]:
    if _avoided(plan, leaves, obstacle, backward=False):
        return value(*leaves, plan=plan)
    out, lse, sound = guard.forward(plan, plan.arrays(leaves))
    return _unless(sound, [out, lse], lambda: value(*leaves, plan=plan))


def cotangent_on_cuda(
    *args: Array, plan: Plan, moving: Moving, obstacle: str | None
) -> list[Array]:
    leaves, (out, lse), given = split(plan, args)
    by_blocks = functools.partial(cotangent, *args, plan=plan, moving=moving)
    # The kernel has no place for a cotangent of lse.
    if len(given) > 1 or _avoided(plan, leaves, obstacle, backward=True):
        return by_blocks()
    grads, sound = guard.backward(plan, plan.arrays(leaves), out, lse, given[0])
    return _unless(sound, [grads[plan.names[i]] for i in moving], by_blocks)


def _unless(
    sound: Array | None, results: list[Array], otherwise: Callable[[], list[Array]]
) -> list[Array]:
    return results if sound is None else lax.cond(sound, lambda: results, otherwise)


def _avoided(plan: Plan, leaves: Sequence[Array], obstacle: str | None, *, backward: bool) -> bool:
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


def elsewhere(*leaves: Array, plan: Plan, obstacle: str | None) -> list[Array]:
    del obstacle
    if plan.forced:
        with at("attention.dot_product_attention"):
            raise value_error(
                "implementation",
                "'cudnn' needs an NVIDIA GPU",
                "a program for another platform",
                "Use implementation=None, which runs everywhere.",
            )
    return value(*leaves, plan=plan)
