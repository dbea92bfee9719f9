"""Arrays on a mesh with explicit axes: XLA divides the work, and results are placed by their query.

The loops over blocks read parts of arrays and write into zeros of their own, for which explicit
axes want a placement at each step. Inside of a public function these axes are automatic instead:
what is split by batch or heads stays where it is, and nothing is sent.
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from equipoise._jax.programs import closed
from equipoise._jax.varying import evaluated, mesh_of
from equipoise._types import Array, PyTree, record, static_field
from equipoise.attention._kernel.problem import wide
from equipoise.attention._masks.functions import Hoisted, hoist

_F = TypeVar("_F", bound=Callable[..., PyTree])
# What explicit axes say of the arrays' rows, and the same axes, once automatic, do not.
_rows: ContextVar[bool | None] = ContextVar("rows", default=None)


def rows_divided() -> bool | None:
    """Whether rows of the arrays at hand are divided between devices; None where no type says."""
    return _rows.get()


def placed_by(places: Callable[[dict[str, PyTree]], PyTree]) -> Callable[[_F], _F]:
    """A function of arrays that may lie on a mesh; ``places`` says where, by its arguments.

    They are the placements of its results: a tree of what :func:`place` gives.
    """

    def decorated(function: _F) -> _F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def on_mesh(*args: PyTree, **options: PyTree) -> PyTree:
            if _explicit((args, options)) is None:
                return function(*args, **options)
            arguments = signature.bind(*args, **options)
            arguments.apply_defaults()
            return _automatic(function, arguments, places(arguments.arguments))

        return on_mesh  # type: ignore[return-value]

    return decorated


def axes_of(x: Array) -> tuple[PyTree, ...]:
    """For each axis of an array the mesh axes that it is divided over, or None."""
    return tuple(jax.typeof(x).sharding.spec)


def placed(*axes: PyTree) -> PartitionSpec:
    """Where a result lies whose axes are divided over these."""
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


def place(x: Array, *, without: int = 0, beside: int = 0) -> PartitionSpec:
    """Where an array lies: its axes but for some last ones, then some that are whole."""
    axes = axes_of(x)
    return placed(*axes[: len(axes) - without], *(None,) * beside)


def replicated(function: _F) -> _F:
    """A function of such arrays whose results every device has as a whole."""
    return placed_by(lambda _: placed())(function)


def _explicit(arrays: PyTree) -> PyTree:
    """The mesh with explicit axes that one of the arrays lies on, or None."""
    meshes = (mesh_of(x) for x in jax.tree.leaves(arrays) if isinstance(x, jax.Array))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def _automatic(
    function: Callable[..., PyTree], arguments: inspect.BoundArguments, places: PyTree
) -> PyTree:
    mesh = _explicit(arguments.arguments)
    leaves, structure = jax.tree.flatten(portable(arguments.arguments))
    there = [i for i, x in enumerate(leaves) if _explicit(x) is not None]

    divided = _divides_rows(**arguments.arguments)

    def run(*arrays: Array) -> PyTree:
        known = dict(zip(there, arrays, strict=True))
        full = [known.get(i, x) for i, x in enumerate(leaves)]
        arguments.arguments.update(jax.tree.unflatten(structure, full))
        before = _rows.set(divided)
        try:
            return function(*arguments.args, **arguments.kwargs)
        finally:
            _rows.reset(before)

    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        places,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    inside: PyTree = jax.sharding.auto_axes(run, axes=mesh.explicit_axes, out_sharding=shardings)
    return inside(*(leaves[i] for i in there))


def _divides_rows(query: PyTree = None, inputs: PyTree = None, **_: PyTree) -> bool | None:
    """Whether the rows of a query, or of the inputs that it is made of, are divided."""
    x, after = (inputs, 1) if query is None else (query, 2)
    if not isinstance(x, jax.Array) or x.ndim <= after:
        return None
    return axes_of(x)[-1 - after] is not None


@record
class Portable:
    """A user's function of scalars with the arrays that it captured, which may be moved."""

    function: Hoisted = static_field()
    captured: tuple[Array, ...]

    def __call__(self, *scalars: Array) -> Array:
        return evaluated(closed(self.function.program, self.captured), scalars)[0]


def portable(arguments: dict[str, PyTree]) -> dict[str, PyTree]:
    """Arguments with their functions of scalars in such a form; ``**options`` are a dictionary."""
    query = arguments.get("query")
    return {name: _portable(name, value, query) for name, value in arguments.items()}


def _portable(name: str, value: PyTree, query: PyTree) -> PyTree:
    """An argument, its functions of scalars in such a form; ``**options`` are a dictionary."""
    if isinstance(value, dict):
        return {key: _portable(key, x, query) for key, x in value.items()}
    indices = (jnp.int32,) * 4
    if name == "score_fn" and callable(value):
        return Portable(*hoist(name, value, (wide(query.dtype), *indices), jnp.floating))
    if name == "mask_fn" and callable(value):
        return Portable(*hoist(name, value, indices, jnp.bool_))
    return value
