"""A function as a program with named sizes, and as one with its derivative."""

import contextlib
import linecache
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._check import value_error
from equipoise._jax.programs import ClosedProgram
from equipoise._types import Array, PyTree
from equipoise.cost._program.mesh import Axes
from equipoise.cost._program.remedy import remedy

_LONGEST = 80  # characters of a line of code that an error quotes
_STANDARD_LIBRARY = os.path.dirname(contextlib.__file__) + "/contextlib"


_WANTS_VALUES = (
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,  # booleans among them
    jax.errors.NonConcreteBooleanIndexError,
)
_SHAPE = re.compile("(concrete|static) .*Trace", re.DOTALL)  # what JAX says of a size that is none
Function: TypeAlias = Callable[..., PyTree]
# From cotangents of the results to those of the arguments; a pytree of what it keeps.
Pullback: TypeAlias = Callable[[list[Array]], PyTree]


class _Traced(NamedTuple):
    """A program, and the structure of what it returns."""

    program: ClosedProgram
    out: PyTree


def trace(fn: Function, args: Sequence[PyTree], axes: Axes | None = None) -> _Traced:
    """The program of a function, with the sizes of its arguments and of the mesh as they are named.

    Of a mesh with names, the structure of what is returned is that with numbers.
    """
    if axes is None or not axes.names:
        return _trace(fn, args, axes)
    first, second = (_trace(fn, axes.arguments(args, i), axes, i) for i in (0, 1))
    return _Traced(axes.common(first.program, second.program), first.out)


def _trace(
    fn: Function, args: Sequence[PyTree], axes: Axes | None = None, which: int = 0
) -> _Traced:
    if axes is not None:
        fn = axes.place(fn, which)
    try:
        return _Traced(*jax.make_jaxpr(fn, return_shape=True)(*args))
    except Exception as error:
        if advice := _instead_of_values(error):
            raise value_error(
                "fn",
                "must compute with arrays whose values are not known",
                f"{type(error).__name__} at {_place(error)}",
                advice,
            ) from error
        helps = remedy(fn, args, str(error))
        if not helps:
            if axes is None or not isinstance(error, ValueError):
                raise
            raise value_error(
                "mesh",
                "must be one that the function can be traced on",
                axes.with_names(f"at {_place(error)}: {_reason(error)}"),
                "Give that mesh itself, as in mesh=mesh, or the shard_map none."
                if "mesh passed to shard_map" in str(error)
                else "An array that is divided along an axis says so in its shape: 'f32[d*b,n]'.",
            ) from error
        raise value_error(
            "fn",
            "must be traceable with named sizes",
            f"{type(error).__name__} at {_place(error)}: {_reason(error)}",
            helps,
        ) from error


def _instead_of_values(error: Exception) -> str:
    """What to do where tracing wants values; empty where it wants none."""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "NumPy reads values: call jax.numpy there."
    if isinstance(error, _WANTS_VALUES) or _SHAPE.search(str(error)):
        return "Use jnp.where or jax.lax.cond for what depends on values, or close over them."
    return ""


def _place(error: Exception) -> str:
    """The innermost line outside JAX that the error passed through."""
    place, step = "an unknown line", error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if not any(part in path for part in ("/jax/", "/equipoise/cost/", _STANDARD_LIBRARY)):
            line = linecache.getline(path, step.tb_lineno).strip()
            code = textwrap.shorten(
                line or step.tb_frame.f_code.co_name, _LONGEST, placeholder=" …"
            )
            place = f"line {step.tb_lineno} of {os.path.basename(path)}: `{code}`"
        step = step.tb_next
    return place


def _reason(error: Exception) -> str:
    """The first sentence of what JAX says."""
    return str(error).strip().split("\n")[0].rstrip(".")


def forward(fn: Function, args: Sequence[PyTree], axes: Axes | None = None) -> _Traced:
    """The program that returns a function's result and its pullback, whose leaves are residuals.

    The result comes in two lists: what has a cotangent, and what (integers, keys) has none.
    """

    def split(*xs: PyTree) -> tuple[list[Array], list[Array]]:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(fn(*xs))]
        smooth = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        return smooth, [leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def both(*xs: PyTree) -> tuple[PyTree, Pullback]:
        smooth, pullback, rest = jax.vjp(split, *xs, has_aux=True)
        return (smooth, rest), pullback

    return trace(both, args, axes)


def backward(result: PyTree, pullback: Pullback) -> _Traced:
    """The program that applies a pullback to a cotangent of every result that has one."""

    def pull(pullback: Pullback, cotangents: list[Array]) -> list[Array]:
        gradients = jax.tree.leaves(pullback(cotangents))
        return [g for g in gradients if g.dtype != jax.dtypes.float0]

    return trace(pull, (pullback, result[0]))
