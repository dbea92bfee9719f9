"""Where a program first reads each of its arguments, and where it makes each of its results.

These bytes cross between a device and its memory whatever is fused and kept: they are a lower
bound of the traffic, part by part.
"""

from collections.abc import Iterator, Mapping, Sequence

from equipoise._jax.programs import (
    SCAN,
    WHILE,
    Atom,
    Equation,
    Program,
    called,
    is_literal,
    opened,
    scan,
    while_loop,
)
from equipoise.cost._count.place import TOP, Parts, Place, around, place_of
from equipoise.cost._count.rules import RENAMED
from equipoise.cost._count.work import NOTHING
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.extremes import smaller
from equipoise.cost._program.sizes import total_bytes

_PICKED = ("gather", "dynamic_slice", "slice")  # which read of an array what they return


def with_boundary(parts: Parts, program: Program) -> Parts:
    """The parts of a program's work, with the bytes that cross its boundary at each of them."""
    body, crossing = opened(program), dict[Place, Expression]()
    inputs: dict[Atom, Atom] = {v: v for v in (*body.invars, *body.constvars)}
    results: dict[Atom, Atom] = {v: v for v in body.outvars if not is_literal(v)}
    _visit(program, inputs, results, TOP, set[Atom](), crossing)
    places = [*parts, *(place for place in crossing if place not in parts)]
    return {
        place: parts.get(place, NOTHING)._replace(boundary=crossing.get(place, ZERO))
        for place in places
    }


def _visit(
    program: Program,
    inputs: dict[Atom, Atom],
    results: Mapping[Atom, Atom],
    holder: Place,
    done: set[Atom],
    crossing: dict[Place, Expression],
) -> None:
    """Enter what a program reads and makes; variables stand for those of the whole program."""
    surroundings = around(holder, program)
    for equation in opened(program).eqns:
        name = equation.primitive.name
        read = [v for v in equation.invars if not is_literal(v) and v in inputs]
        if name in RENAMED and read:
            inputs[equation.outvars[0]] = inputs[read[0]]
        made = [v for v in equation.outvars if v in results]
        held = list(_held(equation)) if read or made else []
        place = place_of(equation, surroundings) if held else holder
        for body, operands, outcomes in held:
            inner, pairs = opened(body), zip(operands, opened(body).invars, strict=True)
            inside: dict[Atom, Atom] = {
                v: inputs[a] for a, v in pairs if not is_literal(a) and a in inputs
            }
            ends = zip(inner.outvars, outcomes, strict=True)
            ending: dict[Atom, Atom] = {
                v: results[r] for v, r in ends if not is_literal(v) and r in results
            }
            _visit(body, inside, ending, place, done, crossing)
        if held or (name in RENAMED and not made):
            continue
        size = ZERO
        for v in read:
            if inputs[v] not in done:
                done.add(inputs[v])
                whole = total_bytes([inputs[v]])
                picked = name in _PICKED and v is equation.invars[0]
                size = size + (smaller(whole, total_bytes(equation.outvars)) if picked else whole)
        for v in made:
            if results[v] not in done:
                done.add(results[v])
                size = size + total_bytes([results[v]])
        if size != 0:
            place = place_of(equation, surroundings)
            crossing[place] = crossing.get(place, ZERO) + size


def _held(equation: Equation) -> Iterator[tuple[Program, Sequence[Atom], Sequence[Atom]]]:
    """Programs that an equation runs, with its own operands and results for theirs."""
    name = equation.primitive.name
    if name == SCAN:
        yield scan(equation).body, equation.invars, equation.outvars
    elif name == WHILE:
        layout = while_loop(equation)
        yield layout.body, equation.invars[layout.num_test_constants :], equation.outvars
    elif (body := called(equation)) is not None:
        yield body, equation.invars, equation.outvars
