"""The mesh that a function is traced on, with numbers or names for the sizes of its axes.

JAX takes numbers alone for the sizes of a mesh. A function on a mesh with names is traced on two
meshes, with a prime number for each name and another one in the second, also where the name stands
in the shape of an argument. What is d on the first and on the second is d wherever it turns up.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import jax
from jax import export
from jax.sharding import AbstractMesh, AxisType

from equipoise._check import type_error, value_error
from equipoise._jax.meshes.common import Common, Differ, on_mesh
from equipoise._jax.programs import ClosedProgram, Size
from equipoise._types import PyTree
from equipoise.cost._expression.expression import ONE, ZERO, Expression, apply, from_terms
from equipoise.cost._expression.polynomial import Atom, Monomial, Number
from equipoise.cost._program.sizes import as_text, parse, size_of, structure

Mesh: TypeAlias = Mapping[str, int | str] | jax.sharding.Mesh | jax.sharding.AbstractMesh
_FORM = "Give a mesh of JAX, or the size of each axis, as in mesh={'data': 'd', 'model': 2}."
_STAND_INS = ((101, 103), (107, 109), (113, 127), (131, 137), (139, 149), (151, 157))
_Names = dict[str, tuple[int, int]]  # what stands for each name in the first trace and the second


class Axes:
    """The axes of a mesh: their sizes, and what stands for the names in these."""

    def __init__(self, mesh: Mesh, scope: export.SymbolicScope, constraints: Sequence[str]) -> None:
        stated: PyTree = mesh if isinstance(mesh, Mapping) else getattr(mesh, "shape", None)
        if not isinstance(stated, Mapping):
            raise type_error("mesh", "must be a mesh or the sizes of its axes", mesh, _FORM)
        self.sizes = {axis: _size(axis, size) for axis, size in stated.items()}
        # Its own where it is JAX's: a shard_map with a mesh takes that one alone.
        self._given = None if mesh is stated else getattr(mesh, "abstract_mesh", mesh)
        names = sorted({name for size in self.sizes.values() for name in size.names})
        if len(names) > len(_STAND_INS):
            most = f"must have {len(_STAND_INS)} names in its sizes at most"
            raise value_error("mesh", most, ", ".join(names))
        self.names: _Names = dict(zip(names, _STAND_INS, strict=False))
        self._scope = scope
        self._scopes = [
            export.SymbolicScope(tuple(self._with_numbers(c, i) for c in constraints))
            for i in (0, 1)
        ]

    def dimensions(self) -> dict[str, Size]:
        """The sizes as JAX's dimensions."""
        return {axis: _dimension(found, self._scope) for axis, found in self.sizes.items()}

    def place(self, fn: Callable[..., PyTree], which: int) -> Callable[..., PyTree]:
        """The function on one of the two meshes."""
        numbers = {name: pair[which] for name, pair in self.names.items()}
        sizes = {axis: int(size.at(numbers)) for axis, size in self.sizes.items()}
        types = (AxisType.Auto,) * len(sizes)
        made = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types)
        return on_mesh(fn, self._given or made)

    def arguments(self, args: Sequence[PyTree], which: int) -> Sequence[PyTree]:
        """The arguments with the shapes that they have on one of the two meshes."""
        scope = self._scopes[which]

        def numbered(leaf: PyTree) -> PyTree:
            if not hasattr(leaf, "shape"):
                return leaf
            texts = [self._with_numbers(str(size), which) for size in leaf.shape]
            shape = export.symbolic_shape(",".join(texts), scope=scope) if texts else ()
            return structure(shape, leaf.dtype, weak=leaf.weak_type)

        return tuple(jax.tree.map(numbered, tuple(args)))

    def _with_numbers(self, text: str, which: int) -> str:
        """A shape or a constraint as it reads on one of the two meshes."""
        for name, pair in self.names.items():
            text = re.sub(rf"\b{name}\b", str(pair[which]), text)
        return text

    def with_names(self, text: str) -> str:
        """What JAX says of the first mesh, said of the mesh with names."""
        for name, (number, _) in self.names.items():
            text = re.sub(rf"\b{number}\b", name, text)
        return text

    def common(self, a: ClosedProgram, b: ClosedProgram) -> ClosedProgram:
        """The program with names, from those with numbers."""
        sizes: dict[tuple[str, str], Size] = {}

        def size(x: Size, y: Size) -> Size:
            key = as_text(x), as_text(y)
            if key not in sizes:
                sizes[key] = _dimension(self._common(size_of(x), size_of(y)), self._scope)
            return sizes[key]

        try:
            return Common(size, self.dimensions()).program(a, b)
        except Differ:
            raise value_error(
                "mesh",
                "must have numbers where a program depends on how many devices there are",
                f"names for {', '.join(self.names)}",
                "Python's loops over the devices of an axis are written out in a program.",
            ) from None

    def _common(self, x: Expression, y: Expression) -> Expression:
        """The expression with names that is x on the first mesh and y on the second."""
        if x == y:
            return x
        pairs = list(_matched(x, y))
        return sum((self._term(*a, *b) for a, b in pairs), ZERO)

    def _term(self, left: Monomial, a: Number, right: Monomial, b: Number) -> Expression:
        found = self._number(int(a), int(b))
        for (x, power), (y, _) in zip(left, right, strict=True):
            factor = from_terms({((x, 1),): 1})
            if isinstance(x, Atom) and isinstance(y, Atom):
                pairs = zip(x.arguments, y.arguments, strict=True)
                within = [
                    self._common(from_terms(p.coefficients), from_terms(q.coefficients))
                    for p, q in pairs
                ]
                factor = apply(x.function, *within)
            found = found * factor**power
        return found

    def _number(self, a: int, b: int) -> Expression:
        """A number with names that is a on the first mesh and b on the second."""
        if a == b:
            return Expression(a)
        for rest in (0, *(sign * k for k in range(1, 33) for sign in (1, -1))):
            for name, (p, q) in self.names.items():
                if (a - rest) % p == 0 and (b - rest) % q == 0:
                    return Expression(name) * self._number((a - rest) // p, (b - rest) // q) + rest
        raise Differ


def _matched(
    x: Expression, y: Expression
) -> Iterator[tuple[tuple[Monomial, Number], tuple[Monomial, Number]]]:
    """The terms of two expressions in pairs: of equal products, or else in order of their kinds."""
    left, right = dict(x.coefficients), dict(y.coefficients)
    for monomial in [m for m in left if m in right]:
        yield (monomial, left.pop(monomial)), (monomial, right.pop(monomial))
    if len(left) != len(right):
        raise Differ
    kinds = [sorted(terms.items(), key=lambda term: _kind(term[0])) for terms in (left, right)]
    for a, b in zip(*kinds, strict=True):
        if _kind(a[0]) != _kind(b[0]):
            raise Differ
        yield a, b


def _kind(monomial: Monomial) -> list[tuple[str, int]]:
    return [(b.function if isinstance(b, Atom) else b, power) for b, power in monomial]


def _dimension(size: Expression, scope: export.SymbolicScope) -> Size:
    """An expression as one of JAX's dimensions."""
    (found,) = export.symbolic_shape(str(size), scope=scope)
    return found


def _size(axis: str, size: object) -> Expression:
    try:
        found = parse(str(size))
    except (ValueError, SyntaxError) as error:
        expected = f"must have a number or a name for the size of {axis!r}"
        raise value_error("mesh", expected, repr(size), _FORM) from error
    if not found >= ONE:
        raise value_error("mesh", f"must have a positive size of {axis!r}", repr(size))
    return found
