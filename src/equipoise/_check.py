"""Argument checks: every message names the argument, what was expected, what came, what to do.

A public function says once where it is, ``@at("area.function")``; whatever raises below it names
that place. A check either returns the checked value in a normal form or raises while tracing. None
of them looks at the *values* of traced arrays; a pathology there has a result that the docstring
defines.
"""

import contextlib
import contextvars
import inspect
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import PyTree

_place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="equipoise")
_NO_FORWARD_MODE = "can't apply forward-mode autodiff (jvp) to a custom_vjp"  # JAX's words


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Errors raised within name this place; decorates a public function, or opens a block.

    Functions call each other, and an argument belongs to the innermost that says where it is.
    """
    token = _place.set(place)
    try:
        yield
    except TypeError as error:
        if _NO_FORWARD_MODE not in str(error):
            raise
        raise TypeError(
            f"{place}: takes derivatives in forward mode, but a function that it was given holds a "
            "jax.custom_vjp that has none. Write the formula in its forward rule, in place of a "
            "call of the function itself, or define its derivative by jax.custom_jvp."
        ) from error
    finally:
        _place.reset(token)


def describe(value: object) -> str:
    """Shape and dtype of an array, otherwise type and value, short enough for a message."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _message(argument: str, expected: str, got: object, advice: str = "") -> str:
    """``<place>: `<argument>` <expected>; got <actual>. <advice>``, the one format of errors."""
    actual = got if isinstance(got, str) else describe(got)
    return f"{_place.get()}: `{argument}` {expected}; got {actual}. {advice}".rstrip()


def value_error(argument: str, expected: str, got: object, advice: str = "") -> ValueError:
    """The :class:`ValueError` to raise; strings in ``got`` are printed as they are."""
    return ValueError(_message(argument, expected, got, advice))


def type_error(argument: str, expected: str, got: object, advice: str = "") -> TypeError:
    """The :class:`TypeError` to raise; strings in ``got`` are printed as they are."""
    return TypeError(_message(argument, expected, got, advice))


def is_traced(value: object) -> bool:
    """Whether the value is unknown while tracing."""
    return isinstance(value, jax.core.Tracer)


def floating_array(argument: str, value: object) -> jax.Array:
    """The value as a real floating-point array."""
    if not hasattr(value, "dtype") and not isinstance(value, (bool, int, float, complex, list)):
        raise type_error(argument, "must be a floating-point array", value)
    # A number goes to the device as it is, an array may need a program.
    is_number = isinstance(value, (bool, int, float, complex))
    array = jax.device_put(value) if is_number else jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise type_error(
            argument,
            "must be a floating-point array",
            array,
            f"Convert it first: {argument}.astype(jnp.float32).",
        )
    return array


def floating_tree(argument: str, tree: PyTree) -> PyTree:
    """The pytree with every leaf as a real floating-point array; it has one leaf at least.

    Its dtypes are strong: they do not yield to those of other operands.
    """
    if not jax.tree.leaves(tree):
        raise value_error(argument, "must have at least one array leaf", "an empty pytree")
    return jax.tree.map(lambda leaf: _strong(floating_array(argument, leaf)), tree)


def _strong(leaf: jax.Array) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    if is_traced(leaf):
        return jax.lax.convert_element_type(leaf, dtype)
    is_strong = leaf.dtype == dtype and not leaf.weak_type
    return leaf if is_strong else jax.device_put(np.asarray(leaf).astype(dtype))


def positive_integer(argument: str, value: object, *, minimum: int = 1) -> int:
    """The value as a Python integer, at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise type_error(
            argument, "must be a Python integer", value, "It sets a shape, so it is static."
        )
    if value < minimum:
        raise value_error(argument, f"must be at least {minimum}", value)
    return int(value)


def rows_in_front(argument: str, data: PyTree) -> tuple[int, PyTree]:
    """The number of rows that all leaves have in front, and the data as arrays."""
    data = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(np.asarray(leaf)), data
    )
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise value_error(argument, "must have at least one array leaf", "an empty pytree")
    for path, leaf in leaves:
        name = f"{argument}{jax.tree_util.keystr(path)}"
        if leaf.ndim == 0 or leaf.shape[0] == 0:
            advice = "A list is a pytree of its entries: jnp.asarray makes an array of it."
            raise value_error(name, "must have rows in front", describe(leaf), advice)
        if leaf.shape[0] != leaves[0][1].shape[0]:
            raise value_error(
                name,
                f"must have {leaves[0][1].shape[0]} rows as the leaves before",
                describe(leaf),
                "All leaves are cut into the same batches: close over those that have no rows.",
            )
    return leaves[0][1].shape[0], data


def random_key(argument: str, value: PyTree) -> PyTree:
    """The value, one key of ``jax.random`` or the words of one."""
    dtype = getattr(value, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != np.uint32:
        seed = int(value) if isinstance(value, (int, np.integer)) else 0
        raise type_error(argument, "must be a key", value, f"Make one: jax.random.key({seed}).")
    if value.ndim != (0 if typed else 1):
        raise value_error(argument, "must be one key", value, "Several go through jax.vmap.")
    return value


def choice(argument: str, value: object, options: Collection[str]) -> str:
    """The value, one of the options."""
    if value not in options:
        raise value_error(argument, f"must be one of {', '.join(map(repr, options))}", value)
    return str(value)


def same_structure(argument: str, value: PyTree, example: PyTree, example_name: str) -> None:
    """Both pytrees have the same structure and the same leaf shapes."""
    expected, actual = jax.tree.structure(example), jax.tree.structure(value)
    if expected != actual:  # type: ignore[operator]
        raise value_error(
            argument, f"must have the structure of `{example_name}`, {expected}", str(actual)
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(example)]
    got = [np.shape(leaf) for leaf in jax.tree.leaves(value)]
    if shapes != got:
        raise value_error(
            argument, f"must have the leaf shapes of `{example_name}`, {shapes}", str(got)
        )
