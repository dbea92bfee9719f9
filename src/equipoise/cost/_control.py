"""Primitives that hold programs: calls, loops and branches; one table."""

from collections.abc import Callable
from typing import Any

from equipoise.cost import _depth, _order, _shapes
from equipoise.cost._depth import Depth
from equipoise.cost._expression import ZERO
from equipoise.cost._walk import Ledger, Operands, Walked, walk
from equipoise.cost._work import either

Handler = Callable[[Operands, Ledger], Walked]


def program(closed: Any) -> Any:
    """The open program of a closed one."""
    return getattr(closed, "jaxpr", closed)


def call(operands: Operands, ledger: Ledger) -> Walked:
    """A program with the operands of the equation as its inputs."""
    body = program(held_program(operands.equation))
    return walk(body, ledger, *operands[1:])


def held_program(equation: Any) -> Any:
    """The one program of a call, under whichever name the primitive keeps it."""
    return next(
        equation.params[name]
        for name in ("jaxpr", "call_jaxpr", "fun_jaxpr")
        if name in equation.params
    )


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
    inside = walk(
        body, ledger, _labels(body), [None] * len(body.invars), [False] * len(body.invars), used
    )
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


def _labels(body: Any) -> list[Depth]:
    return [{i: _depth.EMPTY} for i in range(len(body.invars))]


def while_(operands: Operands, ledger: Ledger) -> Walked:
    """The body as often as stated, or as a new name says; the test once more than the body."""
    equation = operands.equation
    body, test = program(equation.params["body_jaxpr"]), program(equation.params["cond_jaxpr"])
    test_consts, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    trips = ledger.next_trips()
    carried = len(body.outvars)
    everything = list(range(len(equation.invars)))
    for_test = everything[:test_consts] + everything[test_consts + consts :]
    for_body = everything[test_consts:]
    labels: list[Depth] = [{i: _depth.EMPTY} for i in everything]
    no_values: list[None] = [None] * len(everything)
    tested = walk(
        test,
        ledger,
        [labels[i] for i in for_test],
        no_values[: len(for_test)],
        [False] * len(for_test),
        [True],
    )
    done = walk(
        body,
        ledger,
        [labels[i] for i in for_body],
        no_values[: len(for_body)],
        [False] * len(for_body),
        [True] * carried,
    )
    # No iteration starts before its test is done.
    ready = [_depth.join([depth, tested.depths[0]]) for depth in done.depths]
    outputs = _depth.loop(ready, everything[test_consts + consts :], trips)
    made = sum((_shapes.array_bytes(v.aval) for v in equation.outvars), ZERO)
    return Walked(
        done.work.repeated(trips).then(tested.work.repeated(trips + 1)),
        [_depth.compose(operands.depths, output) for output in outputs],
        tuple(made + e for e in (*done.extra, *tested.extra)),
    )


def cond(operands: Operands, ledger: Ledger) -> Walked:
    """The largest of the branches in each measure."""
    branches = [
        walk(program(branch), ledger, *(list(part)[1:] for part in operands[1:4]), operands.used)
        for branch in operands.equation.params["branches"]
    ]
    number = len(ledger.branches) + 1
    ledger.branches[f"cond_{number}"] = tuple(branch.work.flops for branch in branches)
    index = operands.depths[0]
    return Walked(
        either([branch.work for branch in branches]),
        [
            _depth.join([index, *outputs])
            for outputs in zip(*(branch.depths for branch in branches), strict=True)
        ],
        _order.frontier(e for branch in branches for e in branch.extra),
    )


CONTROL: dict[str, Handler] = {
    **dict.fromkeys(
        ["jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "run_state"],
        call,
    ),
    "scan": scan,
    "while": while_,
    "cond": cond,
}


def find(equation: Any) -> Handler | None:
    """How to price an equation that holds programs; None for one that holds none."""
    return CONTROL.get(equation.primitive.name)
