"""How critical steps move with all that a game and a rule close over."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.games._spectrum.spectrum import Family, eigenvalue_at

_Steps: TypeAlias = tuple[Array, ...]


@jax.custom_jvp
def with_derivative(family: Family, lost: Array, etas: _Steps) -> _Steps:
    """Critical steps η, with the derivative −∂log|λ| / ∂_η log|λ| by all that M(η) depends on.

    Each comes with the eigenvalue λ that is lost there.
    """
    return etas


@with_derivative.defjvp
def _with_derivative_jvp(
    primals: tuple[Family, Array, _Steps], tangents: tuple[Family, Array, _Steps]
) -> tuple[_Steps, _Steps]:
    family, lost, etas = primals
    along = jax.jvp(lambda f: _log_moduli(f, lost, etas), (family,), (tangents[0],))[1]
    return etas, _moved(family, lost, etas, along)


def log_modulus(family: Family, lost: Array, eta: Array) -> Array:
    """Of the eigenvalue that is lost at η; a constant where none is."""
    is_lost = (eta > 0) & jnp.isfinite(eta)
    matrix = family.at_rest(jnp.where(is_lost, eta, 0))
    some = jnp.diag(jnp.linspace(1, 2, len(matrix), dtype=matrix.dtype))
    matrix = jnp.where(is_lost, matrix, some)
    values, vectors = jnp.linalg.eig(jax.lax.stop_gradient(matrix))
    nearest = jnp.argmin(jnp.abs(values - lost))
    return jnp.log(jnp.abs(eigenvalue_at(matrix, values, vectors, nearest)))


@jax.jit
def _log_moduli(family: Family, lost: Array, etas: _Steps) -> _Steps:
    each: Callable[[Array, Array], Array] = jax.vmap(functools.partial(log_modulus, family))
    return tuple(each(lost, jnp.stack(etas)))


@jax.jit
def _moved(family: Family, lost: Array, etas: _Steps, along: _Steps) -> _Steps:
    """−∂log|λ| / ∂_η log|λ|, where the numerator is known."""

    def speed(value: Array, eta: Array) -> Array:
        one = jnp.ones_like(eta)
        return jax.jvp(lambda s: log_modulus(family, value, s), (eta,), (one,))[1]

    speeds = jax.lax.stop_gradient(jax.vmap(speed)(lost, jnp.stack(etas)))
    return tuple(-a / jnp.where(s == 0, jnp.inf, s) for a, s in zip(along, speeds, strict=True))
