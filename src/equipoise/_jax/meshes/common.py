"""Functions on a mesh, and the program that is the same on meshes of any size."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import jax
from jax import export
from jax.sharding import AbstractMesh

from equipoise._jax.programs import (
    WHILE,
    Atom,
    ClosedProgram,
    Equation,
    OpenProgram,
    Program,
    Size,
    Variable,
    aval,
    closed,
    constants,
    is_array,
    is_literal,
    is_program,
    opened,
    rewritten,
    variable,
)
from equipoise._types import PyTree


def on_mesh(fn: Callable[..., PyTree], mesh: AbstractMesh) -> Callable[..., PyTree]:
    """The function where a mesh is at hand, as if by :func:`jax.set_mesh`."""

    def inside(*args: PyTree) -> PyTree:
        with jax.sharding.use_abstract_mesh(mesh):
            return fn(*args)

    return inside


_Places = list[int | None]
_NO_SIZES = ("perm", "in_specs", "out_specs")  # parameters with an entry per device or an operand


class Differ(Exception):
    """Two programs are not the same but for their sizes."""


class Common:
    """What two programs have in common that are one function's on meshes of different sizes.

    Sizes that differ become what ``size`` makes of both, or it raises :class:`Differ`; the axes of
    meshes get the sizes that are given.
    """

    def __init__(self, size: Callable[[Size, Size], Size], axes: Mapping[str, Size]) -> None:
        self._size, self._mesh = size, SimpleNamespace(shape=dict(axes))

    def program(self, a: ClosedProgram, b: ClosedProgram) -> ClosedProgram:
        """The program that both are."""
        first, second = opened(a), opened(b)
        return closed(self._opened(first, second, range(len(first.invars)))[0], constants(a))

    def _opened(
        self, a: OpenProgram, b: OpenProgram, order: Sequence[int]
    ) -> tuple[OpenProgram, _Places]:
        """The program that both are; ``order`` has the place of each of a's inputs among b's.

        Also the place of each of a's results among b's, as what derivatives keep comes in any
        order, and sometimes with values that nothing reads.
        """
        if len(a.eqns) != len(b.eqns):
            raise Differ
        partner: dict[Atom, Atom] = dict(zip(a.constvars, b.constvars, strict=True))
        partner.update(zip(a.invars, (b.invars[i] for i in order), strict=True))
        made: dict[Atom, Variable] = {x: self._variable(x, y) for x, y in partner.items()}
        equations = []
        for x, y in zip(a.eqns, b.eqns, strict=True):
            operands = _places(x.invars, partner, y.invars)
            if None in operands or len(operands) != len(y.invars):
                raise Differ
            params, results = self._params(x, y, [i for i in operands if i is not None])
            for v, i in zip(x.outvars, results, strict=True):
                made[v] = variable(v)
                if i is not None:
                    partner[v], made[v] = y.outvars[i], self._variable(v, y.outvars[i])
            equations.append(
                x.replace(
                    invars=[v if is_literal(v) else made[v] for v in x.invars],
                    outvars=[made[v] for v in x.outvars],
                    params=params,
                )
            )
        both = rewritten(
            a,
            constvars=[made[v] for v in a.constvars],
            invars=[made[v] for v in a.invars],
            outvars=[v if is_literal(v) else made[v] for v in a.outvars],
            eqns=equations,
        )
        return both, _places(a.outvars, partner, b.outvars)

    def _variable(self, x: Atom, y: Atom) -> Variable:
        return variable(x, self._merged(aval(x).shape, aval(y).shape) if is_array(x) else None)

    def _params(
        self, x: Equation, y: Equation, operands: Sequence[int]
    ) -> tuple[dict[str, PyTree], _Places]:
        """What both equations do, and the place of each result of the first among the second's."""
        if x.primitive.name != y.primitive.name:
            raise Differ
        if x.primitive.name == WHILE and _numbers(x) != _numbers(y):
            raise Differ
        merged, results = dict(x.params), _Places(range(len(x.outvars)))
        for name, value in x.params.items():
            if name == "mesh":
                merged[name] = self._mesh
            elif name in ("sharding", "dst_sharding") and hasattr(value, "spec"):
                merged[name] = SimpleNamespace(mesh=self._mesh, spec=value.spec)
            elif is_program(value) and len(opened(value).invars) == len(operands):
                merged[name], results = self._held(value, y.params[name], operands)
            elif name not in _NO_SIZES:
                merged[name] = self._merged(value, y.params[name])
        return merged, results

    def _held(self, x: Program, y: Program, order: Sequence[int]) -> tuple[Program, _Places]:
        both, results = self._opened(opened(x), opened(y), order)
        return closed(both, constants(x)) if isinstance(x, ClosedProgram) else both, results

    def _merged(self, x: PyTree, y: PyTree) -> PyTree:
        """Sizes, tuples of them and programs as what they have in common; the rest as it is."""
        if is_program(x):
            return self._held(x, y, range(len(opened(x).invars)))[0]
        if isinstance(x, (tuple, list)):
            if len(x) != len(y):
                raise Differ
            parts = [self._merged(a, b) for a, b in zip(x, y, strict=True)]
            return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
        return self._size(x, y) if _is_size(x) and _is_size(y) else x


def _places(atoms: Sequence[Atom], partner: Mapping[Atom, Atom], among: Sequence[Atom]) -> _Places:
    """Where among those of another program the partner of each atom is, if it is there."""
    at = {id(atom): i for i, atom in reversed(list(enumerate(among)))}
    found: _Places = []
    for i, atom in enumerate(atoms):
        if is_literal(atom):
            found.append(i if i < len(among) and is_literal(among[i]) else None)
            continue
        wanted = partner.get(atom)
        found.append(i if i < len(among) and among[i] is wanted else at.get(id(wanted)))
    return found


def _is_size(value: PyTree) -> bool:
    return type(value) is int or export.is_symbolic_dim(value)


def _numbers(loop: Equation) -> list[object]:
    """The numbers that say how often a loop runs: those that it starts with, and of its test."""
    tests = opened(loop.params["cond_jaxpr"]).eqns
    return [str(x.val) for e in (loop, *tests) for x in e.invars if is_literal(x)]
