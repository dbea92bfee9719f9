"""What equations cost that hold programs: calls, loops and branches; and with them all others."""

import math
from collections.abc import Iterable, Mapping, Sequence

from equipoise._jax.evaluation import implementation
from equipoise._jax.meshes.collectives import mesh_sizes
from equipoise._jax.meshes.shards import num_devices
from equipoise._jax.programs import (
    COND,
    KERNEL,
    SCAN,
    SHARD_MAP,
    SOLVE,
    WHILE,
    Atom,
    Equation,
    Program,
    Size,
    While,
    branches,
    called,
    is_literal,
    kernel,
    linear_solve,
    opened,
    scan,
    while_loop,
)
from equipoise.cost._count.depth import AT_START, EMPTY, START, Depth, after, compose, join, loop
from equipoise.cost._count.place import Parts, one_of, repeated, together
from equipoise.cost._count.rules import RULES
from equipoise.cost._count.scope import Known, Operands, Walked
from equipoise.cost._count.walk import Handler, Ledger, primitive, walk, walk_call
from equipoise.cost._expression.expression import ONE, ZERO, Expression
from equipoise.cost._expression.extremes import largest
from equipoise.cost._expression.order import frontier
from equipoise.cost._program.sizes import size_of, total_bytes


def ledger_of(
    trips: Sequence[Expression], notes: Iterable[str] = (), mesh: Mapping[str, Size] | None = None
) -> Ledger:
    """A new ledger, with the stated trip counts of while loops, and the mesh of one device."""
    return Ledger(_price, list(trips), dict.fromkeys(notes), mesh=dict(mesh or {}))


def _price(operands: Operands, ledger: Ledger) -> Walked:
    """The cost of any equation: by its handler, by its rule, or by the program that it holds."""
    name = operands.equation.primitive.name
    rule = primitive if name in RULES else _call
    return _CONTROL.get(name, rule)(operands, ledger)


def _call(operands: Operands, ledger: Ledger) -> Walked:
    """A program with the operands of the equation as its inputs.

    A primitive that holds none is walked through its implementation, and priced by what is
    assumed of it where it has none.
    """
    body = called(operands.equation)
    if body is None:
        body = implementation(operands.equation)
    if body is None:
        return primitive(operands, ledger)
    return walk_call(body, operands, ledger)


def _scan(operands: Operands, ledger: Ledger) -> Walked:
    """The body as often as the scan is long; its depth counts where the carry is read."""
    equation, layout = operands.equation, scan(operands.equation)
    trips, first, carried = size_of(layout.length), layout.num_constants, layout.num_carried
    used = [True] * carried + operands.used[carried:]
    inside = _inside(layout.body, ledger, range(len(equation.invars)), used)
    made = total_bytes(v for v, read in zip(equation.outvars, operands.used, strict=True) if read)
    return Walked(
        repeated(inside.parts, trips),
        _looped(operands, inside, range(first, first + carried), trips),
        tuple(made + e for e in inside.extra),
    )


def _while(operands: Operands, ledger: Ledger) -> Walked:
    """The body as often as stated, or as a new name says; the test once more than the body."""
    equation, layout = operands.equation, while_loop(operands.equation)
    everything = range(len(equation.invars))
    of_body = everything[layout.num_test_constants :]
    carry = of_body[layout.num_body_constants :]
    done = _inside(layout.body, ledger, of_body)
    trips, last_test = _counted(layout, [operands.known[i] for i in carry]), Parts()
    if trips is None:
        trips = ledger.next_trips()
        of_test = [*everything[: layout.num_test_constants], *carry]
        tested = _inside(layout.test, ledger, of_test)
        # No iteration starts before its test is done.
        done = Walked(
            together(done.parts, tested.parts),
            [join([depth, tested.depths[0]]) for depth in done.depths],
            (*done.extra, *tested.extra),
        )
        last_test = tested.parts
    made = total_bytes(equation.outvars)
    return Walked(
        together(repeated(done.parts, trips), last_test),
        _looped(operands, done, carry, trips),
        tuple(made + e for e in done.extra),
    )


def _inside(
    body: Program, ledger: Ledger, labels: Sequence[int], used: Sequence[bool] | None = None
) -> Walked:
    """One iteration, whose inputs are the operands of the loop with these positions."""
    count = len(labels)
    depths: list[Depth] = [{label: EMPTY} for label in labels]
    used = used or [True] * len(opened(body).outvars)
    return walk(body, ledger, depths, [None] * count, [False] * count, used)


