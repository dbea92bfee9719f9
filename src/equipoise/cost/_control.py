"""Primitives that hold programs: calls, loops and branches; one table."""

from collections.abc import Callable
from typing import Any

from equipoise.cost import _depth, _order, _shapes
from equipoise.cost._depth import Depth
from equipoise.cost._expression import ZERO, Expression
from equipoise.cost._implementation import CALLS, implementation
from equipoise.cost._walk import Known, Ledger, Operands, Walked, is_literal, primitive, walk
from equipoise.cost._work import NOTHING, either

Handler = Callable[[Operands, Ledger], Walked]


def program(closed: Any) -> Any:
    """The open program of a closed one."""
    return getattr(closed, "jaxpr", closed)


def call(operands: Operands, ledger: Ledger) -> Walked:
    """A program with the operands of the equation as its inputs."""
    body = program(held_program(operands.equation))
    return walk(body, ledger, operands.depths, operands.known, operands.dying, operands.used)


def held_program(equation: Any) -> Any:
    """The one program of a call, under whichever name the primitive keeps it."""
    return next(equation.params[name] for name in CALLS if name in equation.params)


def foreign(operands: Operands, ledger: Ledger) -> Walked:
    """A primitive without a rule: its implementation, or what is assumed where it has none."""
    body = implementation(operands.equation)
    if body is None:
        return primitive(operands, ledger)
    held, used = program(body), operands.used
    return walk(held, ledger, operands.depths, operands.known, operands.dying, used)


def scan(operands: Operands, ledger: Ledger) -> Walked:
    """The body as often as the scan is long; its depth counts where the carry is read."""
    equation = operands.equation
    body = program(equation.params["jaxpr"])
    trips = _shapes.expression(equation.params["length"])
    # Scanned arrays have one axis more outside than inside.
    stacked = sum(
        len(o.aval.shape) > len(i.aval.shape)
        for o, i in zip(equation.outvars, body.outvars, strict=True)
    )
    scanned = sum(
        len(o.aval.shape) > len(i.aval.shape)
        for o, i in zip(equation.invars, body.invars, strict=True)
    )
    carried = len(body.outvars) - stacked
    first = len(body.invars) - scanned - carried
    carry = list(range(first, first + carried))
    used = [True] * carried + operands.used[carried:]
    inside = _inside(body, ledger, list(range(len(body.invars))), used)
    outputs = _depth.loop(inside.depths, carry, trips)
    depths = [_depth.compose(operands.depths, output) for output in outputs]
    made = sum(
        (
            _shapes.array_bytes(v.aval)
            for v, read in zip(equation.outvars, operands.used, strict=True)
            if read
        ),
        ZERO,
    )
    extra = tuple(made + e for e in inside.extra)
    return Walked(inside.work.repeated(trips), depths, extra)


def while_(operands: Operands, ledger: Ledger) -> Walked:
    """The body as often as stated, or as a new name says; the test once more than the body."""
    equation = operands.equation
    body, test = program(equation.params["body_jaxpr"]), program(equation.params["cond_jaxpr"])
    test_consts, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    everything = list(range(len(equation.invars)))
    carry = everything[test_consts + consts :]
    done = _inside(body, ledger, everything[test_consts:])
    trips = _counted(test, body, consts, [operands.known[i] for i in carry])
    if trips is None:
        trips = ledger.next_trips()
        tested = _inside(test, ledger, [*everything[:test_consts], *carry])
        # No iteration starts before its test is done.
        done = Walked(
            done.work.then(tested.work),
            [_depth.join([depth, tested.depths[0]]) for depth in done.depths],
            (*done.extra, *tested.extra),
        )
        last_test = tested.work
    else:
        last_test = NOTHING
    outputs = _depth.loop(done.depths, carry, trips)
    made = sum((_shapes.array_bytes(v.aval) for v in equation.outvars), ZERO)
    return Walked(
        done.work.repeated(trips).then(last_test),
        [_depth.compose(operands.depths, output) for output in outputs],
        tuple(made + e for e in done.extra),
    )


