"""What a layer is: named weights, and pure functions on one sequence and on one position."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import export

from equipoise import _check_old as _check
from equipoise._types import Array, Float, PRNGKeyArray, PyTree

Size: TypeAlias = int | str
Initializer: TypeAlias = Callable[..., Array]


class Weight(NamedTuple):
    """A weight to be: its shape, in numbers or names, and how its first value is drawn."""

    shape: tuple[Size, ...]
    initializer: Initializer


def is_weight(leaf: object) -> bool:
    """Whether a leaf of a layer's weights has been reached."""
    return isinstance(leaf, Weight)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A map from sequences (n, d) to sequences (n, e), as values and pure functions.

    It acts on one sequence; take :func:`jax.vmap` for a batch. Weights live outside of it, in the
    pytree that ``init`` returns.

    Attributes:
        name: The function that made it.
        weights: Shapes and initializers, a pytree of the structure of ``params``.
        apply: ``apply(params, x)`` maps a whole sequence x, (n, d), to y, (n, e).
        init_state: ``init_state(params, max_length)`` is the state before the first position.
        step: ``step(params, state, x_t)`` is ``(state, y_t)`` for one position, with x_t (d,) and
            y_t (e,). Stacked, the y_t are ``apply(params, x)``.
    """

    name: str
    weights: PyTree
    apply: Callable[[PyTree, Float[Array, "n d"]], Float[Array, "n e"]]
    init_state: Callable[[PyTree, int], PyTree]
    step: Callable[[PyTree, PyTree, Float[Array, " d"]], tuple[PyTree, Float[Array, " e"]]]

    def init(self, key: PRNGKeyArray, dtype: Any = None) -> PyTree:
        """Draws the weights; ``dtype`` is JAX's default float unless given."""
        weights, structure = jax.tree.flatten(self.weights, is_leaf=is_weight)
        for weight in weights:
            if not all(isinstance(size, int) for size in weight.shape):
                raise _check.value_error(
                    f"layers.{self.name}",
                    "width",
                    "must be a number to draw weights",
                    f"a weight of shape {weight.shape}",
                    "Sizes given as names are for cost.analyze, which needs `shapes()` alone.",
                )
        dtype = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
        keys = jax.random.split(key, max(len(weights), 1))
        drawn = [
            weight.initializer(k, weight.shape, dtype)
            for k, weight in zip(keys, weights, strict=False)
        ]
        return jax.tree.unflatten(structure, drawn)

    def shapes(self, dtype: str = "f32") -> PyTree:
        """The weights as strings such as ``"f32[d,4*d]"``, arguments of ``cost.analyze``."""
        return jax.tree.map(
            lambda weight: f"{dtype}[{','.join(map(str, weight.shape))}]",
            self.weights,
            is_leaf=is_weight,
        )

    def __str__(self) -> str:
        """Name and weights in a line each."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.shapes())
        return "\n".join([self.name, *(f"  {jax.tree_util.keystr(p)} {s}" for p, s in leaves)])


def size(where: str, argument: str, value: Any) -> Size:
    """A positive integer, or an expression in named sizes such as ``"d"`` and ``"4*k"``."""
    if not isinstance(value, str):
        return _check.positive_integer(where, argument, value)
    try:
        (parsed,) = export.symbolic_shape(value)
    except (ValueError, TypeError) as error:
        raise _check.value_error(
            where, argument, "must be a number or an expression in names", repr(value),
            "Write for example 64, 'd' or '4*k'.",
        ) from error  # fmt: skip
    return str(parsed) if export.is_symbolic_dim(parsed) else int(parsed)


def times(factor: Size, value: Size) -> Size:
    """The product of two sizes."""
    if isinstance(factor, int) and isinstance(value, int):
        return factor * value
    a, b = export.symbolic_shape(f"{factor}, {value}")
    return str(a * b)


def divide(where: str, value: Size, parts: Size, advice: str) -> Size:
    """The exact quotient of two sizes."""
    if isinstance(value, int) and isinstance(parts, int):
        quotient: Any = value // parts
        exact = quotient * parts == value
    else:
        a, b = export.symbolic_shape(f"{value}, {parts}")
        quotient = a // b
        exact = quotient * b == a
    if not exact:
        raise _check.value_error(
            where, "width", f"must be a multiple of {parts}", repr(value), advice
        )
    return str(quotient) if export.is_symbolic_dim(quotient) else int(quotient)


def resolve(where: str, argument: str, value: Size, x: Array) -> Any:
    """A size as a number, or as a symbolic dimension in the scope of the traced x."""
    if isinstance(value, int):
        return value
    for extent in x.shape:
        if export.is_symbolic_dim(extent):
            (found,) = export.symbolic_shape(value, scope=extent.scope)
            return found
    raise _check.value_error(
        where,
        argument,
        "must be a number where `x` has numbers",
        repr(value),
        "A name is for cost.analyze with `x` given as 'f32[n,d]'.",
    )


def sequence(where: str, value: Any, width: Any) -> Array:
    """The argument as a sequence of the layer's width."""
    x: Array = _check.floating_array(where, "x", value)
    if x.ndim != 2 or x.shape[1] != width:
        raise _check.value_error(
            where,
            "x",
            f"must have shape (n, {width})",
            x,
            "A layer takes one sequence; use jax.vmap for a batch.",
        )
    return x


def no_step(where: str, advice: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``init_state`` and ``step`` of a layer that reads later positions: both say so."""

    def refuse(*_: Any) -> Any:
        raise _check.value_error(
            where, "step", "needs a layer that reads no later position", "one that does", advice
        )

    return refuse, refuse


def pointwise(name: str, weights: PyTree, function: Callable[[PyTree, Array], Array]) -> Layer:
    """A layer that maps every position alone; its state is empty."""

    def init_state(params: PyTree, max_length: int) -> tuple[()]:
        return ()

    def step(params: PyTree, state: tuple[()], x_t: Array) -> tuple[tuple[()], Array]:
        return state, function(params, x_t[None])[0]

    return Layer(name, weights, function, init_state, step)


zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones
glorot = jax.nn.initializers.glorot_uniform


def orthogonal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    """A matrix with orthonormal columns; half precision, which has no QR, is rounded to at last."""
    wide = jax.dtypes.canonicalize_dtype(float) if jnp.dtype(dtype).itemsize < 4 else dtype
    drawn: Array = jax.nn.initializers.orthogonal()(key, shape, wide)
    return drawn.astype(dtype)


def widened(x: Array) -> Array:
    """The array in float32 at least, where sums are taken."""
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)


def softmax(scores: Array) -> Array:
    """Weights over the last axis, taken in float32 at least."""
    return jax.nn.softmax(widened(scores), axis=-1).astype(scores.dtype)