def _looped(
    operands: Operands, inside: Walked, carry: Sequence[int], trips: Expression
) -> list[Depth]:
    """Chains to the results of a loop, given those through one iteration."""
    outputs = loop(inside.depths, carry, trips)
    return [compose(operands.depths, output) for output in outputs]


def _counted(layout: While, start: Sequence[Known | None]) -> Expression | None:
    """The trips of a loop that counts up by one between bounds that follow from sizes.

    JAX writes ``fori_loop`` so; with numbers for sizes it writes a scan of the same body, which
    has no test.
    """
    test, body = opened(layout.test), opened(layout.body)
    names = [equation.primitive.name for equation in test.eqns]
    if names != ["lt"] or len(test.invars) != len(start):
        return None
    before, after = body.invars[layout.num_body_constants :], body.outvars
    counter, bound = test.eqns[0].invars
    inputs: list[Atom] = list(test.invars)
    if is_literal(counter):
        return None
    i = inputs.index(counter)
    if is_literal(bound):
        stop: Known | None = Known(Expression(int(bound.val)))
    else:
        j = inputs.index(bound)
        stop = start[j] if after[j] is before[j] else None
    first = start[i]
    by_one = any(
        e.outvars[0] is after[i] and e.invars[0] is before[i] and _adds_one(e) for e in body.eqns
    )
    if not by_one or first is None or stop is None or first.size is None or stop.size is None:
        return None
    return largest([ZERO, stop.size - first.size])


def _adds_one(equation: Equation) -> bool:
    if equation.primitive.name != "add":
        return False
    step = equation.invars[1]
    return is_literal(step) and bool(step.val == 1)


def _cond(operands: Operands, ledger: Ledger) -> Walked:
    """The largest of the branches in each measure."""
    equation, depths, known, dying, used = operands
    walked = [
        walk(branch, ledger, depths[1:], known[1:], dying[1:], used)
        for branch in branches(equation)
    ]
    ledger.branches.append(tuple(branch.work.flops for branch in walked))
    return Walked(
        one_of([branch.parts for branch in walked], ledger.place),
        [
            join([depths[0], *outputs])
            for outputs in zip(*(branch.depths for branch in walked), strict=True)
        ],
        frontier(e for branch in walked for e in branch.extra),
    )


def _linear_solve(operands: Operands, ledger: Ledger) -> Walked:
    """The program that solves; those that only serve its derivatives are not run."""
    program, read = linear_solve(operands.equation)
    return walk(
        program,
        ledger,
        [operands.depths[i] for i in read],
        [operands.known[i] for i in read],
        [False] * len(read),
        operands.used,
    )


def _shard_map(operands: Operands, ledger: Ledger) -> Walked:
    """One device's program as often as there are devices; they run side by side."""
    ledger.note("shard_map: work and memory are those of all devices of the mesh together")
    around, ledger.mesh = ledger.mesh, ledger.mesh | mesh_sizes(operands.equation)
    one = _call(operands._replace(dying=[False] * len(operands.dying)), ledger)
    ledger.mesh = around
    devices = size_of(num_devices(operands.equation))
    return one._replace(
        parts={place: work.on_each(devices) for place, work in one.parts.items()},
        extra=tuple(extra * devices for extra in one.extra),
    )


def _kernel(operands: Operands, ledger: Ledger) -> Walked:
    """The kernel's program as often as its grid has points, which run side by side."""
    ledger.note("pallas_call: the depth is that of one point of its grid")
    equation = operands.equation
    body, grid = kernel(equation)
    inside = _inside(body, ledger, range(len(opened(body).invars)))
    points = math.prod(map(size_of, grid), start=ONE)
    longest = join({START: chain} for depth in inside.depths for chain in depth.values()).get(
        START, EMPTY
    )
    depth = after(join(operands.depths) or AT_START, longest)
    return Walked(
        repeated(inside.parts, points),
        [depth] * len(equation.outvars),
        (total_bytes(equation.outvars),),
    )


_CONTROL: dict[str, Handler] = {
    SCAN: _scan,
    WHILE: _while,
    COND: _cond,
    SOLVE: _linear_solve,
    SHARD_MAP: _shard_map,
    KERNEL: _kernel,
}
