"""The cost of one function: operations, depth and memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from equipoise._check import at, type_error
from equipoise._jax.checkpoints import has_checkpoint
from equipoise._jax.meshes.collectives import meshes_in
from equipoise._jax.programs import Atom, ClosedProgram, Program, opened
from equipoise._types import PyTree, aligned, static_result
from equipoise.cost._breakdown import Breakdown, Communication, by, communication
from equipoise.cost._count.control import ledger_of
from equipoise.cost._count.depth import EMPTY, START
from equipoise.cost._count.place import Place
from equipoise.cost._count.scope import Walked
from equipoise.cost._count.walk import RESHARDED, Ledger, walk_whole
from equipoise.cost._count.work import Work
from equipoise.cost._expression.expression import Expression, from_terms
from equipoise.cost._expression.extremes import largest
from equipoise.cost._expression.printing import folded
from equipoise.cost._memory.peak import new_graph, peak_bytes
from equipoise.cost._memory.residuals import Kept, of_function
from equipoise.cost._partition.local import on_one_device
from equipoise.cost._program.arguments import donated, fitting, scope_of, structures
from equipoise.cost._program.later import Later, known
from equipoise.cost._program.layouts import layouts, mesh_of
from equipoise.cost._program.mesh import Axes, Mesh
from equipoise.cost._program.modules import closed_over
from equipoise.cost._program.sizes import size_names, total_bytes
from equipoise.cost._program.trace import Function, trace
from equipoise.cost._program.uncollected import uncollected
from equipoise.cost._traffic.boundary import with_boundary


@static_result
class Cost:
    """Work, depth and memory of a function, as expressions in the named sizes.

    Attributes:
        flops: Operations in all.
        matmul_flops: Those of products of matrices and convolutions, 2·m·k·n each.
        elementwise_flops: Arithmetic, comparisons and selections, one per element.
        transcendental_flops: Exponentials, logarithms, roots and trigonometric functions.
        reduction_flops: Sums, maxima and running sums, one for each element but the first.
        other_flops: Sorting, Fourier transforms and linear algebra.
        depth: The longest chain of dependent operations, one unit each.
        log_depth: The same, with ⌈log₂ n⌉ steps for a reduction over n elements.
        bytes_read: Bytes that all operations read, none fused.
        bytes_written: Bytes that all operations write, none fused.
        peak_bytes: Most bytes alive at once, arguments and results included, where chains of
            elementwise operations are computed in the loops that read them, and loops run in the
            order of XLA on the CPU, which undoes checkpoints outside of loops
            (``checkpointed_peak_bytes`` keeps them). Where XLA may call a library for what has many
            elements, the larger of the two figures.
        checkpointed_peak_bytes: The same where checkpoints are kept, as compilers for GPU and TPU
            keep them: what is computed again waits for the backward pass to ask for it.
        unfused_peak_bytes: The same where every operation writes its result to memory.
        input_bytes: Bytes of all arguments.
        output_bytes: Bytes of the results.
        parameter_bytes: Bytes of the arrays that the function closes over.
        branches: Operations of each branch of each ``cond``, in the order of the program.
        parts: Work by place in the code; :meth:`by` sums it.
        notes: What was assumed while counting.
        residuals: Residuals of the function's derivative, found when they are asked for.
        per_device: What one device of a mesh computes, holds and sends, its shapes those of its
            parts; None where there is no mesh.
    """

    flops: Expression
    matmul_flops: Expression
    elementwise_flops: Expression
    transcendental_flops: Expression
    reduction_flops: Expression
    other_flops: Expression
    depth: Expression
    log_depth: Expression
    bytes_read: Expression
    bytes_written: Expression
    peak_bytes: Expression
    checkpointed_peak_bytes: Expression
    unfused_peak_bytes: Expression
    input_bytes: Expression
    output_bytes: Expression
    parameter_bytes: Expression
    branches: tuple[tuple[Expression, ...], ...]
    parts: tuple[tuple[Place, Work], ...] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = dataclasses.field(repr=False)
    residuals: Later[Kept] = dataclasses.field(repr=False, compare=False)
    per_device: "Cost | None" = dataclasses.field(default=None, repr=False)

    @property
    def residual_bytes(self) -> Expression | None:
        """Bytes that :func:`jax.vjp` keeps for the backward pass.

        None where the function has no reverse derivative, and ``assumptions`` says why. Of what
        ``analyze`` returned, this traces the derivative when it is first asked for.
        """
        return self.residuals.found[0]

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the count assumed, such as the price of a primitive without a rule."""
        alone = () if self.per_device is None else self.per_device.notes
        return tuple(dict.fromkeys((*self.notes, *self.residuals.found[1], *alone)))

    @property
    def communication(self) -> tuple[Communication, ...]:
        """What each device sends in collective operations, in the order of the program."""
        return communication((self.per_device or self).parts)

    def __str__(self) -> str:
        names = [field.name for field in dataclasses.fields(self) if field.repr]
        names += ["residual_bytes", "assumptions"]
        rows: list[list[object]] = [[f"  {name}", folded(getattr(self, name))] for name in names]
        return f"Cost\n{aligned(rows)}"

    @at("cost.Cost.by")
    def by(self, *kinds: str, measure: str = "flops", libraries: bool = False) -> Breakdown:
        """What each part of the code costs: expressions that sum to the whole.

        A kind is ``"line"``, ``"function"``, ``"scope"`` (of ``jax.named_scope``), ``"primitive"``
        or ``"dtype"``; with several kinds, a part is what agrees in all of them. ``measure`` is
        ``"flops"`` or another field that counts operations, ``"bytes_read"``, ``"bytes_written"``,
        ``"bytes_sent"``, or ``"boundary_bytes"``: of arguments where they are first read, and of
        results. Lines and functions are those of your own files, the innermost that led to an
        operation; with ``libraries`` also those of installed packages, JAX apart. A derivative
        counts at the line that it differentiates. Of a ``cond`` without a branch that is largest in
        every measure, the work counts at the line of the ``cond``. Raises ``ValueError`` for
        another kind or measure.
        """
        parts = (self.per_device or self).parts if measure == "bytes_sent" else self.parts
        return by(parts, kinds, measure, libraries=libraries)


