"""The cost of training: the forward pass, the backward pass, and what is kept between them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax

from equipoise._check import at, type_error
from equipoise._jax.programs import OpenProgram, is_literal, opened
from equipoise._types import PyTree, aligned, static_result
from equipoise.cost._analyze import Cost, Peak, summary, trip_counts
from equipoise.cost._count.control import ledger_of
from equipoise.cost._count.depth import AT_START, EMPTY
from equipoise.cost._count.place import together
from equipoise.cost._count.scope import Walked
from equipoise.cost._count.walk import Ledger, walk, walk_whole
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._expression.order import frontier
from equipoise.cost._expression.printing import folded
from equipoise.cost._memory.peak import new_graph, peak_bytes
from equipoise.cost._memory.residuals import of_pullback
from equipoise.cost._program.arguments import donated, structures
from equipoise.cost._program.later import Later, known
from equipoise.cost._program.modules import closed_over
from equipoise.cost._program.sizes import total_bytes
from equipoise.cost._program.trace import Function, backward, forward, trace

# The label of chains that begin with the backward pass.
_BETWEEN = -2
# From all that reverse mode keeps to nothing but the arguments.
_POLICIES = (
    "everything_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "nothing_saveable",
)


@static_result
class TrainingCost:
    """Cost of the forward pass, of the backward pass, and of the memory between them.

    Attributes:
        forward: The forward pass as reverse mode runs it, derivatives that it prepares included;
            its outputs are the result and the residuals.
        backward: The backward pass; its inputs are the residuals and the cotangents.
        total: Both, in one program from the arguments to the result and the gradients.
        residual_bytes: Bytes that :func:`jax.vjp` keeps between them, arguments included.
        rematerialized: Both, where :func:`jax.checkpoint` computes again what it does not keep;
            its ``residual_bytes`` are those kept then.
        alone: Operations without a derivative, found when they are asked for.
        under: Both passes under each policy, found when they are asked for.
    """

    forward: Cost
    backward: Cost
    total: Cost
    residual_bytes: Expression
    rematerialized: Cost
    alone: Later[Expression] = dataclasses.field(repr=False, compare=False)
    under: Later[dict[str, Cost]] = dataclasses.field(repr=False, compare=False)

    @property
    def prepared_flops(self) -> Expression:
        """Operations of the forward pass beyond the function, which serve the derivative.

        ``forward.flops`` is the sum of these and of ``analyze(fn).flops``.
        """
        return self.forward.flops - self.alone.found

    @property
    def checkpoints(self) -> dict[str, Cost]:
        """Both passes under each policy of :data:`jax.checkpoint_policies` that needs no names.

        The cost of a policy has what it keeps as ``residual_bytes``, and what it computes as
        ``flops``. This traces one derivative per policy when it is first asked for.
        """
        return self.under.found

    def __str__(self) -> str:
        """A row for each pass, what is kept between them, and the same under each policy."""
        passes = ("forward", "backward", "total", "rematerialized")
        costs = [(name, getattr(self, name)) for name in passes]
        rows: list[list[object]] = [
            [f"  {name}", folded(c.depth), folded(c.flops)] for name, c in costs
        ]
        kept: list[list[object]] = [
            ["  bytes kept between them", folded(self.residual_bytes)],
            ["  rematerialized", folded(self.rematerialized.residual_bytes)],
            ["  flops of the forward pass for the derivative alone", folded(self.prepared_flops)],
        ]
        table = aligned(rows, header=["  pass", "depth", "flops"])
        policies: list[list[object]] = [
            [f"  {name}", cost.residual_bytes, cost.flops]
            for name, cost in self.checkpoints.items()
        ]
        listed = aligned(policies, header=["  policy of jax.checkpoint", "bytes kept", "flops"])
        return f"TrainingCost\n{table}\n{aligned(kept)}\n{listed}"


@at("cost.analyze_training")
def analyze_training(
    fn: Function,
    *args: PyTree,
    donate: int | Sequence[int] = (),
    policy: Callable[..., bool] | None = None,
    trips: Sequence[int | str | Expression] = (),
    constraints: Sequence[str] = (),
) -> TrainingCost:
    r"""Forward and backward cost of a function, and the bytes saved between them.

    With ``fn`` the composition of primitives, reverse mode computes the residuals r = R(x) beside
    the result, keeps them, and later applies the transposed Jacobian,

    .. math::

        (y, r) = (f(x), R(x)), \qquad \bar x = J_f(x)^\top \bar y = T(r, \bar y)

    Args:
        fn: The function to differentiate, with respect to all floating-point arguments.
        args: Arrays, :class:`jax.ShapeDtypeStruct` or strings, as for :func:`analyze`.
        donate: Numbers of the arguments whose memory the result and the gradients may take over,
            as for :func:`analyze`.
        policy: What :func:`jax.checkpoint` may keep in the rematerialized variant, one of
            :data:`jax.checkpoint_policies`. By default nothing but the arguments.
        trips: Iterations of the ``while`` loops, as for :func:`analyze`.
        constraints: What may be taken for granted of the sizes, as for :func:`analyze`.

    Returns:
        :class:`TrainingCost`. A function without floating-point arguments or results has a
        backward pass that costs nothing.

    Raises:
        ValueError: As for :func:`analyze`, and where reverse mode is not defined, as through a
            ``while`` loop of unknown length.
        TypeError: If an argument is neither an array nor a shape, or ``policy`` is no function.

    Cost: Two traces with their derivatives and three walks each, whatever the sizes; four more
        when ``checkpoints`` are first asked for, or the result is printed.

    Examples:
        >>> found = cost.analyze_training(lambda w, x: jnp.tanh(x @ w), "f32[d,d]", "f32[n,d]")
        >>> print(found.forward.matmul_flops, "|", found.backward.matmul_flops)
        2*d^2*n | 4*d^2*n
        >>> print(found.rematerialized.matmul_flops)
        8*d^2*n

    References:
        :cite:t:`griewank2008`, reverse mode; :cite:t:`chen2016`, rematerialization.
    """
    fn, args = closed_over(fn, args)
    shapes = structures(args, constraints)
    counts = trip_counts(trips)
    if policy is not None and not callable(policy):
        remedy = "Write jax.checkpoint_policies.dots_saveable, for one."
        raise type_error("policy", "must be one of jax.checkpoint_policies", policy, remedy)
    ahead, back, total, residual = _passes(fn, shapes, counts, donate)
    again = jax.checkpoint(fn, policy=policy)
    return TrainingCost(
        forward=ahead,
        backward=back,
        total=total,
        residual_bytes=residual,
        rematerialized=_passes(again, shapes, counts, donate)[2],
        alone=Later(lambda: walk_whole(trace(fn, shapes).program, ledger_of(counts)).work.flops),
        under=Later(lambda: under_policies(fn, shapes, counts, donate)),
    )


def under_policies(
    fn: Function, shapes: Sequence[PyTree], trips: Sequence[Expression], donate: int | Sequence[int]
) -> dict[str, Cost]:
    """Both passes under each policy, by its name."""
    policies = {name: getattr(jax.checkpoint_policies, name) for name in _POLICIES}
    return {
        name: _passes(jax.checkpoint(fn, policy=policy), shapes, trips, donate)[2]
        for name, policy in policies.items()
    }


def _passes(
    fn: Function, shapes: Sequence[PyTree], trips: Sequence[Expression], donate: int | Sequence[int]
) -> tuple[Cost, Cost, Cost, Expression]:
    """Forward, backward, both in one, and the residuals between them."""
    traced, (result, pullback) = forward(fn, shapes)
    ahead, back = opened(traced), opened(backward(result, pullback).program)
    ledger = ledger_of(trips)
    results = len(jax.tree.leaves(result))
    ends = [*ahead.outvars[:results], *back.outvars]
    over = donated(donate, shapes, ends)
    first = walk_whole(ahead, ledger, [i in over for i in range(len(ahead.invars))])
    second = _continued(first, results, back, ledger)
    residual, notes = of_pullback(fn, shapes, traced, first, pullback)
    kept = known((residual, notes))
    both = _joined(ahead, first, back, second, results)
    peaks = _peaks(ahead, back, results, over)
    return (
        summary(first, ledger, ahead, ahead.outvars, peaks[0], kept),
        summary(second, ledger, back, back.outvars, peaks[1], known((ZERO, ())), start=_BETWEEN),
        summary(both, ledger, ahead, ends, peaks[2], kept),
        residual,
    )


def _peaks(
    ahead: OpenProgram, back: OpenProgram, results: int, over: Mapping[int, int]
) -> tuple[Peak, Peak, Peak]:
    """Bytes at the worst moment of the forward pass, of the backward pass, and of both in one."""

    def alone(program: OpenProgram, *, barriers: bool) -> Expression:
        graph = new_graph(barriers=barriers)
        return peak_bytes(graph, graph.run(program, graph.arguments(program.invars)))

    def both(*, barriers: bool) -> Expression:
        graph = new_graph(barriers=barriers)
        inputs = graph.arguments(ahead.invars)
        made = graph.run(ahead, inputs)
        kept = made[results:]
        cotangents = graph.arguments(back.invars[len(kept) :])
        ends = [*made[:results], *graph.run(back, [*kept, *cotangents])]
        return peak_bytes(graph, ends, {inputs[i]: ends[j] for i, j in over.items()})

    return functools.partial(alone, ahead), functools.partial(alone, back), both


def _continued(first: Walked, results: int, back: OpenProgram, ledger: Ledger) -> Walked:
    """The walk over the backward pass, its chains counted from both beginnings."""
    kept = first.depths[results:]
    cotangents = len(back.invars) - len(kept)
    return walk(
        back,
        ledger,
        [{**depth, _BETWEEN: EMPTY} for depth in [*kept, *([AT_START] * cotangents)]],
        [*first.known[results:], *([None] * cotangents)],
        [False] * len(back.invars),
        [True] * len(back.outvars),
    )


def _joined(
    ahead: OpenProgram, first: Walked, back: OpenProgram, second: Walked, results: int
) -> Walked:
    """Both walks as one; what the forward pass made stays until the end of the backward pass."""
    made = {v for v in ahead.outvars if not is_literal(v)} - set(ahead.invars)
    cotangents = back.invars[len(ahead.outvars) - results :]
    saved = total_bytes([*made, *cotangents])
    return Walked(
        together(first.parts, second.parts),
        [*first.depths[:results], *second.depths],
        frontier([*first.extra, *(saved + extra for extra in second.extra)]),
    )
