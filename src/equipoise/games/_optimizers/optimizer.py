"""An optimizer as data that compiled programs share, and the mistakes made with one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from equipoise._check import same_structure, type_error, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree, record


@record
class Optimizer:
    """The two functions of an optimizer; what they close over are leaves.

    Attributes:
        init: From parameters to the first state.
        update: From gradient, state and parameters to the update and the next state.
    """

    init: Traced
    update: Traced


class Shapes(NamedTuple):
    """Shapes and dtypes of parameters and of an optimizer's state."""

    params: PyTree
    state: PyTree


def check_optimizer(argument: str, optimizer: object) -> None:
    """Reject what is no optax transformation; a wrapper is named with the method to call."""
    if isinstance(optimizer, optax.GradientTransformation):
        return
    if callable(getattr(optimizer, "gradient_transformation", None)):
        name = type(optimizer).__name__
        raise type_error(
            argument,
            "must be an optax.GradientTransformation",
            f"the wrapper {name}",
            f"Call its method: {name}(...).gradient_transformation().",
        )
    raise type_error(
        argument,
        "must be an optax.GradientTransformation",
        optimizer,
        "Example: optax.adam(1.0).",
    )


def traced_optimizer(
    argument: str, optimizer: optax.GradientTransformation, params: PyTree[Array]
) -> tuple[Optimizer, Shapes]:
    """The optimizer as data, for parameters of these shapes, and the shapes of its state."""
    like = jax.eval_shape(lambda x: x, params)
    init = traced(optimizer.init, like)
    state = jax.eval_shape(init, like)
    try:
        update = traced(lambda g, m, x: optimizer.update(g, m, x), like, state, like)
    except TypeError as error:
        if "missing" not in str(error) or "argument" not in str(error):
            raise
        wanted = str(error).split("missing")[-1].strip()
        raise value_error(
            argument,
            "must need nothing but gradient, state and parameters",
            f"one that is missing {wanted}",
            "Leave out what searches lines or watches the loss.",
        ) from error
    _, later = jax.eval_shape(update, like, state, like)
    same_structure(argument, later, state, "the state that its init makes")
    return Optimizer(init, update), Shapes(like, state)


def checked_state(argument: str, state: PyTree, like: PyTree) -> PyTree:
    """The state in the dtypes that the optimizer's init gives it."""
    same_structure(argument, state, like, "optimizer.init(params)")
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), state, like)
