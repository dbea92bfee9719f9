"""One walk over a traced program that collects work, depth and live memory.

Work adds up, depth joins at every operand, and memory lives from an equation that makes it to the
last that reads it. What one equation costs is asked of the ledger's ``price``, which
:mod:`control` gives: calls, loops and branches are priced by walks over the programs they hold.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from equipoise._jax.meshes.collectives import mesh_sizes
from equipoise._jax.programs import Equation, Program, Size, called, held, is_literal, opened
from equipoise.cost._count.collectives import sent
from equipoise.cost._count.depth import AT_START, EMPTY, Chain, Depth, after, compose, join
from equipoise.cost._count.operation import operation
from equipoise.cost._count.place import TOP, Parts, Place, around, place_of
from equipoise.cost._count.rules import price_of
from equipoise.cost._count.scope import Known, Operands, Scope, Walked
from equipoise.cost._count.work import Work
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
    calls: Counter[int] = dataclasses.field(default_factory=Counter)  # of each held program
    walks: dict[object, Walked] = dataclasses.field(default_factory=dict)  # of those called again
    # By primitive and shapes, an equation with each of the parameters that were met.
    prices: "dict[object, list[tuple[Equation, _Priced]]]" = dataclasses.field(default_factory=dict)

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


RESHARDED = "resharding: the partitioner decides what is sent; the bytes are those at most"

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
    ledger.calls.update(_calls(program, set()))
    return walk(body, ledger, [AT_START] * inputs, [None] * inputs, dying, [True] * results)


def _calls(program: Program, seen: set[int]) -> Iterator[int]:
    """The programs that a program calls, each as often as it stands there."""
    for equation in opened(program).eqns:
        body = called(equation)
        if body is not None:
            yield id(body)
        for inner in held(equation):
            if id(inner) not in seen:
                seen.add(id(inner))
                yield from _calls(inner, seen)


def walk_call(body: Program, operands: Operands, ledger: Ledger) -> Walked:
    """The walk over a program that an equation calls; one that is called again is walked once.

    The depths of its results are then those from each of its inputs, put after what leads there.
    """
    if ledger.calls[id(body)] < 2:
        return walk(body, ledger, operands.depths, operands.known, operands.dying, operands.used)
    known = tuple(None if k is None else k.size for k in operands.known)
    which = tuple(k is None for k in operands.known), tuple(operands.dying), tuple(operands.used)
    key = id(body), ledger.place, known, which
    found = ledger.walks.get(key)
    if found is None:
        before = ledger.unknown_loops, len(ledger.trips), len(ledger.branches)
        depths: list[Depth] = [{label: EMPTY} for label in range(len(operands.depths))]
        found = walk(body, ledger, depths, operands.known, operands.dying, operands.used)
        if before == (ledger.unknown_loops, len(ledger.trips), len(ledger.branches)):
            ledger.walks[key] = found
    return found._replace(depths=[compose(operands.depths, depth) for depth in found.depths])


def primitive(operands: Operands, ledger: Ledger) -> Walked:
    """The cost of a primitive that holds no program; equal equations are priced once."""
    equation = operands.equation
    shapes = tuple(id(v.aval) for v in (*equation.invars, *equation.outvars))
    key = equation.primitive, shapes, tuple(known is None for known in operands.known)
    same = ledger.prices.setdefault(key, [])
    priced = next((p for e, p in same if _equal(e.params, equation.params)), None)
    if priced is None:
        priced = _priced(operands)
        same.append((equation, priced))  # which keeps its shapes, so that their ids stay theirs
    work, chain, made, note, in_place = priced
    if note:
        ledger.note(note)
    inputs = join(operands.depths) or AT_START
    depths = [after(inputs, chain)] * len(equation.outvars)
    found = ledger.place.collective
    if found is not None:
        mesh = ledger.mesh | mesh_sizes(equation)
        size = total_bytes(v for v in equation.invars if not is_literal(v))
        ring, doubling = sent(found, size, mesh)
        work = work._replace(sent=ring, sent_by_doubling=doubling)
        if found.kind == "resharding":
            ledger.note(RESHARDED)
    return Walked({ledger.place: work}, depths, (made,), in_place=in_place)


def _equal(a: object, b: object) -> bool:
    """Whether parameters are the same, as far as they tell."""
    try:
        return a is b or bool(a == b)
    except ValueError:  # of arrays
        return False


class _Priced(NamedTuple):
    """What all equations cost that do the same to the same shapes."""

    work: Work
    chain: Chain
    made: Expression
    note: str
    in_place: bool


def _priced(operands: Operands) -> _Priced:
    equation = operands.equation
    price = price_of(operation(equation))
    pairs = zip(equation.invars, operands.known, strict=True)
    made = total_bytes(equation.outvars)
    read, written = price.moved or (total_bytes(v for v, known in pairs if known is None), made)
    return _Priced(price.work.moving(read, written), price.chain, made, price.note, price.in_place)