def _inside(body: Any, ledger: Ledger, labels: list[int], used: list[bool] | None = None) -> Walked:
    """One iteration, whose inputs are the operands of the loop with these positions."""
    count = len(labels)
    depths: list[Depth] = [{label: _depth.EMPTY} for label in labels]
    used = used or [True] * len(body.outvars)
    return walk(body, ledger, depths, [None] * count, [False] * count, used)


def _counted(test: Any, body: Any, consts: int, start: list[Known | None]) -> Expression | None:
    """The trips of a loop that counts up by one between bounds that follow from sizes.

    JAX writes ``fori_loop`` so; with numbers for sizes it writes a scan of the same body, which
    has no test.
    """
    names = [equation.primitive.name for equation in test.eqns]
    if names != ["lt"] or len(test.invars) != len(start) or is_literal(test.eqns[0].invars[0]):
        return None
    before, after = body.invars[consts:], body.outvars
    counter, bound = test.eqns[0].invars
    i = test.invars.index(counter)
    if is_literal(bound):
        stop: Known | None = Known(Expression(int(bound.val)))
    else:
        j = test.invars.index(bound)
        stop = start[j] if after[j] is before[j] else None
    by_one = any(
        equation.primitive.name == "add"
        and equation.outvars[0] is after[i]
        and equation.invars[0] is before[i]
        and is_literal(equation.invars[1])
        and equation.invars[1].val == 1
        for equation in body.eqns
    )
    first = start[i]
    if not by_one or first is None or stop is None or first.size is None or stop.size is None:
        return None
    return _order.largest([ZERO, stop.size - first.size])


def cond(operands: Operands, ledger: Ledger) -> Walked:
    """The largest of the branches in each measure."""
    _, depths, known, dying, used = operands
    branches = [
        walk(program(branch), ledger, depths[1:], known[1:], dying[1:], used)
        for branch in operands.equation.params["branches"]
    ]
    ledger.branches.append(tuple(branch.work.flops for branch in branches))
    return Walked(
        either([branch.work for branch in branches]),
        [
            _depth.join([depths[0], *outputs])
            for outputs in zip(*(branch.depths for branch in branches), strict=True)
        ],
        _order.frontier(e for branch in branches for e in branch.extra),
    )


def linear_solve(operands: Operands, ledger: Ledger) -> Walked:
    """The program that solves; those that only serve its derivatives are not run."""
    lengths = operands.equation.params["const_lengths"]
    first = lengths.matvec + lengths.vecmat
    sides = first + lengths.solve + lengths.transpose_solve
    read = [*range(first, first + lengths.solve), *range(sides, len(operands.depths))]
    return walk(
        program(operands.equation.params["jaxprs"].solve),
        ledger,
        [operands.depths[i] for i in read],
        [operands.known[i] for i in read],
        [False] * len(read),
        operands.used,
    )


def shard_map(operands: Operands, ledger: Ledger) -> Walked:
    """One device's program as often as there are devices; they run side by side."""
    mesh = operands.equation.params["mesh"]
    devices = Expression(int(mesh.size))
    ledger.notes["shard_map: work and memory are those of all devices of the mesh together"] = None
    kept = [False] * len(operands.dying)
    one = walk(
        held_program(operands.equation),
        ledger,
        operands.depths,
        operands.known,
        kept,
        operands.used,
    )
    return one._replace(
        work=one.work.repeated(devices),
        extra=tuple(extra * devices for extra in one.extra),
    )


CALLING = (
    "jit pjit closed_call core_call remat2 checkpoint custom_jvp_call custom_vjp_call "
    "custom_vjp_call_jaxpr"
)

CONTROL: dict[str, Handler] = {
    **dict.fromkeys(CALLING.split(" "), call),
    "scan": scan,
    "while": while_,
    "cond": cond,
    "custom_linear_solve": linear_solve,
    "shard_map": shard_map,
}
