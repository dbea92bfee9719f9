"""The program that one device runs: the same operations on its parts, and what it sends."""

from collections.abc import Mapping, Sequence

from equipoise._jax.meshes.local import (
    CONSTRAINTS,
    Spec,
    assembled,
    call,
    move,
    partition_specs,
    rewired,
)
from equipoise._jax.programs import (
    SHARD_MAP,
    Atom,
    ClosedProgram,
    Equation,
    OpenProgram,
    Program,
    Size,
    Variable,
    aval,
    closed,
    constants,
    is_array,
    is_literal,
    opened,
    variable,
)
from equipoise.cost._partition.division import Division, Operand, whole
from equipoise.cost._partition.letters import Factors, letters_of
from equipoise.cost._partition.moves import Move, moves
from equipoise.cost._partition.spread import Spread


def on_one_device(
    program: ClosedProgram, specs: Sequence[Spec | None], sizes: Mapping[str, Size]
) -> tuple[ClosedProgram, list[str]]:
    """The program on one device where arguments are divided so; what the partitioner decides."""
    local = _Local(sizes)
    inputs = []
    for spec, v in zip(specs, opened(program).invars, strict=True):
        several = [tuple(axis for axis in axes if sizes[axis] != 1) for axes in spec or whole(v)]
        inputs.append(Operand(tuple(several), is_fixed=spec is not None))
    return closed(local.program(program, inputs, None), constants(program)), list(local.notes)


class _Local:
    """Rewrites programs for one device of a mesh of these sizes."""

    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self.sizes, self._spread = sizes, Spread(sizes)
        self._known: dict[tuple[int, object, object], tuple[Program, OpenProgram]] = {}
        self.notes: dict[str, None] = {}

    def program(
        self, program: Program, inputs: Sequence[Operand], results: Sequence[Operand] | None
    ) -> OpenProgram:
        """The program whose inputs and results are parts; one for each way to divide them."""
        key = id(program), tuple(inputs), None if results is None else tuple(results)
        if key not in self._known:
            layout = self._spread.layout(program, inputs, results)
            self._known[key] = program, _Body(self, self._spread.body(program), layout.specs).made()
        return self._known[key][1]

    def part(self, atom: Atom, spec: Spec) -> Variable:
        """A new variable for one device's part of an array."""
        if not is_array(atom):
            return variable(atom)
        pairs = zip(aval(atom).shape, spec, strict=True)
        return variable(atom, [self._spread.lettered.padded(size, axes) for size, axes in pairs])

    def note(self, step: Move, at: Equation) -> None:
        """Keep that the partitioner decides what is sent."""
        counted = "counted is the most that it sends," if step.is_bound else "counted is"
        self.notes[
            f"the partitioner decides how operands of {at.primitive.name} are brought together: "
            f"{counted} {step.kind} along {', '.join(step.axes)}"
        ] = None

    def letters(self, equation: Equation) -> Factors | None:
        """The letters of an operation."""
        return self._spread.lettered.letters(equation)

    def division(self, equation: Equation, specs: Mapping[Atom, Operand]) -> Division:
        """How an equation is divided, with all around it known."""
        return self._spread.division(equation, specs)


class _Body:
    """One program while it is rewritten; values are kept for each way in which they are divided."""

    def __init__(self, local: _Local, program: OpenProgram, specs: Mapping[Atom, Operand]) -> None:
        self._local, self._program, self._specs = local, program, specs
        self._parts: dict[tuple[Atom, Spec], Atom] = {}
        self._equations: list[Equation] = []

    def made(self) -> OpenProgram:
        """The program of one device."""
        body = self._program
        captured = [self._new(v, self._spec(v)) for v in body.constvars]
        inputs = [self._new(v, self._spec(v)) for v in body.invars]
        for equation in body.eqns:
            self._rewrite(equation)
        results = [v if is_literal(v) else self._parts[v, self._spec(v)] for v in body.outvars]
        return assembled(body, captured, inputs, results, self._equations)

    def _spec(self, atom: Atom) -> Spec:
        return (
            whole(atom) if is_literal(atom) or atom not in self._specs else self._specs[atom].spec
        )

    def _new(self, atom: Atom, spec: Spec) -> Variable:
        made = self._local.part(atom, spec)
        self._parts[atom, spec] = made
        return made

    def _rewrite(self, equation: Equation) -> None:
        division = self._local.division(equation, self._specs)
        reads: list[Atom] = [
            v if is_literal(v) else self._moved(v, self._spec(v), wanted.spec, equation)
            for v, wanted in zip(equation.invars, division.operands, strict=True)
        ]
        if equation.primitive.name in CONSTRAINTS:
            (result,) = equation.outvars  # what it read is sent already
            self._parts[result, division.results[0].spec] = reads[0]
            return
        letters = None if division.inside else self._local.letters(equation)
        specs, summed = [r.spec for r in division.results], list[tuple[str, ...]]()
        if letters is None and not division.inside:
            specs = [whole(v) for v in equation.outvars]
        if letters is not None:
            specs = [
                tuple(() if i is None else division.axes.get(i, ()) for i in own)
                for own in letters.results
            ]
            over = letters_of(letters.operands) - letters_of(letters.results)
            summed = [division.axes[i] for i in sorted(over) if division.axes.get(i)]
        results = [self._new(v, spec) for v, spec in zip(equation.outvars, specs, strict=True)]
        programs = {id(p): self._local.program(p, i, r) for p, i, r in division.inside}
        if equation.primitive.name == SHARD_MAP:
            (body,) = programs.values()
            self._equations.append(call(body, reads, results, equation))
        else:
            self._equations.append(rewired(equation, reads, results, programs))
        for v, spec in zip(equation.outvars, specs, strict=True):
            for axes in summed:  # along the axes of each dimension in turn
                part, whole_sum = self._parts[v, spec], self._new(v, spec)
                self._equations.append(move("all-reduce", axes, part, whole_sum, equation))
            self._moved(v, spec, self._spec(v), equation)

    def _moved(self, atom: Atom, spec: Spec, wanted: Spec, at: Equation) -> Atom:
        """The part of a value that is wanted, from the part that there is."""
        there = (atom, wanted) in self._parts
        for step in () if there else moves(spec, wanted, self._local.sizes):
            part = self._parts[atom, spec]
            if step.after == spec or (atom, step.after) not in self._parts:
                self._equations.append(
                    move(step.kind, step.axes, part, self._new(atom, step.after), at)
                )
                if step.kind != "slice" and (step.is_bound or partition_specs(at) is None):
                    self._local.note(step, at)
            spec = step.after
        return self._parts[atom, wanted]
