"""What devices of a mesh send each other: the collective operations of a program."""

from typing import NamedTuple

from equipoise._jax.programs import SHARD_MAP, Equation, Program, Size, held, opened
from equipoise._types import PyTree

# The operation that a primitive is, by whatever name.
_NAMES = """
all-reduce: psum psum2 psum_invariant pmax pmin
all-gather: all_gather all_gather_invariant all_gather_reduced
reduce-scatter: reduce_scatter psum_scatter unreduced_reduce_scatter
all-to-all: all_to_all
permute: ppermute
resharding: sharding_constraint reshard
"""
_LINES = (line.split(": ") for line in _NAMES.strip().splitlines())
_KINDS = {name: kind for kind, names in _LINES for name in names.split()}


class Collective(NamedTuple):
    """A collective operation, and the axes of the mesh along which devices take part.

    Where only so many of them at a time do, ``group`` says how many.
    """

    kind: str
    axes: tuple[str, ...]
    group: int | None = None


def collective(equation: Equation) -> Collective | None:
    """What an equation makes devices send each other; None where it does not."""
    kind = _KINDS.get(equation.primitive.name)
    if kind is None:
        return None
    if kind == "resharding":
        axes: PyTree = tuple(_mesh_of_constraint(equation))
    else:
        axes = equation.params.get("axes", equation.params.get("axis_name"))
        axes = (axes,) if isinstance(axes, str) else axes
    groups = equation.params.get("axis_index_groups")
    named = tuple(axis for axis in axes if isinstance(axis, str))
    return Collective(kind, named, None if groups is None else len(groups[0]))


def mesh_sizes(equation: Equation) -> dict[str, Size]:
    """How many devices lie along each axis of the mesh that an equation speaks of."""
    if equation.primitive.name == SHARD_MAP:
        return dict(equation.params["mesh"].shape)
    return _mesh_of_constraint(equation)


def meshes_in(program: Program) -> dict[str, Size]:
    """How many devices lie along each axis of the meshes on which a program maps functions."""
    found: dict[str, Size] = {}
    for equation in opened(program).eqns:
        if equation.primitive.name == SHARD_MAP:
            found |= mesh_sizes(equation)
        for inner in held(equation):
            found |= meshes_in(inner)
    return found


def _mesh_of_constraint(equation: Equation) -> dict[str, Size]:
    sharding = equation.params.get("sharding", equation.params.get("dst_sharding"))
    mesh = getattr(sharding, "mesh", None)
    return {} if mesh is None else dict(mesh.shape)
