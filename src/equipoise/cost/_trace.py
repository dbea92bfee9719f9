"""A function as a program with named sizes, and as one with its derivative."""

import linecache
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import _check
from equipoise.cost import _shapes

# Sizes for a second trace with numbers: all different, with a common factor for heads and blocks.
STEP = 24


class Traced(NamedTuple):
    """A closed program, and the structure of what it returns."""

    closed: Any
    out: Any


def trace(where: str, fn: Callable[..., Any], args: Sequence[Any]) -> Traced:
    """The program of a function, with the sizes of its arguments as they are named."""
    try:
        return Traced(*jax.make_jaxpr(fn, return_shape=True)(*args))
    except Exception as error:
        names = sorted(
            {
                name
                for leaf in jax.tree.leaves(args)
                for size in getattr(leaf, "shape", ())
                for name in _shapes.expression(size).names
            }
        )
        if not names or not _works_with_numbers(fn, args, names):
            raise
        raise _check.value_error(
            where,
            "fn",
            "must be traceable with named sizes",
            f"{type(error).__name__} at {_place(error)}: {_reason(error)}",
            "With numbers for sizes it works: give numbers for "
            f"{', '.join(names)}, or state what holds, as in constraints=('mod({names[0]}, 2) == 0',).",
        ) from error


def _works_with_numbers(fn: Callable[..., Any], args: Sequence[Any], names: Sequence[str]) -> bool:
    try:
        jax.make_jaxpr(fn)(*with_numbers(args, names))
    except Exception:
        return False
    return True


def with_numbers(args: Sequence[Any], names: Sequence[str]) -> Any:
    """The arguments with a different number for every size."""
    sizes = {name: STEP * (i + 1) for i, name in enumerate(names)}

    def concrete(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        shape = tuple(int(_shapes.expression(size).at(sizes)) for size in leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, weak_type=leaf.weak_type)

    return jax.tree.map(concrete, tuple(args))


def _place(error: Exception) -> str:
    """The innermost line outside JAX that the error passed through."""
    place, step = "an unknown line", error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if not any(part in path for part in ("/jax/", "equipoise/cost", "importlib")):
            line = linecache.getline(path, step.tb_lineno).strip()
            place = f"`{line or step.tb_frame.f_code.co_name}`"
        step = step.tb_next
    return place


def _reason(error: Exception) -> str:
    """The first sentence of what JAX says."""
    return str(error).strip().split("\n")[0].rstrip(".")


def forward(where: str, fn: Callable[..., Any], args: Sequence[Any]) -> Traced:
    """The program that returns a function's result and its pullback, whose leaves are residuals."""
    return trace(where, lambda *xs: jax.vjp(fn, *xs), args)


def backward(where: str, result: Any, pullback: Any) -> Traced:
    """The program that applies a pullback to a cotangent of every result that has one."""

    def pull(pullback: Any, cotangents: list[Any]) -> Any:
        filled = iter(cotangents)
        full = [
            next(filled) if _has_cotangent(leaf) else np.zeros(leaf.shape, jax.dtypes.float0)
            for leaf in leaves
        ]
        gradients = pullback(jax.tree.unflatten(structure, full))
        return [g for g in jax.tree.leaves(gradients) if g.dtype != jax.dtypes.float0]

    leaves, structure = jax.tree.flatten(result)
    return trace(where, pull, (pullback, [leaf for leaf in leaves if _has_cotangent(leaf)]))


def _has_cotangent(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
