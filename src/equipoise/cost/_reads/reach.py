"""Abstract arrays: for each element, a known value or the input positions that it can depend on."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.programs import Aval
from equipoise._types import Array

# A number of steps that no path has: the element does not depend on the position.
NONE = np.int32(2**30)
# Sums below this are masks: their exponential is exactly zero beside any moderate score.
FAR = -1e8


@dataclasses.dataclass(frozen=True)
class Reach:
    """An array of which some elements depend on the input.

    ``value`` holds where ``known``. An unknown element whose ``value`` is −∞ is *far*: a score
    that a mask has pushed down, still with its dependencies, which its exponential drops.
    ``steps``, of shape (*shape, n), is the fewest loop iterations on a way from each of the n
    input positions, or ``NONE`` if there is no way.
    """

    value: np.ndarray
    known: np.ndarray
    steps: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that it stands for."""
        return self.known.shape

    @property
    def far(self) -> np.ndarray:
        """Which elements are unknown but very negative."""
        if self.value.dtype.kind in ("b", "u", "i"):
            return np.zeros(self.shape, bool)
        return np.asarray(~self.known & (self.value == -np.inf))

    @property
    def zero(self) -> np.ndarray:
        """Which elements are known to be zero."""
        return np.asarray(self.known & (self.value == 0))


# What a program computes on: an array of which something is unknown, or a known one.
Known: TypeAlias = Array | np.ndarray
Value: TypeAlias = Reach | Known


def numeric(dtype: np.dtype) -> np.dtype:
    """The dtype of stored values; keys and other opaque types store a placeholder."""
    opaque = jnp.issubdtype(dtype, jax.dtypes.extended)
    return np.dtype(np.uint8 if opaque else dtype)


def lift(x: Value, n: int) -> Reach:
    """A constant as an abstract array without dependencies."""
    if isinstance(x, Reach):
        return x
    shape = np.shape(x)
    opaque = jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended)
    value = np.zeros(shape, np.uint8) if opaque else np.asarray(x)
    return Reach(value, np.full(shape, not opaque), np.full((*shape, n), NONE))


def make(
    value: Known, known: np.ndarray, steps: np.ndarray, *, far: np.ndarray | bool = False
) -> Value:
    """An abstract array in normal form; a plain array if all of it is known."""
    value = np.asarray(value)
    if known.all():
        return value
    clean = np.where(known, value, np.zeros((), value.dtype)).astype(value.dtype)
    if np.any(far):
        clean = np.where(~known & far, np.asarray(-np.inf, value.dtype), clean)
    return Reach(clean, known, np.where(known[..., None], NONE, steps))


def unknown(shape: tuple[int, ...], dtype: np.dtype, steps: np.ndarray) -> Reach:
    """An array of which nothing but the dependencies is known; ``steps`` broadcasts."""
    dtype = numeric(dtype)
    full = np.broadcast_to(steps, (*shape, steps.shape[-1]))
    return Reach(np.zeros(shape, dtype), np.zeros(shape, bool), full)


def join(a: Value, b: Value, n: int) -> Value:
    """What holds whichever of the two an array turns out to be."""
    left, right = lift(a, n), lift(b, n)
    equal = (left.value == right.value) | (
        (left.value != left.value) & (right.value != right.value)
    )
    known = left.known & right.known & equal
    steps = np.minimum(left.steps, right.steps)
    return make(left.value, known, steps, far=left.far & right.far)


def depend(x: Value, steps: np.ndarray, n: int) -> Value:
    """The array, now also dependent on what ``steps`` names."""
    x = lift(x, n)
    if (steps == NONE).all():
        return make(x.value, x.known, x.steps, far=x.far)
    return unknown(x.shape, x.value.dtype, np.minimum(x.steps, steps))


def later(x: Value, count: int) -> Value:
    """The array after more loop iterations."""
    if not isinstance(x, Reach) or not count:
        return x
    return Reach(x.value, x.known, np.where(x.steps == NONE, NONE, x.steps + np.int32(count)))


def anything(xs: Sequence[Value], n: int) -> np.ndarray:
    """The dependencies of all elements of all arrays together."""
    steps = [x.steps.reshape(-1, n) for x in xs if isinstance(x, Reach)]
    rows = np.concatenate([*steps, np.full((1, n), NONE)])
    return np.asarray(rows.min(axis=0))


def row(x: Value, t: int) -> Value:
    """One slice along the first axis."""
    return Reach(x.value[t], x.known[t], x.steps[t]) if isinstance(x, Reach) else x[t]


def stack(rows: Sequence[Value], empty: Aval, n: int) -> Value:
    """Slices put together along a new first axis; of shape and dtype ``empty`` if there is none."""
    if not rows:
        return np.zeros(tuple(map(int, empty.shape)), numeric(empty.dtype))
    if not any(isinstance(x, Reach) for x in rows):
        return jnp.stack([jnp.asarray(x) for x in rows])
    lifted = [lift(x, n) for x in rows]
    return Reach(
        np.stack([x.value for x in lifted]),
        np.stack([x.known for x in lifted]),
        np.stack([x.steps for x in lifted]),
    )


def same(a: Value, b: Value, n: int) -> bool:
    """Whether two abstract arrays say the same."""
    left, right = lift(a, n), lift(b, n)
    return bool(
        (left.known == right.known).all()
        and (left.steps == right.steps).all()
        and (left.far == right.far).all()
        and np.array_equal(left.value, right.value, equal_nan=left.value.dtype.kind in "fc")
    )
