"""A function as a program with named sizes, and as one with its derivative."""

import contextlib
import linecache
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from equipoise import _check_old as _check
from equipoise.cost import _shapes

# Sizes for a second trace with numbers: all different, with a common factor for heads and blocks.
STEP = 24
STANDARD_LIBRARY = os.path.dirname(contextlib.__file__) + "/contextlib"


class Traced(NamedTuple):
    """A closed program, and the structure of what it returns."""

    closed: Any
    out: Any


def trace(where: str, fn: Callable[..., Any], args: Sequence[Any]) -> Traced:
    """The program of a function, with the sizes of its arguments as they are named."""
    try:
        return Traced(*jax.make_jaxpr(fn, return_shape=True)(*args))
    except Exception as error:
        sizes, numbers = with_numbers(args)
        if not sizes or not _is_traceable(fn, numbers):
            raise
        raise _check.value_error(
            where,
            "fn",
            "must be traceable with named sizes",
            f"{type(error).__name__} at {_place(error)}: {_reason(error)}",
            f"With numbers for sizes it works: give numbers for {', '.join(sizes)}, or state what "
            f"holds, as in constraints=('mod({next(iter(sizes))}, 2) == 0',).",
        ) from error


def _is_traceable(fn: Callable[..., Any], args: Sequence[Any]) -> bool:
    try:
        jax.make_jaxpr(fn)(*args)
    except Exception:
        return False
    return True


def with_numbers(args: Sequence[Any]) -> tuple[dict[str, int], Any]:
    """A different number for every size, and the arguments with those numbers."""
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(args)]
    names = {name for shape in shapes for size in shape for name in _shapes.expression(size).names}
    sizes = {name: STEP * (i + 1) for i, name in enumerate(sorted(names))}

    def concrete(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        shape = [int(_shapes.expression(size).at(sizes)) for size in leaf.shape]
        return _shapes.structure(shape, leaf.dtype, weak=leaf.weak_type)

    return sizes, jax.tree.map(concrete, tuple(args))


def _place(error: Exception) -> str:
    """The innermost line outside JAX that the error passed through."""
    place, step = "an unknown line", error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if not any(part in path for part in ("/jax/", "/equipoise/cost/", STANDARD_LIBRARY)):
            line = linecache.getline(path, step.tb_lineno).strip()
            place = f"`{line or step.tb_frame.f_code.co_name}`"
        step = step.tb_next
    return place


def _reason(error: Exception) -> str:
    """The first sentence of what JAX says."""
    return str(error).strip().split("\n")[0].rstrip(".")


def forward(where: str, fn: Callable[..., Any], args: Sequence[Any]) -> Traced:
    """The program that returns a function's result and its pullback, whose leaves are residuals.

    The result comes in two lists: what has a cotangent, and what (integers, keys) has none.
    """

    def split(*xs: Any) -> Any:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(fn(*xs))]
        smooth = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        return smooth, [leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def both(*xs: Any) -> Any:
        smooth, pullback, rest = jax.vjp(split, *xs, has_aux=True)
        return (smooth, rest), pullback

    return trace(where, both, args)


def backward(where: str, result: Any, pullback: Any) -> Traced:
    """The program that applies a pullback to a cotangent of every result that has one."""

    def pull(pullback: Any, cotangents: list[Any]) -> Any:
        gradients = jax.tree.leaves(pullback(cotangents))
        return [g for g in gradients if g.dtype != jax.dtypes.float0]

    return trace(where, pull, (pullback, result[0]))
