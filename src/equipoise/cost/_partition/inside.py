"""How operations that hold programs are divided: calls, loops, branches, solves and maps.

What comes in again, or out of one branch or another, is divided as it is everywhere else. A map
over some axes of the mesh states how its operands lie along these; along the others its program is
divided like any other.
"""

from collections.abc import Iterator, Sequence

from equipoise._jax.meshes.local import Spec, map_specs
from equipoise._jax.meshes.shards import mapped_axes
from equipoise._jax.programs import (
    COND,
    SCAN,
    SHARD_MAP,
    SOLVE,
    WHILE,
    Equation,
    Program,
    branches,
    called,
    linear_solve,
    scan,
    while_loop,
)
from equipoise.cost._partition.division import (
    Arrays,
    Division,
    Held,
    Layout,
    LayoutOf,
    Operand,
    grown,
)


def inside(
    equation: Equation, operands: Arrays, results: Arrays, layout: LayoutOf
) -> Division | None:
    """How an operation is divided with the programs in it; None where it holds none."""
    name = equation.primitive.name
    rule = _RULES.get(name)
    if rule is not None:
        return rule(equation, operands, results, layout)
    body = called(equation)
    if body is None:
        return None
    found = layout(body, operands, results)
    return Division(list(found.inputs), list(found.results), inside=[Held(body, *found[:2])])


def _map(equation: Equation, operands: Arrays, results: Arrays, layout: LayoutOf) -> Division:
    body, mapped = equation.params["jaxpr"], mapped_axes(equation)
    outside = map_specs(equation)
    found = layout(
        body, [_without(o, mapped) for o in operands], [_without(r, mapped) for r in results]
    )
    is_whole = mapped == set(equation.params["mesh"].shape)
    return Division(
        [Operand(spec) for spec in _around(outside.operands, found.inputs)],
        [Operand(spec, is_fixed=is_whole) for spec in _around(outside.results, found.results)],
        inside=[Held(body, *found[:2])],
    )


def _around(outside: Sequence[Spec], inner: Arrays) -> Iterator[Spec]:
    """How arrays are divided around a map: first as it states."""
    for spec, operand in zip(outside, inner, strict=True):
        yield tuple((*a, *b) for a, b in zip(spec, operand.spec, strict=True))


def _without(operand: Operand, mapped: frozenset[str]) -> Operand:
    """What one device of a map sees of an array: divided along the other axes alone."""
    spec = tuple(tuple(axis for axis in axes if axis not in mapped) for axes in operand.spec)
    return Operand(spec, is_fixed=operand.is_fixed)


def _solve(equation: Equation, operands: Arrays, results: Arrays, layout: LayoutOf) -> Division:
    program, read = linear_solve(equation)
    found = layout(program, [operands[i] for i in read], results)
    divided = list(operands)
    for i, operand in zip(read, found.inputs, strict=True):
        divided[i] = operand
    return Division(divided, list(found.results), inside=[Held(program, *found[:2])])


def _cond(equation: Equation, operands: Arrays, results: Arrays, layout: LayoutOf) -> Division:
    inputs, outputs = operands[1:], results
    for branch in branches(equation):
        inputs, outputs, _ = layout(branch, inputs, outputs)
    held = [Held(branch, inputs, outputs) for branch in branches(equation)]
    return Division([operands[0], *inputs], list(outputs), inside=held)


def _scan(equation: Equation, operands: Arrays, results: Arrays, layout: LayoutOf) -> Division:
    found = scan(equation)
    first, carried = found.num_constants + found.num_carried, found.num_carried
    inputs = [*operands[:first], *map(_inner, operands[first:])]
    outputs = [*results[:carried], *map(_inner, results[carried:])]
    body = _repeated(found.body, inputs, outputs, found.num_constants, carried, layout)
    return Division(
        [*body.inputs[:first], *map(_outer, body.inputs[first:])],
        [*body.results[:carried], *map(_outer, body.results[carried:])],
        inside=[Held(found.body, *body[:2])],
    )


def _while(equation: Equation, operands: Arrays, results: Arrays, layout: LayoutOf) -> Division:
    loop = while_loop(equation)
    known = [Operand(o.spec) for o in operands[: loop.num_test_constants]]
    inputs = operands[loop.num_test_constants :]
    body = _repeated(loop.body, inputs, results, loop.num_body_constants, len(results), layout)
    test = Held(loop.test, [*known, *body.results], [Operand(())])
    held = [test, Held(loop.body, *body[:2])]
    return Division([*known, *body.inputs], list(body.results), inside=held)


def _repeated(
    body: Program, inputs: Arrays, outputs: Arrays, first: int, count: int, layout: LayoutOf
) -> Layout:
    """A body of whose results so many come in again, from an input on, divided as they went out."""
    inputs, outputs, before = list(inputs), list(outputs), None
    for i in range(count):
        start = Operand(inputs[first + i].spec)  # only its start is the user's
        inputs[first + i] = grown(start, outputs[i])
    while before != (inputs, outputs):
        before = list(inputs), list(outputs)
        found = layout(body, inputs, outputs)
        inputs, outputs = list(found.inputs), list(found.results)
        for i in range(count):
            inputs[first + i] = grown(inputs[first + i], Operand(outputs[i].spec))
            outputs[i] = grown(outputs[i], Operand(inputs[first + i].spec))
    return found


def _inner(operand: Operand) -> Operand:
    """What one iteration sees of an array that a loop runs along."""
    return Operand(operand.spec[1:], is_fixed=operand.is_fixed)


def _outer(operand: Operand) -> Operand:
    return Operand(((), *operand.spec))


_RULES = {COND: _cond, SCAN: _scan, SHARD_MAP: _map, SOLVE: _solve, WHILE: _while}
