"""On which mesh an array lies, and over which of its axes it varies inside of ``jax.shard_map``.

And programs traced for arrays of one kind, evaluated on arrays of another.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from equipoise._jax.evaluation import again, as_function, bind, run
from equipoise._jax.programs import (
    COND,
    SCAN,
    SHARD_MAP,
    WHILE,
    ClosedProgram,
    Equation,
    Program,
    branches,
    called,
    closed,
    constants,
    held,
    is_atom,
    opened,
    own_rules,
    plain_call,
    scan,
    while_loop,
)
from equipoise._types import Array, PyTree


def mesh_of(x: Array) -> PyTree:
    """The mesh that an array lies on, or an empty one."""
    kind: PyTree = jax.typeof(x)
    return kind.sharding.mesh


def undivided(x: Array, axes: Sequence[int]) -> Array:
    """The array, whole along some axes on each device, where XLA divides arrays between devices.

    Of its other axes nothing is said. Read in a loop, it is then gathered once and not each time.
    """
    mesh = mesh_of(x)
    if not axes or mesh.empty or len(mesh.auto_axes) < len(mesh.axis_names):
        return x
    free = PartitionSpec.UNCONSTRAINED
    spec = PartitionSpec(*(None if axis in axes else free for axis in range(x.ndim)))  # type: ignore[no-untyped-call]
    return lax.with_sharding_constraint(x, NamedSharding(mesh, spec))  # type: ignore[no-untyped-call]


def _axes(x: PyTree) -> frozenset[str]:
    """The axes that an array varies over, or a variable of a program."""
    return _axes_of(x.aval if is_atom(x) else jax.typeof(x))


def _axes_of(kind: PyTree) -> frozenset[str]:
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


def types_alike(
    kinds: Sequence[tuple[tuple[int, ...], jnp.dtype]], types: Sequence[PyTree]
) -> Sequence[PyTree]:
    """The types of arrays of these shapes and dtypes that vary as those of all these types do."""
    if not any(map(_axes_of, types)) and all(x.sharding.mesh.empty for x in types):
        return [jax.core.ShapedArray(shape, dtype) for shape, dtype in kinds]

    def outline(*arrays: Array) -> list[Array]:
        zeros = (jnp.broadcast_to(jnp.zeros((), dtype), shape) for shape, dtype in kinds)
        return alike([*zeros, *arrays])[: len(kinds)]

    return jax.make_jaxpr(outline)(*types).out_avals


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
    arrays may also lie on a mesh whose axes were of another kind. Loops and branches are made anew
    for the arrays as they are.
    """
    captured = constants(program)
    if all(mesh_of(x).empty for x in (*captured, *operands)):
        return as_function(program)(*operands)
    cast = alike([*captured, *operands])
    count = len(captured)
    return _again(closed(opened(program), cast[:count]), cast[count:])


def _again(program: Program, operands: Sequence[Array]) -> list[Array]:
    """The results on arrays that vary alike, which vary so too."""

    def apply(equation: Equation, values: list[Array]) -> Sequence[Array]:
        name = equation.primitive.name
        if name in _PLACED:
            return values  # each reader casts anew what it reads
        if own_rules(equation):
            if _union(values):
                # Its rules were traced for operands that vary as they did there.
                as_there = list(map(_over, map(_axes, equation.invars), values))
                return again(program, equation, as_there)
            return _with_rules(program, equation, values)
        inner = None if name == SHARD_MAP else called(equation)
        if inner is not None:
            return run(inner, values, apply)
        if name in _ANEW:
            return _ANEW[name](equation, alike(values))
        if any(held(equation)):
            return again(program, equation, list(map(_over, map(_axes, equation.invars), values)))
        return bind(equation, alike(values))

    found = run(program, operands, apply)
    return alike([*found, *operands])[: len(found)]


def _scan(equation: Equation, values: Sequence[Array]) -> list[Array]:
    layout = scan(equation)
    first, last = layout.num_constants, layout.num_constants + layout.num_carried

    def step(carry: list[Array], along: list[Array]) -> tuple[list[Array], list[Array]]:
        found = _again(layout.body, [*values[:first], *carry, *along])
        return found[: layout.num_carried], found[layout.num_carried :]

    length: PyTree = layout.length
    start, along = list(values[first:last]), list(values[last:])
    carry, made = lax.scan(step, start, along, length, layout.reverse)
    return [*carry, *made]


def _while(equation: Equation, values: Sequence[Array]) -> list[Array]:
    layout = while_loop(equation)
    first, last = layout.num_test_constants, layout.num_test_constants + layout.num_body_constants
    found: list[Array] = lax.while_loop(
        lambda carry: _again(layout.test, [*values[:first], *carry])[0],
        lambda carry: _again(layout.body, [*values[first:last], *carry]),
        list(values[last:]),
    )
    return found


def _cond(equation: Equation, values: Sequence[Array]) -> list[Array]:
    sides = [functools.partial(_again, side) for side in branches(equation)]
    found: list[Array] = lax.switch(values[0], [lambda *xs, f=f: f(xs) for f in sides], *values[1:])
    return found


_PLACED = ("pvary", "reshard")  # which change where an array is, and not what it is
_ANEW: dict[str, Callable[[Equation, Sequence[Array]], list[Array]]] = {
    SCAN: _scan,
    WHILE: _while,
    COND: _cond,
}


def _with_rules(program: Program, equation: Equation, values: Sequence[Array]) -> list[Array]:
    """A call with rules of derivation of its own, which are traced on the mesh where it was."""
    avals: list[PyTree] = [atom.aval for atom in equation.invars]
    moving = [i for i, a in enumerate(avals) if jnp.issubdtype(a.dtype, jnp.inexact)]
    inner: PyTree = plain_call(equation)

    def rule(derive: Callable[..., PyTree], *others: PyTree) -> ClosedProgram:
        def derivative(operands: Sequence[Array], *directions: Array) -> PyTree:
            def moved(*xs: Array) -> list[Array]:
                known = dict(zip(moving, xs, strict=True))
                return again(program, equation, [known.get(i, x) for i, x in enumerate(operands)])

            return derive(moved, [operands[i] for i in moving], list(directions))

        with jax.sharding.use_abstract_mesh(avals[0].sharding.mesh):
            return jax.make_jaxpr(derivative)(avals, *others)

    if equation.primitive.name.startswith("custom_jvp"):

        def tangent(primals: Sequence[Array], tangents: Sequence[Array]) -> tuple[PyTree, PyTree]:
            traced = rule(
                lambda f, at, along: jax.jvp(f, at, along)[1], *(avals[i] for i in moving)
            )
            return forward(*primals), _again(traced, [*primals, *(tangents[i] for i in moving)])

        forward: PyTree = jax.custom_jvp(lambda *xs: _again(inner, xs))
        forward.defjvp(tangent)
    else:

        def pull(operands: Sequence[Array], cotangents: list[Array]) -> tuple[Array | None, ...]:
            outs = [atom.aval for atom in equation.outvars]
            traced = rule(lambda f, at, given: jax.vjp(f, *at)[1](given), *outs)
            found = dict(zip(moving, _again(traced, [*operands, *cotangents]), strict=True))
            return tuple(found.get(i) for i in range(len(avals)))

        forward = jax.custom_vjp(lambda *xs: _again(inner, xs))
        forward.defvjp(lambda *xs: (forward(*xs), xs), pull)
    results: list[Array] = forward(*values)
    return results
