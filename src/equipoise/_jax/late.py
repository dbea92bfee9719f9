"""Functions that are traced where a program is lowered, and told there for which platform.

While a program is traced nobody knows where it will run. A late function is one equation of it,
derivatives and maps of a late function are late functions themselves, and what is computed, in
blocks of which sizes and with which branches, is decided for each platform that it is lowered for.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.primitives import bound, is_linear, is_zero, primitive
from equipoise._jax.pruned import pruned
from equipoise._jax.varying import alike, types_alike
from equipoise._types import Array, PyTree

_Kind: TypeAlias = tuple[tuple[int, ...], jnp.dtype]
"""Shape and dtype of an array."""


class _Run(Protocol):
    """A function of a platform and arrays, told apart from others by its value."""

    def __call__(self, platform: str, arrays: Sequence[Array]) -> list[Array]:
        """The results."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Frame:
    """A tree without its arrays: its structure, and the numbers in it that are known.

    Those are integers, which say what is computed. Floating numbers are operands, so that others
    make no other program.
    """

    structure: PyTree
    types: PyTree
    known: tuple["_Known | None", ...]

    def whole(self, arrays: Sequence[Array]) -> PyTree:
        """The tree with these arrays."""
        given = iter(arrays)
        leaves = [next(given) if x is None else x.value for x in self.known]
        return jax.tree.unflatten(self.structure, leaves)

    def by_leaf(self, directions: Sequence[PyTree]) -> list[PyTree]:
        """For each leaf of the tree what is given for its arrays, and None for what is known."""
        given = iter(directions)
        return [next(given) if x is None else None for x in self.known]


def framed(tree: PyTree) -> tuple[Frame, list[Array]]:
    """A tree as its frame and its arrays, which then vary over the same axes of a mesh."""
    leaves, structure = jax.tree.flatten(tree)
    known = tuple(None if _is_array(x) else _Known(x) for x in leaves)
    return Frame(structure, _types(structure), known), alike(list(filter(_is_array, leaves)))


def _types(structure: PyTree) -> PyTree:
    """The types of a tree's nodes: from jaxlib 0.10 on structures of two dataclasses are equal."""
    node = structure.node_data()
    return None if node is None else (node[0], *map(_types, structure.children()))


def _is_array(x: PyTree) -> bool:
    return isinstance(x, jax.Array) or jnp.issubdtype(np.result_type(x), jnp.inexact)


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """A number or an array of NumPy that equals others of the same kind and value."""

    value: int | np.ndarray

    def _key(self) -> object:
        x = np.asarray(self.value)
        return type(self.value), x.shape, x.dtype, x.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def late(function: Callable[..., PyTree], *args: PyTree, results: Sequence[_Kind]) -> list[Array]:
    """``function(platform, *args)``, traced for the platforms that the program is lowered for.

    The function is one at the top of a file, as its identity tells programs apart. ``results`` are
    the kinds of the arrays that it gives.
    """
    frame, arrays = framed(args)
    precision: PyTree = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return bound(_late_p, *arrays, run=_Call(function, frame, precision), kinds=tuple(results))


@dataclasses.dataclass(frozen=True)
class _Call:
    """A function on a tree of arguments, and the precision that was asked for around it."""

    function: Callable[..., PyTree]
    frame: Frame
    precision: str | None

    def __call__(self, platform: str, arrays: Sequence[Array]) -> list[Array]:
        with jax.default_matmul_precision(self.precision):
            found = jax.tree.leaves(self.function(platform, *self.frame.whole(arrays)))
        return alike([*found, *arrays])[: len(found)]


@dataclasses.dataclass(frozen=True)
class _Tangent:
    """The tangents of a function's results, from all of its arrays and directions of some."""

    run: _Run
    moving: tuple[int, ...]

    def __call__(self, platform: str, arrays: Sequence[Array]) -> list[Array]:
        count = len(arrays) - len(self.moving)

        def change(*args: Array) -> Sequence[Array]:
            def moved(*values: Array) -> list[Array]:
                known = dict(zip(self.moving, values, strict=True))
                full = (known.get(i, x) for i, x in enumerate(args[:count]))
                return _traced(*full, run=self.run, platform=platform)

            return jax.jvp(moved, tuple(args[i] for i in self.moving), args[count:])[1]

        return pruned(change)(*arrays)