@at("cost.analyze")
@uncollected()
def analyze(
    fn: Function,
    *args: PyTree,
    donate: int | Sequence[int] = (),
    trips: Sequence[int | str | Expression] = (),
    constraints: Sequence[str] = (),
    mesh: Mesh | None = None,
) -> Cost:
    r"""Operations, depth and memory of a function, as exact expressions in its sizes.

    The function is traced, never run, with sizes that are names; the program is then walked
    equation by equation e, along all paths p, and through its life t,

    .. math::

        W = \sum_e w_e, \qquad D = \max_p \sum_{e \in p} d_e, \qquad
        M = \max_t \sum_{v\ \mathrm{alive\ at}\ t} |v|

    Args:
        fn: Any function of arrays that JAX can trace; pytrees in and out.
        args: Arrays, :class:`jax.ShapeDtypeStruct`, or strings such as ``"f32[n,d]"``,
            ``"i32[8,2*n]"`` and ``"bf16[]"``, or pytrees of those. A name means the same size in
            all of them. Only shapes and dtypes are read. Modules of flax and Equinox may be
            among them: what their attributes hold beside arrays is closed over.
        donate: Numbers of the arguments whose memory the results may take over, as
            ``donate_argnums`` of :func:`jax.jit`. Each array in them is freed after its last use.
        trips: Iterations of the ``while`` loops in the order of the program: numbers, names or
            expressions. Those not stated become the sizes ``trips_1``, ``trips_2``, ...
        constraints: What may be taken for granted of the sizes, in JAX's notation, such as
            ``"n >= 4"`` or ``"mod(n, 2) == 0"``.
        mesh: The mesh that the function is called on, as :func:`jax.set_mesh` states it: the size
            of each axis, a number or a name, as in ``{"data": "d", "model": 2}``, or a mesh of JAX.
            A ``shard_map`` without a mesh of its own takes this one, and the sizes that it divides
            are multiples of its own. Arrays are divided as their shardings say, or their strings,
            in JAX's notation: ``"f32[d*b@data,n]"``; those that say nothing, as under
            :func:`jax.jit`, as the program divides them.

    Returns:
        :class:`Cost`. Sizes are positive. A ``scan`` of length n counts n bodies; a ``cond`` the
        largest of its branches in each measure; code whose result is not used counts nothing.
        On a mesh, ``per_device`` is the cost of what one device runs: its part of every array, as
        the arguments, constraints and types divide them, and the collectives that this takes. Where
        the partitioner has a choice, ``assumptions`` say what is counted.

    Raises:
        ValueError: If a string does not parse or a size in it is not positive, if no result has
            the shape and dtype of an array that is donated, if the mesh lacks an axis or a size, or
            if the function cannot be traced with named sizes; the message names the operation.
        TypeError: If an argument is neither an array nor a shape.

    Cost: One trace and one walk, whatever the sizes; milliseconds for each hundred equations. The
        first question for ``residual_bytes`` or ``assumptions`` traces the derivative as well.

    Examples:
        >>> found = cost.analyze(lambda w, x: jnp.tanh(x @ w), "f32[d,k]", "f32[n,d]")
        >>> print(found.flops)
        2*d*k*n + k*n
        >>> found.flops.evaluate(n=8, d=4, k=2)
        144
        >>> print(found.depth, found.output_bytes)
        2 4*k*n
        >>> sizes = {"data": "d"}
        >>> split = cost.analyze(jnp.matmul, "f32[n,d*k@data]", "f32[d*k@data,n]", mesh=sizes)
        >>> print(split.per_device.matmul_flops, "|", split.communication[0].ring_bytes)
        2*k*n^2 | 8*n^2 - 8*n^2/d

    References:
        Work and depth are those of :cite:t:`blelloch1996`; reverse mode and what it keeps,
        :cite:t:`griewank2008`.
    """
    fn, args = closed_over(fn, args)
    scope = scope_of(args, constraints)
    shapes = structures(args, constraints, scope)
    stated = mesh_of(args) if mesh is None else mesh
    axes = None if stated is None else Axes(stated, scope, constraints)
    specs, counts = layouts(args, shapes, axes), trip_counts(trips)
    program = trace(fn, shapes, axes).program
    over = donated(donate, shapes, opened(program).outvars)
    residuals = Later(lambda: of_function(fn, shapes, axes))
    found = _counted(program, ledger_of(counts), over, residuals, partitioned=False)
    sizes = meshes_in(program) if axes is None else axes.dimensions()
    if not sizes:
        return found
    local, notes = on_one_device(program, specs, sizes)
    ledger, over = ledger_of(counts, notes, sizes), fitting(over, opened(local))
    alone = _counted(local, ledger, over, known((None, ())), partitioned=True)
    # What is sent is known of one device.
    assumed = tuple(note for note in found.notes if note != RESHARDED)
    return dataclasses.replace(found, per_device=alone, notes=assumed)


