"""The pieces of a program on one device of a mesh, put together from one for all devices."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax
from jax.sharding import AxisType

from equipoise._jax.programs import (
    SHARD_MAP,
    Atom,
    Equation,
    OpenProgram,
    Program,
    Size,
    Variable,
    aval,
    closed,
    constants,
    is_program,
    opened,
    rank,
    rewritten,
)
from equipoise._types import Array, PyTree

_lax: PyTree = lax  # parts of it are left untyped
CONSTRAINTS = ("sharding_constraint", "reshard")
# For each axis of an array the axes of the mesh along which it is divided, the outermost first.
Spec = tuple[tuple[str, ...], ...]


class _Stated(NamedTuple):
    """How a program says that results of an equation are divided, and perhaps its operands."""

    operands: list[Spec] | None
    results: list[Spec]


class _Mapped(NamedTuple):
    """How a map says that its operands and results are divided along the axes that it maps."""

    operands: list[Spec]
    results: list[Spec]


def spec_of(partition: PyTree, axes: int) -> Spec:
    """The axes of the mesh for each axis of an array, from JAX's notation."""
    named = [
        () if entry is None or not isinstance(entry, (str, tuple)) else entry
        for entry in tuple(partition)
    ]
    stated = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in named]
    return tuple(stated + [()] * (axes - len(stated)))


def map_specs(equation: Equation) -> _Mapped:
    """What a ``shard_map`` says of how its operands and results are divided."""
    p = equation.params
    return _Mapped(
        [spec_of(s, rank(v)) for s, v in zip(p["in_specs"], equation.invars, strict=True)],
        [spec_of(s, rank(v)) for s, v in zip(p["out_specs"], equation.outvars, strict=True)],
    )


def partition_specs(equation: Equation) -> _Stated | None:
    """What an equation says of how its operands and results are divided; None where nothing."""
    p = equation.params
    if equation.primitive.name == SHARD_MAP:
        return _Stated(*map_specs(equation))
    sharding: PyTree = p.get("sharding", p.get("dst_sharding"))
    if hasattr(sharding, "spec") and equation.primitive.name in CONSTRAINTS:
        spec = spec_of(sharding.spec, rank(equation.outvars[0]))
        return _Stated([spec], [spec])
    shardings: list[PyTree] = [getattr(v.aval, "sharding", None) for v in equation.outvars]
    if shardings and all(map(_is_explicit, shardings)):
        pairs = zip(shardings, equation.outvars, strict=True)
        return _Stated(None, [spec_of(found.spec, rank(v)) for found, v in pairs])
    return None


def free_axes(equation: Equation) -> frozenset[int]:
    """The axes of an array of which a constraint says nothing."""
    return frozenset(equation.params.get("unconstrained_dims") or ())


def _is_explicit(sharding: PyTree) -> bool:
    types = tuple(getattr(getattr(sharding, "mesh", None), "axis_types", ()))
    return bool(types) and all(t == AxisType.Explicit for t in types)


def typed_as(array: object, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape with the sharding of an array where that is part of its type."""
    sharding: PyTree = getattr(array, "sharding", None)
    if not _is_explicit(sharding):
        return shape
    return shape.update(sharding=sharding)  # type: ignore[no-untyped-call]


def divided(size: Size, counts: Sequence[Size]) -> Size | None:
    """One of so many equal parts of a size; None where it cannot be shown that there are."""
    whole: PyTree = size
    devices: PyTree = functools.reduce(operator.mul, counts, 1)
    rest = whole % devices
    return None if export.is_symbolic_dim(rest) or rest != 0 else whole // devices


def divided_up(size: Size, counts: Sequence[Size]) -> Size:
    """The largest of so many parts of a size that are as equal as can be."""
    whole: PyTree = size
    devices: PyTree = functools.reduce(operator.mul, counts, 1)
    padded: Size = (whole + devices - 1) // devices
    return padded


_MOVES: dict[str, Callable[[Array], PyTree]] = {
    "all-reduce": lambda x: _lax.psum(x, "i"),
    "all-gather": lambda x: _lax.all_gather(x, "i", tiled=True),
    "permute": lambda x: _lax.ppermute(x, "i", [(0, 1)]),
    "all-to-all": lambda x: _lax.all_to_all(x, "i", 0, 0, tiled=True),
    "slice": lambda x: _lax.dynamic_slice(x, (0,), (1,)),
    "call": jax.jit(lambda x: x + 1),
}


@functools.cache
def _template(kind: str) -> Equation:
    made = jax.make_jaxpr(_MOVES[kind], axis_env=[("i", 2)])(jnp.zeros(2))
    return opened(made).eqns[-1]


def move(kind: str, axes: Sequence[str], operand: Atom, result: Variable, at: Equation) -> Equation:
    """An equation that makes an array of another shape from what devices send, or its own part."""
    made = _template(kind)
    changed: dict[str, PyTree] = dict.fromkeys(("axes", "axis_name"), tuple(axes))
    sizes = enumerate(zip(aval(operand).shape, aval(result).shape, strict=True))
    changed["all_gather_dimension"] = next((i for i, (a, b) in sizes if a != b), 0)
    return made.replace(
        invars=[operand, *made.invars[1:]],
        outvars=[result],
        params={name: changed.get(name, value) for name, value in made.params.items()},
        source_info=at.source_info,
    )


def call(
    program: Program, operands: Sequence[Atom], results: Sequence[Variable], at: Equation
) -> Equation:
    """An equation that runs a program on these operands."""
    made = _template("call")
    body = program if not isinstance(program, OpenProgram) else closed(program, constants(program))
    return made.replace(
        invars=list(operands),
        outvars=list(results),
        params={**made.params, "jaxpr": body},
        source_info=at.source_info,
    )


def rewired(
    equation: Equation,
    operands: Sequence[Atom],
    results: Sequence[Variable],
    programs: Mapping[int, OpenProgram],
) -> Equation:
    """The equation on other operands, with other programs in the place of those it holds."""

    def replaced(value: PyTree) -> PyTree:
        if isinstance(value, tuple) and any(map(is_program, value)):
            parts = list(map(replaced, value))
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if not is_program(value) or id(value) not in programs:
            return value
        found = programs[id(value)]
        return found if isinstance(value, OpenProgram) else closed(found, constants(value))

    params = {name: replaced(value) for name, value in equation.params.items()}
    return equation.replace(invars=list(operands), outvars=list(results), params=params)


def assembled(
    like: OpenProgram,
    captured: Sequence[Variable],
    inputs: Sequence[Variable],
    results: Sequence[Atom],
    equations: Sequence[Equation],
) -> OpenProgram:
    """The program of these equations."""
    return rewritten(
        like,
        constvars=list(captured),
        invars=list(inputs),
        outvars=list(results),
        eqns=list(equations),
    )
