"""Argument checks: every message names the argument, what was expected, what came, what to do.

A check either returns the checked value in a normal form or raises while tracing. None of them
looks at the *values* of traced arrays; a pathology there has a result that the docstring defines.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(value: object) -> str:
    """Shape and dtype of an array, otherwise type and value, short enough for a message."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def message(where: str, argument: str, expected: str, got: object, advice: str = "") -> str:
    """``<where>: `<argument>` <expected>; got <actual>. <advice>``, the one format of errors."""
    actual = got if isinstance(got, str) else describe(got)
    return f"{where}: `{argument}` {expected}; got {actual}. {advice}".rstrip()


def value_error(
    where: str, argument: str, expected: str, got: object, advice: str = ""
) -> ValueError:
    """The :class:`ValueError` to raise; strings in ``got`` are printed as they are."""
    return ValueError(message(where, argument, expected, got, advice))


def type_error(
    where: str, argument: str, expected: str, got: object, advice: str = ""
) -> TypeError:
    """The :class:`TypeError` to raise; strings in ``got`` are printed as they are."""
    return TypeError(message(where, argument, expected, got, advice))


def is_traced(value: object) -> bool:
    """Whether the value is unknown while tracing."""
    return isinstance(value, jax.core.Tracer)


def floating_array(where: str, argument: str, value: Any) -> jax.Array:
    """The value as a real floating-point array."""
    if not hasattr(value, "dtype") and not isinstance(value, (bool, int, float, complex, list)):
        raise type_error(where, argument, "must be a floating-point array", value)
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise type_error(
            where,
            argument,
            "must be a floating-point array",
            array,
            f"Convert it first: {argument}.astype(jnp.float32).",
        )
    return array


def floating_tree(where: str, argument: str, tree: Any) -> Any:
    """The pytree with every leaf as a real floating-point array; it has one leaf at least."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise value_error(where, argument, "must have at least one array leaf", "an empty pytree")
    return jax.tree.map(lambda leaf: floating_array(where, argument, leaf), tree)


def positive_integer(where: str, argument: str, value: Any, *, minimum: int = 1) -> int:
    """The value as a Python integer, at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise type_error(
            where, argument, "must be a Python integer", value, "It sets a shape, so it is static."
        )
    if value < minimum:
        raise value_error(where, argument, f"must be at least {minimum}", value)
    return int(value)


def choice(where: str, argument: str, value: Any, options: Collection[str]) -> str:
    """The value, one of the options."""
    if value not in options:
        raise value_error(where, argument, f"must be one of {', '.join(map(repr, options))}", value)
    return str(value)


def same_structure(where: str, argument: str, value: Any, example: Any, example_name: str) -> None:
    """Both pytrees have the same structure and the same leaf shapes."""
    expected, actual = jax.tree.structure(example), jax.tree.structure(value)
    if expected != actual:  # type: ignore[operator]
        raise value_error(
            where, argument, f"must have the structure of `{example_name}`, {expected}", str(actual)
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(example)]
    got = [np.shape(leaf) for leaf in jax.tree.leaves(value)]
    if shapes != got:
        raise value_error(
            where, argument, f"must have the leaf shapes of `{example_name}`, {shapes}", str(got)
        )
