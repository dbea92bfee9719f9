"""One walk over a traced program that collects work, depth and live memory.

Work adds up, depth joins at every operand, and memory lives from an equation that makes it to the
last that reads it. What one equation costs is asked of the ledger's ``price``, which
:mod:`control` gives: calls, loops and branches are priced by walks over the programs they hold.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

from equipoise._jax.meshes.collectives import mesh_sizes
from equipoise._jax.programs import Program, Size, is_literal, opened
from equipoise.cost._count.collectives import sent
from equipoise.cost._count.depth import AT_START, Depth, after, join
from equipoise.cost._count.operation import operation
from equipoise.cost._count.place import TOP, Parts, Place, around, place_of
from equipoise.cost._count.rules import price_of
from equipoise.cost._count.scope import Known, Operands, Scope, Walked
from equipoise.cost._expression.expression import Expression
from equipoise.cost._expression.order import frontier
from equipoise.cost._program.sizes import total_bytes


@dataclasses.dataclass
class Ledger:
    """What holds for a whole walk: how equations are priced, and what was assumed on the way."""

    price: "Handler"
    trips: list[Expression]  # of the while loops that are still to come
    notes: dict[str, None] = dataclasses.field(default_factory=dict)
    branches: list[tuple[Expression, ...]] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0
    place: Place = TOP  # of the equation at hand
    mesh: dict[str, Size] = dataclasses.field(default_factory=dict)  # devices along each axis

    def note(self, assumption: str) -> None:
        """Keep an assumption, once."""
        self.notes[assumption] = None

    def next_trips(self) -> Expression:
        """The trip count of the next while loop: as stated, or a new name."""
        if self.trips:
            return self.trips.pop(0)
        self.unknown_loops += 1
        name = f"trips_{self.unknown_loops}"
        self.note(f"a while loop runs {name} times")
        return Expression(name)


_RESHARDED = "resharding: the partitioner decides what is sent; the bytes are those at most"

Handler: TypeAlias = Callable[[Operands, Ledger], Walked]


def walk(
    program: Program,
    ledger: Ledger,
    depths: Sequence[Depth],
    known: Sequence[Known | None],
    dying: Sequence[bool],
    used: Sequence[bool],
) -> Walked:
    """The cost of a program whose inputs have these depths; ``dying`` ones need not be kept."""
    body = opened(program)
    scope = Scope(body, depths, known, dying, used)
    holder, parts = ledger.place, Parts()
    surroundings = around(holder, program)
    for index, equation in enumerate(body.eqns):
        if not scope.needed[index]:
            continue
        operands = scope.operands(index, equation)
        if scope.is_static(equation, operands):
            continue
        ledger.place = place_of(equation, surroundings)
        walked = ledger.price(operands, ledger)
        for place, work in walked.parts.items():
            parts[place] = parts[place].then(work) if place in parts else work
        scope.record(index, equation, walked)
    ledger.place = holder
    return Walked(
        parts,
        [scope.depth(v) for v in body.outvars],
        frontier(scope.peaks),
        known=[None if is_literal(v) else scope.known.get(v) for v in body.outvars],
    )


def walk_whole(program: Program, ledger: Ledger, donated: Sequence[bool] | None = None) -> Walked:
    """The walk over a whole program, whose arguments belong to the caller unless donated."""
    body = opened(program)
    inputs, results = len(body.invars), len(body.outvars)
    dying = [False] * inputs if donated is None else donated
    return walk(body, ledger, [AT_START] * inputs, [None] * inputs, dying, [True] * results)


def primitive(operands: Operands, ledger: Ledger) -> Walked:
    """The cost of a primitive that holds no program."""
    equation = operands.equation
    price = price_of(operation(equation))
    if price.note:
        ledger.note(price.note)
    pairs = zip(equation.invars, operands.known, strict=True)
    made = total_bytes(equation.outvars)
    read, written = price.moved or (total_bytes(v for v, known in pairs if known is None), made)
    inputs = join(operands.depths) or AT_START
    depths = [after(inputs, price.chain)] * len(equation.outvars)
    work = price.work.moving(read, written)
    found = ledger.place.collective
    if found is not None:
        mesh = ledger.mesh | mesh_sizes(equation)
        size = total_bytes(v for v in equation.invars if not is_literal(v))
        ring, doubling = sent(found, size, mesh)
        work = work._replace(sent=ring, sent_by_doubling=doubling)
        if found.kind == "resharding":
            ledger.note(_RESHARDED)
    parts = {ledger.place: work}
    return Walked(parts, depths, (made,), in_place=price.in_place)
