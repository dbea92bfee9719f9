"""The log density of a target: what it must return, as a function of flat vectors, its slope."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import describe, type_error, value_error
from equipoise._jax.programs import primitive_names
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree, Scalar
from equipoise.vi._families.family import Family, Params
from equipoise.vi._families.layout import Layout

LogDensity: TypeAlias = Callable[..., Scalar]
_Look: TypeAlias = tuple[Scalar, Array]


def density_of(argument: str, log_density: LogDensity, family: Family, *others: PyTree) -> Traced:
    """The log density of one position as data; raises where it does not return one number.

    Others that it takes are given as their shapes and dtypes.

    What it captured are leaves, so that compiled functions that it is an argument of are compiled
    once for its equations.
    """
    if not callable(log_density):
        raise type_error(argument, "must be a function of a position", log_density)

    def density(position: PyTree, *others: PyTree) -> Scalar:
        found = log_density(position, *others)
        value = jnp.asarray(found) if jax.tree_util.all_leaves([found]) else np.zeros(0)
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise value_error(
                argument,
                "must return one floating-point number for one position",
                describe(found),
                "Sum over the data inside it; positions are mapped for you.",
            )
        return value

    if family.positions is not None:
        return traced(density, family.positions.abstract, *others)
    return traced(density, jax.eval_shape(functools.partial(_position, family)))


def _position(family: Family) -> PyTree:
    key = jax.random.key(0)
    return jax.tree.map(lambda leaf: leaf[0], family.sample(family.init(key), key, 1))


def dtype_of(params: Params) -> np.dtype:
    """Dtype of the params, which is that of the noise and of every sum."""
    return jnp.asarray(jax.tree.leaves(params)[0]).dtype


def flat_log_density(log_density: LogDensity, positions: Layout) -> Callable[[Array], Scalar]:
    """Log p(position) + log |∂position/∂flat| at a flat vector."""

    def flat_density(flat: Array) -> Scalar:
        value = jnp.asarray(log_density(positions.unravel(flat))).astype(flat.dtype)
        return value + positions.log_volume(flat)

    return flat_density


def value_and_slope(log_p: Callable[[Array], Scalar], sds: Array) -> Callable[[Array], _Look]:
    """Its value and gradient, which have derivatives in forward mode even where log p has none.

    With a ``jax.custom_vjp`` or an adaptive solver of differential equations inside, log p can be
    differentiated in reverse mode alone. Then the gradient's derivative is a central difference,
    over a small part of the sds.
    """
    look: Callable[[Array], _Look] = jax.value_and_grad(log_p)
    if _has_forward_mode(log_p, sds):
        return look
    apart = float(np.finfo(sds.dtype).eps) ** 0.25  # errs least by rounding and by bend

    @jax.custom_jvp
    def differenced(point: Array) -> _Look:
        return look(point)

    @differenced.defjvp
    def along(primals: tuple[Array], tangents: tuple[Array]) -> tuple[_Look, _Look]:
        (point,), (direction,) = primals, tangents
        value, slope = differenced(point)
        length = jnp.linalg.norm(direction / sds)
        step = jnp.where(length > 0, apart / jnp.where(length > 0, length, 1), 0)
        ahead, behind = (differenced(point + s * direction)[1] for s in (step, -step))
        change = jnp.where(step > 0, (ahead - behind) / (2 * jnp.where(step > 0, step, 1)), 0)
        return (value, slope), (slope @ direction, change)

    return differenced


def second_order(
    look: Callable[[Array], _Look], point: Array, directions: Array
) -> tuple[Scalar, Array, Array]:
    """Value, gradient, and the gradient's derivatives along the rows."""

    def along(direction: Array) -> tuple[_Look, _Look]:
        return jax.jvp(look, (point,), (direction,))

    (value, slope), (_, bent) = jax.vmap(along, out_axes=(None, 0))(directions)
    return value, slope, bent


def _has_forward_mode(log_p: Callable[[Array], Scalar], point: Array) -> bool:
    if "custom_vjp_call" not in primitive_names(jax.make_jaxpr(log_p)(point)):
        return True
    look = jax.value_and_grad(log_p)
    try:  # mapped, as what has reverse mode alone is found out by what is done to its derivative
        jax.eval_shape(jax.vmap(lambda z: jax.jvp(look, (z,), (z,))), point[None])
    except (TypeError, NotImplementedError):  # as JAX says it
        return False
    return True