def _counted(
    program: ClosedProgram,
    ledger: Ledger,
    over: Mapping[int, int],
    residuals: Later[Kept],
    *,
    partitioned: bool,
) -> Cost:
    """The cost of a program some of whose arguments have results that are written over them."""
    body = opened(program)
    walked = walk_whole(program, ledger, [i in over for i in range(len(body.invars))])
    walked = walked._replace(parts=with_boundary(walked.parts, program))

    def peak(*, barriers: bool) -> Expression:
        graph = new_graph(barriers=barriers, partitioned=partitioned)
        inputs = graph.arguments(body.invars)
        results = graph.run(program, inputs)
        return peak_bytes(graph, results, {inputs[i]: results[j] for i, j in over.items()})

    return summary(walked, ledger, program, body.outvars, peak, residuals)


class Peak(Protocol):
    """Bytes at the worst moment of a program."""

    def __call__(self, *, barriers: bool) -> Expression:
        """With or without barriers at checkpoints."""


def trip_counts(trips: Sequence[int | str | Expression]) -> list[Expression]:
    """The stated trip counts as expressions."""
    for trip in trips:
        if not isinstance(trip, (int, str, Expression)):
            raise type_error("trips", "must hold numbers, names or expressions", trip)
    return [Expression(trip) for trip in trips]


def summary(
    walked: Walked,
    ledger: Ledger,
    program: Program,
    results: Sequence[Atom],
    peak: Peak,
    residuals: Later[Kept],
    *,
    start: int = START,
) -> Cost:
    """The cost of a walk that began with the inputs of a program and ended with these results.

    ``peak`` finds the bytes at the worst moment, with or without barriers at checkpoints.
    """
    work, body = walked.work, opened(program)
    inputs, parameters = total_bytes(body.invars), total_bytes(body.constvars)
    ends = [depth[start] for depth in walked.depths if start in depth] or [EMPTY]
    found = Cost(
        flops=work.flops,
        matmul_flops=work.matmul,
        elementwise_flops=work.elementwise,
        transcendental_flops=work.transcendental,
        reduction_flops=work.reduction,
        other_flops=work.other,
        depth=largest(length for end in ends for length in end.unit),
        log_depth=largest(length for end in ends for length in end.log),
        bytes_read=work.read,
        bytes_written=work.written,
        peak_bytes=(usual := peak(barriers=False)),
        checkpointed_peak_bytes=peak(barriers=True) if has_checkpoint(program) else usual,
        unfused_peak_bytes=inputs + parameters + largest(walked.extra),
        input_bytes=inputs,
        output_bytes=total_bytes(results),
        parameter_bytes=parameters,
        branches=tuple(ledger.branches),
        parts=tuple(walked.parts.items()),
        notes=tuple(ledger.notes),
        residuals=residuals,
    )
    names = size_names(body.invars).union(work.flops.names)
    scoped: dict[str, PyTree] = {
        field.name: from_terms(value.coefficients, names)
        for field in dataclasses.fields(found)
        if isinstance(value := getattr(found, field.name), Expression)
    }
    return dataclasses.replace(found, **scoped)
