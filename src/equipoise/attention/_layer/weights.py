"""Weights to be, and sizes that are numbers, or names for the analysis of cost."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import export
from jax.nn import initializers
from jax.typing import DTypeLike

from equipoise._check import positive_integer, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree

Size: TypeAlias = int | str
_Initializer: TypeAlias = Callable[..., Array]
Extent: TypeAlias = PyTree
"""An axis' length while tracing: a number, or a symbolic dimension, which JAX leaves untyped."""


class Weight(NamedTuple):
    """A weight to be: its shape, in numbers or names, and how its first value is drawn."""

    shape: tuple[Size, ...]
    initializer: _Initializer


@functools.cache
def normal(inputs: int | tuple[int, ...], outputs: int | tuple[int, ...]) -> _Initializer:
    """Normal of variance 1/inputs; the same function for the same axes, so that jit knows it."""
    return initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=inputs, out_axis=outputs)


def drawn(weights: PyTree, key: PRNGKeyArray, dtype: DTypeLike, num_keys: int) -> PyTree:
    """First values of a tree of weights; the first so many have a key of their own."""
    leaves, structure = jax.tree.flatten(weights, is_leaf=is_weight)
    for weight in leaves:
        _only_numbers(weight)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.tree.unflatten(structure, _drawn(tuple(leaves), key, dtype, num_keys))


@functools.partial(jax.jit, static_argnames=("weights", "dtype", "num_keys"), inline=True)
def _drawn(
    weights: tuple[Weight, ...], key: PRNGKeyArray, dtype: jnp.dtype, num_keys: int
) -> list[Array]:
    """In one program where eager."""
    keys = [*jax.random.split(key, num_keys), *(key for _ in weights)]
    return [
        weight.initializer(k, weight.shape, dtype) for weight, k in zip(weights, keys, strict=False)
    ]


def is_weight(leaf: object) -> bool:
    """Whether a leaf of a layer's weights has been reached."""
    return isinstance(leaf, Weight)


def texts(weights: PyTree, dtype: str) -> PyTree:
    """The weights as strings such as ``"f32[d,4*d]"``."""
    return jax.tree.map(
        lambda weight: f"{dtype}[{','.join(map(str, weight.shape))}]", weights, is_leaf=is_weight
    )


def _only_numbers(weight: Weight) -> None:
    """A weight whose sizes are numbers can be drawn; another says so."""
    if not all(isinstance(size, int) for size in weight.shape):
        raise value_error(
            "width",
            "must be a number to draw weights",
            f"a weight of shape {weight.shape}",
            "Sizes given as names are for cost.analyze, which needs `shapes()` alone.",
        )


def size(argument: str, value: object) -> Size:
    """A positive integer, or an expression in named sizes such as ``"d"`` and ``"4*k"``."""
    if not isinstance(value, str):
        return positive_integer(argument, value)
    try:
        (parsed,) = export.symbolic_shape(value)
    except (ValueError, TypeError) as error:
        raise value_error(
            argument, "must be a number or an expression in names", repr(value),
            "Write for example 64, 'd' or '4*k'.",
        ) from error  # fmt: skip
    return _plain(parsed)


def times(factor: Size, value: Size) -> Size:
    """The product of two sizes."""
    if isinstance(factor, int) and isinstance(value, int):
        return factor * value
    a, b = export.symbolic_shape(f"{factor}, {value}")
    return _plain(a * b)


def plus(a: Size, b: Size) -> Size:
    """The sum of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    x, y = export.symbolic_shape(f"{a}, {b}")
    return _plain(x + y)


def less_one(value: Size) -> Size:
    """The size before."""
    if isinstance(value, int):
        return value - 1
    (a,) = export.symbolic_shape(value)
    return _plain(a - 1)


def quotient(value: Size, parts: Size) -> Size | None:
    """The exact quotient of two sizes; None where there is none."""
    if isinstance(value, int) and isinstance(parts, int):
        return value // parts if value % parts == 0 else None
    a, b = export.symbolic_shape(f"{value}, {parts}")
    return _plain(a // b) if a // b * b == a else None


def _plain(extent: Extent) -> Size:
    return str(extent) if export.is_symbolic_dim(extent) else int(extent)


def resolve(argument: str, value: Size, x: Array, *, of: str = "x") -> Extent:
    """A size as a number, or as a symbolic dimension in the scope of the traced x."""
    if isinstance(value, int):
        return value
    for extent in x.shape:
        if export.is_symbolic_dim(extent):
            (found,) = export.symbolic_shape(value, scope=extent.scope)
            return found
    raise value_error(
        argument,
        f"must be a number where `{of}` has numbers",
        repr(value),
        f"A name is for cost.analyze with `{of}` given as 'f32[n,d]'.",
    )
