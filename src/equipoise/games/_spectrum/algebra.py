"""Linear algebra and loops, in NumPy on what is known and in the compiled program on what is not.

Compiling eigenvalues, sorts and searches takes longer than NumPy takes to do them. So code that is
written with these runs on the host, and the same code becomes a program where its caller is traced.
"""

from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import is_traced
from equipoise._types import Array, PyTree

_Carry = TypeVar("_Carry", bound=PyTree)


def namespace(*arrays: PyTree) -> ModuleType:
    """``numpy`` where every array is known, otherwise ``jax.numpy``."""
    return jnp if any(map(is_traced, jax.tree.leaves(arrays))) else np


def repeated_while(
    unfinished: Callable[[_Carry], Array], advance: Callable[[_Carry], _Carry], carry: _Carry
) -> _Carry:
    """``advance`` the carry as long as it is unfinished."""
    if namespace(carry) is jnp:
        return jax.lax.while_loop(unfinished, advance, carry)
    while unfinished(carry):
        carry = advance(carry)
    return carry


def either(test: Array, yes: Callable[[], _Carry], no: Callable[[], _Carry]) -> _Carry:
    """One of two results, of which only that one is computed."""
    if is_traced(test):
        return jax.lax.cond(test, yes, no)
    return yes() if test else no()


def eigenvalues(matrices: Array) -> Array:
    """Of each matrix (..., n, n); NaN where it is not finite."""
    if is_traced(matrices):
        return jnp.linalg.eigvals(matrices)
    finite, known = _finite(matrices)
    found: PyTree = np.where(finite[..., 0], _complex(np.linalg.eigvals(known)), np.nan)
    return found


def eigenvectors(matrices: Array) -> tuple[Array, Array]:
    """The eigenvalues of each matrix (..., n, n), and unit eigenvectors in columns."""
    if is_traced(matrices):
        return jnp.linalg.eig(matrices)
    finite, known = _finite(matrices)
    values, vectors = map(_complex, np.linalg.eig(known))
    found: PyTree = np.where(finite[..., 0], values, np.nan), np.where(finite, vectors, np.nan)
    return found


def inverse(matrices: Array) -> Array:
    """Of each matrix (..., n, n); not finite where it has none."""
    if is_traced(matrices):
        return jnp.linalg.inv(matrices)
    found: PyTree
    try:
        found = np.linalg.inv(matrices)
        return found
    except np.linalg.LinAlgError:
        if matrices.ndim == 2:
            return matrices * np.nan
        found = np.stack([inverse(a) for a in matrices])
        return found


def _finite(matrices: PyTree) -> tuple[PyTree, PyTree]:
    """Which matrices are finite, and all of them with zeros for those that are not."""
    finite = np.isfinite(matrices).all(axis=(-2, -1), keepdims=True)
    return finite, np.where(finite, matrices, 0)


def _complex(array: PyTree) -> PyTree:
    """NumPy's eigenvalues are real where all are."""
    return array.astype(np.result_type(array, np.complex64))