@dataclasses.dataclass(frozen=True)
class _Transpose:
    """Cotangents of a function's linear arrays, from its others and cotangents of some results."""

    run: _Run
    linear: tuple[int, ...]
    given: tuple[int, ...]
    kinds: tuple[_Kind, ...]  # of the linear arrays

    def __call__(self, platform: str, arrays: Sequence[Array]) -> list[Array]:
        split = len(arrays) - len(self.given)
        total = split + len(self.linear)
        at = [i for i in range(total) if i not in self.linear]
        types = types_alike(self.kinds, list(map(jax.typeof, arrays)))

        def transposed(*args: Array) -> Sequence[Array]:
            known = dict(zip(at, args[:split], strict=True))

            def forward(*directions: Array) -> list[Array]:
                full = known | dict(zip(self.linear, directions, strict=True))
                ordered = (full[i] for i in range(total))
                found = _traced(*ordered, run=self.run, platform=platform)
                return [found[i] for i in self.given]

            return jax.linear_transpose(forward, *types)(list(args[split:]))

        return pruned(transposed)(*arrays)


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A function for each entry of some of its arrays' axes, results along their first."""

    run: _Run
    dims: tuple[int | None, ...]
    size: int

    def __call__(self, platform: str, arrays: Sequence[Array]) -> list[Array]:
        one = functools.partial(_traced, run=self.run, platform=platform)
        return list(jax.vmap(one, in_axes=self.dims, axis_size=self.size)(*arrays))


@functools.partial(jax.jit, static_argnames=("run", "platform"), inline=True)
def _traced(*arrays: Array, run: _Run, platform: str) -> list[Array]:
    """Traced once, and found again by whatever is derived from it."""
    return run(platform, arrays)


def _here(*arrays: Array, run: _Run, kinds: tuple[_Kind, ...]) -> list[Array]:
    del kinds
    return _traced(*arrays, run=run, platform="cpu" if jax.default_backend() == "cpu" else "other")


def _lowered(platform: str) -> Callable[..., list[Array]]:
    def there(
        *arrays: Array, run: _Run, kinds: tuple[_Kind, ...], obstacle: str | None
    ) -> list[Array]:
        del kinds, obstacle
        return _traced(*arrays, run=run, platform=platform)

    return there


def _abstract(*arrays: PyTree, run: _Run, kinds: tuple[_Kind, ...]) -> Sequence[PyTree]:
    del run
    return types_alike(kinds, arrays)


def _jvp(
    primals: Sequence[Array], tangents: Sequence[PyTree], *, run: _Run, kinds: tuple[_Kind, ...]
) -> tuple[list[Array], list[Array]]:
    moving = tuple(i for i, x in enumerate(tangents) if not is_zero(x))
    along = [tangents[i] for i in moving]
    dots = bound(_late_p, *primals, *along, run=_Tangent(run, moving), kinds=kinds)
    return bound(_late_p, *primals, run=run, kinds=kinds), dots


def _transpose(
    cotangents: Sequence[PyTree], *operands: PyTree, run: _Run, kinds: tuple[_Kind, ...]
) -> list[Array | None]:
    del kinds
    linear = tuple(i for i, x in enumerate(operands) if is_linear(x))
    known = [x for x in operands if not is_linear(x)]
    given = tuple(i for i, x in enumerate(cotangents) if not is_zero(x))
    types = tuple((operands[i].aval.shape, operands[i].aval.dtype) for i in linear)
    found = bound(
        _late_p,
        *known,
        *(cotangents[i] for i in given),
        run=_Transpose(run, linear, given, types),
        kinds=types,
    )
    by_place = dict(zip(linear, found, strict=True))
    return [by_place.get(i) for i in range(len(operands))]


def _batch(
    args: Sequence[Array], dims: Sequence[int | None], *, run: _Run, kinds: tuple[_Kind, ...]
) -> tuple[list[Array], list[int]]:
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    longer = tuple(((size, *shape), dtype) for shape, dtype in kinds)
    found = bound(_late_p, *args, run=_Mapped(run, tuple(dims), size), kinds=longer)
    return found, [0] * len(found)


_late_p = primitive(
    "equipoise_late",
    static=("run", "kinds"),
    evaluate=_here,
    lowered={"cpu": _lowered("cpu"), None: _lowered("other")},
    shapes=_abstract,
    batch=_batch,
    jvp=_jvp,
    transpose=_transpose,
)
