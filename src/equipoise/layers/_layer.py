"""What a layer is: named weights, and pure functions on one sequence and on one position."""

import dataclasses
from collections.abc import Callable
from typing import NoReturn

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from equipoise._check import at, floating_array, value_error
from equipoise._types import Array, Float, PRNGKeyArray, PyTree
from equipoise.attention._layer.weights import (
    Extent,
    Size,
    drawn,
    is_weight,
    quotient,
    texts,
)


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

    def __post_init__(self) -> None:
        """Whatever these raise names the layer; the two on arrays are one program where eager."""
        for name in ("apply", "init_state", "step"):
            function = getattr(self, name)
            if name != "init_state":
                function = jax.jit(function, inline=True)
            object.__setattr__(self, name, at(f"layers.{self.name}")(function))

    def init(self, key: PRNGKeyArray, dtype: DTypeLike | None = None) -> PyTree:
        """Draws the weights; ``dtype`` is JAX's default float unless given."""
        dtype = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
        count = len(jax.tree.leaves(self.weights, is_leaf=is_weight))
        with at(f"layers.{self.name}"):
            return drawn(self.weights, key, dtype, max(count, 1))

    def shapes(self, dtype: str = "f32") -> PyTree:
        """The weights as strings such as ``"f32[d,4*d]"``, arguments of ``cost.analyze``."""
        return texts(self.weights, dtype)

    def __str__(self) -> str:
        """Name and weights in a line each."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.shapes())
        return "\n".join([self.name, *(f"  {jax.tree_util.keystr(p)} {s}" for p, s in leaves)])

    __repr__ = __str__  # without the addresses of its functions


def sequence(value: Array, width: Extent) -> Array:
    """The argument as a sequence of the layer's width."""
    x = floating_array("x", value)
    if x.ndim != 2 or x.shape[1] != width:
        raise value_error(
            "x",
            f"must have shape (n, {width})",
            x,
            "A layer takes one sequence; use jax.vmap for a batch.",
        )
    return x


def head_size(width: Size, num_heads: Size) -> Size:
    """Features of a head, where the heads divide the width."""
    each = quotient(width, num_heads)
    if each is None:
        raise value_error(
            "width",
            f"must be a multiple of {num_heads}",
            repr(width),
            f"For named sizes write the width as a product: '{num_heads}*k'.",
        )
    return each


def no_step(advice: str) -> tuple[Callable[..., NoReturn], Callable[..., NoReturn]]:
    """``init_state`` and ``step`` of a layer that reads later positions: both say so."""

    def refuse(*_: object) -> NoReturn:
        raise value_error(
            "step", "needs a layer that reads no later position", "one that does", advice
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


def orthogonal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A matrix with orthonormal columns; half precision, which has no QR, is rounded to at last."""
    wide = jax.dtypes.canonicalize_dtype(float) if jnp.dtype(dtype).itemsize < 4 else dtype
    return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)


def widened(x: Array) -> Array:
    """The array in float32 at least, where sums are taken."""
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
