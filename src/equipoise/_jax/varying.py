"""On which mesh an array lies, and over which of its axes it varies inside of ``jax.shard_map``."""

from collections.abc import Callable, Sequence

import jax
from jax import lax

from equipoise._jax.programs import (
    ClosedProgram,
    Equation,
    again,
    as_function,
    bind,
    closed,
    constants,
    held,
    is_atom,
    opened,
    own_rules,
    plain_call,
    run,
)
from equipoise._types import Array, PyTree


def mesh_of(x: Array) -> PyTree:
    """The mesh that an array lies on, or an empty one."""
    kind: PyTree = jax.typeof(x)
    return kind.sharding.mesh


def _axes(x: PyTree) -> frozenset[str]:
    """The axes that an array varies over, or a variable of a program."""
    kind: PyTree = x.aval if is_atom(x) else jax.typeof(x)
    # What is called ``vma`` in older versions is one part of the newer ``mat``.
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma


def _union(arrays: Sequence[Array]) -> frozenset[str]:
    return frozenset[str]().union(*map(_axes, arrays))


def _over(axes: frozenset[str], x: Array) -> Array:
    """The array, varying over these axes too."""
    cast: PyTree = lax.pcast
    missing = tuple(sorted(axes - _axes(x)))
    return cast(x, missing, to="varying") if missing else x


def alike(arrays: Sequence[PyTree]) -> list[Array]:
    """The arrays, each varying over all axes that one of them varies over.

    Where one did not, its cotangents are summed over the axis.
    """
    axes = _union(arrays)
    return [_over(axes, x) for x in arrays]


def traced_alike(
    function: Callable[..., Array], scalars: Sequence[PyTree], arrays: Sequence[Array]
) -> ClosedProgram:
    """The function's program on scalars that vary as the arrays do, and what it captured."""

    def trace(like: Sequence[Array]) -> ClosedProgram:
        return jax.make_jaxpr(lambda *xs: function(*alike([*xs, *like])[: len(xs)]))(*scalars)

    program = trace(arrays)
    captured = constants(program)
    if _union(captured) <= _union(arrays):
        return program
    return trace([*arrays, *captured])


def evaluated(program: ClosedProgram, operands: Sequence[Array]) -> list[Array]:
    """The results of such a program, of whose arrays and constants some may vary over fewer axes.

    What is cast inside of it is cast outside: a derivative sums over devices there, and once. The
    arrays may also lie on a mesh whose axes were of another kind.
    """
    captured = constants(program)
    if all(mesh_of(x).empty for x in (*captured, *operands)):
        return as_function(program)(*operands)
    cast = alike([*captured, *operands])

    def apply(equation: Equation, values: list[Array]) -> Sequence[Array]:
        if equation.primitive.name == "pvary":
            return values  # each reader casts anew what it reads
        inner = None if own_rules(equation) else plain_call(equation)
        if inner is not None:
            return run(inner, values, apply)
        if own_rules(equation) or any(held(equation)):
            # Its parts and rules were traced for operands that vary as they did there.
            return again(program, equation, list(map(_over, map(_axes, equation.invars), values)))
        return bind(equation, alike(values))

    count = len(captured)
    return run(closed(opened(program), cast[:count]), cast[count:], apply)
