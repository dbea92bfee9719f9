"""A primitive of our own: what it computes, and its rules for jvp, transposition and vmap."""

from collections.abc import Callable, Sequence

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from equipoise._types import PyTree

_Values = Sequence[PyTree]
_Rule = Callable[..., PyTree]


def primitive(
    name: str,
    *,
    evaluate: _Rule,
    shapes: _Rule,
    jvp: _Rule,
    transpose: _Rule,
    batch: _Rule,
    static: Sequence[str] = (),
) -> Primitive:
    """A primitive with many results, compiled as what ``evaluate`` traces to.

    ``static`` are the names of its parameters, which are no arrays.
    """
    made = Primitive(name)
    made.multiple_results = True
    made.def_impl(jax.jit(evaluate, static_argnames=static))  # type: ignore[no-untyped-call]
    made.def_abstract_eval(shapes)  # type: ignore[no-untyped-call]
    ad.primitive_jvps[made] = jvp
    ad.primitive_transposes[made] = transpose
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(evaluate, multiple_results=True))
    return made


def is_linear(value: object) -> bool:
    """Whether a transpose rule is asked for the cotangent of this operand."""
    return bool(ad.is_undefined_primal(value))  # type: ignore[no-untyped-call]


def is_zero(tangent: object) -> bool:
    """Whether a tangent or cotangent is known to be zero while tracing."""
    return isinstance(tangent, ad.Zero)
