"""An optax optimizer as data: one made anew, or with another rate, compiles nothing."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
import optax

from equipoise._jax.traced import Traced, traced
from equipoise._types import PyTree, Scalar, record, static_field
from equipoise.vi._families.family import Params

_Optimizer: TypeAlias = optax.GradientTransformationExtraArgs


class _Searches(Exception):
    """The optimizer evaluates the loss at params of its own choice."""


@record
class Rule:
    """An optimizer for compiled functions.

    Attributes:
        update: New params and memory, from gradient, memory, params and loss; None where the
            optimizer evaluates the loss itself, as one with a line search does.
        searching: Such an optimizer, told by the identity of its functions.
    """

    update: Traced | None
    searching: _Optimizer | None = static_field()

    def __call__(
        self,
        gradient: Params,
        memory: PyTree,
        params: Params,
        value: Scalar,
        loss: Callable[[Params], Scalar],
    ) -> tuple[Params, PyTree]:
        """Params and memory after one step, from the gradient and value of the loss before it."""
        if self.update is None:
            return _updated(self.searching, loss, gradient, memory, params, value)
        return self.update(gradient, memory, params, value)


def memory_of(optimizer: optax.GradientTransformation, params: Params) -> PyTree:
    """What the optimizer remembers before the first step."""
    return _called(traced(optimizer.init, params), params)


@jax.jit
def _called(function: Traced, params: Params) -> PyTree:
    return function(params)


def rule_of(optimizer: optax.GradientTransformation, params: Params, memory: PyTree) -> Rule:
    """The rule of an optimizer for params of these shapes and dtypes."""
    leaves, structure = jax.tree.flatten((params, memory))
    return _rule_at(optimizer, structure, tuple(map(jax.typeof, leaves)))


@functools.lru_cache(maxsize=64)  # optax's functions depend on nothing that changes
def _rule_at(
    optimizer: optax.GradientTransformation,
    structure: jax.tree_util.PyTreeDef,
    shapes: tuple[PyTree, ...],
) -> Rule:
    params, memory = jax.tree.unflatten(structure, shapes)
    extended = optax.with_extra_args_support(optimizer)
    value = np.zeros((), shapes[0].dtype)
    update = functools.partial(_updated, extended, _refused)
    try:
        return Rule(traced(update, params, memory, params, value), None)
    except _Searches:
        return Rule(None, extended)


def _updated(
    optimizer: _Optimizer,
    loss: Callable[[Params], Scalar],
    gradient: Params,
    memory: PyTree,
    params: Params,
    value: Scalar,
) -> tuple[Params, PyTree]:
    # optax counts steps in integers and mixes them with floats.
    with jax.numpy_dtype_promotion("standard"):
        updates, memory = optimizer.update(
            gradient, memory, params, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(params, updates), memory


def _refused(params: Params) -> Scalar:
    raise _Searches
