"""A primitive of our own: what it computes, its rules, and what it is lowered to on a platform."""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from equipoise._types import Array, PyTree

OwnPrimitive: TypeAlias = Primitive
_Rule: TypeAlias = Callable[..., PyTree]
_DEFINITIONS: dict[Primitive, _Rule] = {}


def primitive(
    name: str,
    *,
    evaluate: _Rule,
    shapes: _Rule,
    jvp: _Rule,
    batch: _Rule,
    static: Sequence[str] = (),
    transpose: _Rule | None = None,
    lowered: Mapping[str | None, _Rule] = types.MappingProxyType({}),
) -> Primitive:
    """A primitive with many results, compiled as what ``evaluate`` traces to.

    ``static`` are the names of its parameters, which are no arrays. ``lowered`` has, for a
    platform or for all others (None), the function that is traced there in place of ``evaluate``
    while a program is lowered for it; such a function is also told the :func:`_obstacle`.
    """
    made = Primitive(name)
    made.multiple_results = True
    _DEFINITIONS[made] = evaluate
    made.def_abstract_eval(shapes)  # type: ignore[no-untyped-call]
    ad.primitive_jvps[made] = jvp
    if transpose is not None:
        ad.primitive_transposes[made] = transpose
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(evaluate, multiple_results=True))
    for platform, run in lowered.items():
        lower_as(made, run, platform)
    # Evaluated as a program of one equation, so that the platform decides there too.
    bind: _Rule = made.bind
    alone = jax.jit(bind if lowered else evaluate, static_argnames=static)

    def impl(*operands: Array, **params: PyTree) -> PyTree:
        # Where nothing is compiled such a program would evaluate itself.
        run = evaluate if jax.config.jax_disable_jit else alone  # type: ignore[attr-defined]
        return run(*operands, **params)

    made.def_impl(impl)  # type: ignore[no-untyped-call]
    return made


def bound(made: Primitive, *operands: PyTree, **params: PyTree) -> list[Array]:
    """The results of a primitive for these operands, which JAX leaves untyped."""
    return list(made.bind(*operands, **params))  # type: ignore[no-untyped-call]


def lower_as(made: Primitive, run: _Rule, platform: str | None) -> None:
    """Lowers the primitive to this function on a platform, or on those that have no own."""

    def rule(ctx: mlir.LoweringRuleContext, *args: PyTree, **params: PyTree) -> PyTree:
        told = functools.partial(run, obstacle=_obstacle(ctx))
        return mlir.lower_fun(told, multiple_results=True)(ctx, *args, **params)

    mlir.register_lowering(made, rule, platform=platform)


def _obstacle(ctx: mlir.LoweringRuleContext) -> str | None:
    """Why no library of this machine may be called from the program; None where one may."""
    if ctx.module_context.lowering_parameters.for_export:
        return "an exported program, which such a library promises no compatibility"
    context: PyTree = ctx.module_context.axis_context
    if hasattr(context, "manual_axes"):
        alone = set(context.manual_axes) == set(context.mesh.axis_names)
    else:
        alone = getattr(context, "num_devices", None) == 1
    # XLA cannot divide such a call: it would gather its operands on every device.
    return None if alone else "a program that XLA divides between devices (use jax.shard_map)"


def definition(made: Primitive) -> _Rule:
    """What a primitive computes, as operations of JAX where it is one of ours."""
    return _DEFINITIONS.get(made, made.impl)


def is_own(made: Primitive) -> bool:
    """Whether it is one of ours, which XLA has never heard of."""
    return made in _DEFINITIONS


def is_linear(value: object) -> bool:
    """Whether a transpose rule is asked for the cotangent of this operand."""
    return bool(ad.is_undefined_primal(value))  # type: ignore[no-untyped-call]


def is_zero(tangent: object) -> bool:
    """Whether a tangent or cotangent is known to be zero while tracing."""
    return isinstance(tangent, ad.Zero)
