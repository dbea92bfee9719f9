"""A log density of batches of rows: on some rows, on all of them, and around an anchor.

Rows are gathered where they are needed, a batch at a time, so that memory beside the data grows
neither with their number nor with that of the batches.
"""

import dataclasses
import inspect
import operator
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from equipoise._check import positive_integer, rows_in_front, type_error, value_error
from equipoise._jax.traced import Traced
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, record, static_field
from equipoise.vi._bounds.density import (
    LogDensity,
    density_of,
    flat_log_density,
    second_order,
    value_and_slope,
)
from equipoise.vi._families.family import Family
from equipoise.vi._families.layout import Layout
from equipoise.vi._target.target import Expansion, asked_in

_LogDensityOfRows: TypeAlias = Callable[[PyTree, PyTree, Scalar], Scalar]
_Sharding: TypeAlias = NamedSharding | None


@record
class Batches:
    """A log density of position, rows and scale, and the data whose rows it takes.

    Attributes:
        log_density: Of ``batch_size`` rows, whose terms count ``scale`` times.
        of_rest: Of as many rows as are left when batches are full; None where none are.
        data: All rows.
        positions: How positions are made of flat vectors.
        batch_size: Rows of a batch.
        shardings: How the rows of each leaf are divided among devices.
    """

    log_density: Traced
    of_rest: Traced | None
    data: PyTree
    positions: Layout = static_field()
    batch_size: int = static_field()
    shardings: tuple[_Sharding, ...] = static_field()

    @property
    def num_rows(self) -> int:
        """Of all data."""
        return int(jax.tree.leaves(self.data)[0].shape[0])

    @property
    def num_batches(self) -> int:
        """Full ones in all data."""
        return self.num_rows // self.batch_size

    def all_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Which rows each batch has, and which are left; a batch has rows of all parts of the data.

        So each of the devices that share the data has a part of every batch.
        """
        count = self.num_batches * self.batch_size
        rows = np.arange(count, dtype=np.int32).reshape(self.batch_size, -1).T
        return rows, np.arange(count, self.num_rows, dtype=np.int32)

    def some_rows(self, rng: np.random.Generator, num_batches: int) -> tuple[np.ndarray, ...]:
        """Random rows for that many batches, none of them twice; all where there are no more."""
        if num_batches >= self.num_batches:
            return self.all_rows()
        size = num_batches, self.batch_size
        chosen = rng.choice(self.num_rows, size, replace=False, shuffle=False)
        return chosen.astype(np.int32), np.zeros(0, np.int32)

    def on(self, rows: Array | np.ndarray, rest: Array | np.ndarray) -> LogDensity:
        """The log density that these rows stand for: the mean of its batches, weighted by rows.

        Each batch counts as all data, prior included, so that the mean over all is exact.
        """
        share = self.batch_size / (rows.size + rest.size)

        def log_density(position: PyTree) -> Scalar:
            # What the derivative needs of a batch is computed again, and not kept for each.
            @jax.checkpoint
            def one(batch: Array) -> Scalar:
                return self._value(self.log_density, position, batch)

            def add(
                total: tuple[Scalar, Scalar], batch: Array
            ) -> tuple[tuple[Scalar, Scalar], None]:
                return _sum(*total, share * one(batch)), None

            last = jnp.zeros((), asked_in(self.positions))
            if rest.size and self.of_rest is not None:
                last = (1 - share * len(rows)) * self._value(self.of_rest, position, rest)
            (total, _), _ = jax.lax.scan(add, (last, jnp.zeros_like(last)), jnp.asarray(rows))
            return total

        return log_density

    def drawn(self, key: PRNGKeyArray) -> Array:
        """Rows of one batch, each independent of the others."""
        return jax.random.randint(key, (self.batch_size,), 0, self.num_rows, np.int32)

    def on_batch(self, rows: Array, whole: Expansion) -> LogDensity:
        """The log density that the rows of one batch stand for, right to first order at a point.

        What the batch lacks there of all data is added, so that far less of the gradient is chance.
        """

        def plain(position: PyTree) -> Scalar:
            return self._value(self.log_density, position, rows)

        flat = flat_log_density(plain, self.positions)
        part = Expansion(whole.center, *jax.value_and_grad(flat)(whole.center))
        missing = lacking(whole, part)
        return lambda position: plain(position) + missing(self.positions.ravel(position))

    def _value(self, log_density: Traced, position: PyTree, rows: Array | np.ndarray) -> Scalar:
        leaves, structure = jax.tree.flatten(self.data)
        pairs = zip(leaves, self.shardings, strict=True)
        batch = jax.tree.unflatten(structure, [_gathered(x, rows, s) for x, s in pairs])
        scale = jnp.asarray(self.num_rows / rows.size, self.positions.dtype)
        value: Scalar = log_density(position, batch, scale)
        return value.astype(asked_in(self.positions))


def _sum(total: Scalar, lost: Scalar, term: Scalar) -> tuple[Scalar, Scalar]:
    """Compensated, as many terms are as large as the sum of all."""
    term = term - lost
    new = total + term
    return new, (new - total) - term


def _gathered(leaf: Array, rows: Array | np.ndarray, sharding: _Sharding) -> Array:
    """The rows, divided among devices as the leaf is where they can be."""
    found = leaf.at[rows].get(mode="promise_in_bounds")
    if sharding is None or len(rows) % sharding.num_devices:
        return found
    divided: Array = jax.lax.with_sharding_constraint(found, sharding)  # type: ignore[no-untyped-call]
    return divided


def batches_of(
    log_density: _LogDensityOfRows, family: Family, data: PyTree, batch_size: int | None
) -> Batches:
    """The log density of batches of the data; raises where one does not fit the other."""
    num_rows, data = rows_in_front("data", data)
    if batch_size is None:
        raise value_error(
            "batch_size", "must be given where `data` is", "None", "Try batch_size=1000."
        )
    size = positive_integer("batch_size", batch_size)
    if size > num_rows:
        raise value_error(
            "batch_size",
            f"must be at most the {num_rows} rows of `data`",
            str(size),
            "All of them at once need no batches: close over the data.",
        )
    try:
        inspect.signature(log_density).bind(None, None, None)
    except TypeError:
        raise type_error(
            "log_density",
            "must take a position, a batch and a scale where `data` is given",
            log_density,
            "Multiply the sum over the batch by the scale.",
        ) from None
    leaves, structure = jax.tree.flatten(data)
    leaves = [_with_automatic_axes(leaf) for leaf in leaves]

    def trace(number: int) -> Traced:
        shape: Callable[..., PyTree] = jax.ShapeDtypeStruct  # it is left untyped
        batch = [shape((number, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        scale = shape((), family.positions.dtype)
        return density_of(
            "log_density", log_density, family, jax.tree.unflatten(structure, batch), scale
        )

    return Batches(
        trace(size),
        trace(num_rows % size) if num_rows % size else None,
        jax.tree.unflatten(structure, leaves),
        family.positions,
        size,
        tuple(map(_sharding_of, leaves)),
    )


def _sharding_of(leaf: Array) -> _Sharding:
    sharding = leaf.sharding
    return sharding if isinstance(sharding, NamedSharding) and sharding.num_devices > 1 else None


def _with_automatic_axes(leaf: Array) -> Array:
    """The same array, of which the compiler divides the work: rows are taken from all devices."""
    sharding = _sharding_of(leaf)
    if sharding is None or not isinstance(sharding.mesh, Mesh):
        return leaf
    mesh = sharding.mesh
    axes = (AxisType.Auto,) * len(mesh.axis_names)
    automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=axes)
    return jax.device_put(leaf, NamedSharding(automatic, sharding.spec))


@jax.jit
def expanded(
    batches: Batches, rows: tuple[Array, Array], center: Array, sds: Array | None = None
) -> Expansion:
    """The log density on these rows around a point; with its curvature if sds are given."""
    flat = flat_log_density(batches.on(*rows), batches.positions)
    if sds is None:
        return Expansion(center, *jax.value_and_grad(flat)(center))
    eye = jnp.eye(len(center), dtype=center.dtype)
    return Expansion(center, *second_order(value_and_slope(flat, sds), center, eye))


def lacking(whole: Expansion, part: Expansion) -> Expansion:
    """What the one has and the other has not, around the same point."""
    missing: Expansion = jax.tree.map(operator.sub, whole, part)
    return dataclasses.replace(missing, center=whole.center)
