"""Sums and products on abstract arrays: a result reads the terms that are not known to be zero."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.evaluation import bind
from equipoise._jax.programs import Equation, aval
from equipoise._types import Array
from equipoise.cost._reads.reach import NONE, Known, Reach, Value, lift, make, unknown

# From a primitive and its operands to its results; None if it depends on unknown indices.
Rule: TypeAlias = Callable[[Equation, list[Value], int], list[Value] | None]
# From a stack of sets of an operand's elements to the results that each contributes to.
_Touch: TypeAlias = Callable[[np.ndarray], np.ndarray]


# Multiplies two arrays of float32.
_Product: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


def evaluate(equation: Equation, *operands: Known, **changed: object) -> list[np.ndarray]:
    """The primitive on known operands."""
    found = bind(equation, [jnp.asarray(x) for x in operands], **changed)
    return [np.asarray(x) for x in found]


def value_of(equation: Equation, *operands: Known, **changed: object) -> np.ndarray:
    """The one result of the primitive on known operands."""
    (found,) = evaluate(equation, *operands, **changed)
    return found


def result(equation: Equation) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the first result."""
    found = aval(equation.outvars[0])
    return tuple(map(int, found.shape)), found.dtype


def windowed(equation: Equation, xs: list[Value], n: int) -> list[Value]:
    """Window sums and maxima: the primitive itself on zeros and ones."""
    a = lift(xs[0], n)
    touch = _touches(lambda indicator: bind(equation, [indicator])[0])
    known = ~touch((~a.known)[None])[0]
    return [make(value_of(equation, a.value), known, by_level(a.steps, touch))]


def bilinear(product: Callable[[Equation], _Product]) -> Rule:
    """Matrix products and convolutions: a term with a factor known to be zero reads nothing.

    ``product(equation)`` multiplies float32 arrays, of which one may have an axis more in front.
    """

    def rule(equation: Equation, xs: list[Value], n: int) -> list[Value]:
        a, b = lift(xs[0], n), lift(xs[1], n)
        multiply = product(equation)
        left, right = (~a.zero).astype(np.float32), (~b.zero).astype(np.float32)
        shape, dtype = result(equation)
        known, steps = np.ones(shape, bool), np.full((*shape, n), NONE)
        sides: tuple[tuple[Reach, _Touch], ...] = (
            (a, lambda sets: np.stack([multiply(s, right) for s in sets]) > 0),
            (b, lambda sets: np.stack([multiply(left, s) for s in sets]) > 0),
        )
        for x, touch in sides:
            if not x.known.all():
                known = known & ~touch((~x.known)[None])[0]
                steps = np.minimum(steps, by_level(x.steps, touch))
        if not known.any():
            return [unknown(shape, dtype, steps)]
        nominal = (np.where(x.far, 0, x.value) for x in (a, b))
        return [make(value_of(equation, *nominal), known, steps)]

    return rule


def matrix_product(equation: Equation) -> _Product:
    (contract_a, contract_b), (batch_a, batch_b) = equation.params["dimension_numbers"]

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """One ``einsum`` in NumPy, which has nothing to compile."""
        at_a, at_b = list(range(a.ndim)), list(range(100, 100 + b.ndim))
        for i, j in zip((*contract_a, *batch_a), (*contract_b, *batch_b), strict=True):
            at_b[j] = at_a[i]
        free_a = [i for i in range(a.ndim) if i not in (*contract_a, *batch_a)]
        free_b = [at_b[j] for j in range(b.ndim) if j not in (*contract_b, *batch_b)]
        out = [*batch_a, *free_a, *free_b]
        names = {axis: k for k, axis in enumerate(dict.fromkeys([*at_a, *at_b]))}
        return np.einsum(
            a.astype(np.float32), [names[i] for i in at_a],
            b.astype(np.float32), [names[j] for j in at_b],
            [names[i] for i in out], optimize=True,
        )  # fmt: skip

    return multiply


def convolution(equation: Equation) -> _Product:
    float32 = {"preferred_element_type": np.dtype(np.float32), "precision": None}

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return value_of(equation, a.astype(np.float32), b.astype(np.float32), **float32)

    return multiply


def _touches(function: Callable[[Array], Array]) -> _Touch:
    """Which results a set of elements contributes to, for a stack of sets."""

    def touch(sets: np.ndarray) -> np.ndarray:
        return np.asarray(jax.vmap(function)(jnp.asarray(sets, jnp.float32))) > 0

    return touch


def by_level(steps: np.ndarray, touch: _Touch) -> np.ndarray:
    """The fewest steps over all contributions, one number of steps at a time."""
    positions = np.moveaxis(steps, -1, 0)
    found = np.full(steps.shape[-1:], NONE)
    for level in np.unique(steps[steps < NONE])[::-1]:
        reads = np.moveaxis(touch(positions <= level), 0, -1)
        found = np.where(reads, level, found)
    return found
