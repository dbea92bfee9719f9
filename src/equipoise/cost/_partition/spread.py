"""How every value of a program is divided, from how its arguments are.

Axes of the mesh spread along the letters of operations, forward and backward, until nothing
changes, and are never taken away: as XLA's partitioner spreads them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from equipoise._jax.evaluation import written_out
from equipoise._jax.meshes.local import CONSTRAINTS, assembled, call, free_axes, partition_specs
from equipoise._jax.programs import (
    SHARD_MAP,
    Atom,
    Equation,
    OpenProgram,
    Program,
    Size,
    is_array,
    is_literal,
    opened,
)
from equipoise.cost._partition.division import Arrays, Division, Layout, Operand, grown, whole
from equipoise.cost._partition.inside import inside
from equipoise.cost._partition.lettered import Lettered


class Spread:
    """Divides programs on a mesh of these sizes."""

    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self.lettered = Lettered(sizes)
        self._known: dict[tuple[int, object, object], tuple[Program, Layout]] = {}
        self._bodies: dict[int, tuple[Program, OpenProgram]] = {}

    def body(self, program: Program) -> OpenProgram:
        """The program with primitives of this library as calls of what XLA is given for them."""
        if id(program) not in self._bodies:
            body = opened(program)
            pairs = [(e, written_out(e)) for e in body.eqns]
            if any(found is not None for _, found in pairs):
                eqns = [e if p is None else call(p, e.invars, e.outvars, e) for e, p in pairs]
                body = assembled(body, body.constvars, body.invars, body.outvars, eqns)
            self._bodies[id(program)] = program, body
        return self._bodies[id(program)][1]

    def layout(self, program: Program, inputs: Arrays, results: Arrays | None = None) -> Layout:
        """How the values of a program are divided where its inputs and results are so at least."""
        body = self.body(program)
        results = [Operand(whole(v)) for v in body.outvars] if results is None else results
        key = id(program), tuple(inputs), tuple(results)
        if key not in self._known:
            self._known[key] = program, self._layout(body, inputs, results)
        return self._known[key][1]

    def _layout(self, body: OpenProgram, inputs: Arrays, results: Arrays) -> Layout:
        specs: dict[Atom, Operand] = {v: Operand(whole(v), is_fixed=True) for v in body.constvars}
        specs.update(zip(body.invars, inputs, strict=True))
        free = {e.outvars[0]: free_axes(e) for e in body.eqns if free_axes(e)}
        for e in body.eqns:
            if free_axes(e) and (stated := partition_specs(e)):
                specs[e.outvars[0]] = Operand(stated.results[0])
        around: dict[Atom, list[int]] = {}
        for index, equation in enumerate(body.eqns):
            for atom in (*equation.invars, *equation.outvars):
                if not is_literal(atom):
                    around.setdefault(atom, []).append(index)
        open_ones = set(range(len(body.eqns)))  # around which something has changed

        def grow(atoms: Sequence[Atom], wishes: Arrays) -> None:
            for atom, wish in zip(atoms, wishes, strict=True):
                if is_literal(atom) or not is_array(atom):
                    continue
                before = specs.get(atom, Operand(whole(atom)))
                wish = _along(free[atom], wish, before) if atom in free else wish
                specs[atom] = grown(before, wish)
                if specs[atom] != before:
                    open_ones.update(around.get(atom, ()))

        grow(body.outvars, results)
        specs.update(_constrained(body))
        forward = range(len(body.eqns))
        while open_ones:
            for index in (*forward, *reversed(forward)):
                if index in open_ones:
                    open_ones.remove(index)
                    equation = body.eqns[index]
                    division = self.division(equation, specs)
                    grow(equation.outvars, division.results)
                    grow(equation.invars, division.operands)
        return Layout(
            tuple(specs.get(v, Operand(whole(v))) for v in body.invars),
            tuple(_of(v, specs) for v in body.outvars),
            specs,
        )

    def division(self, equation: Equation, specs: Mapping[Atom, Operand]) -> Division:
        """How an equation is divided where its operands and results are so."""
        operands = [_of(v, specs) for v in equation.invars]
        results = [_of(v, specs) for v in equation.outvars]
        stated = None if equation.primitive.name == SHARD_MAP else partition_specs(equation)
        if stated is not None:
            if free := free_axes(equation):
                wanted = Operand(stated.results[0])
                for known in (*operands, *results):
                    wanted = grown(wanted, _along(free, known, wanted))
                return Division([wanted], [wanted])
            results = [Operand(spec, is_fixed=True) for spec in stated.results]
            if stated.operands is not None:
                return Division([Operand(spec) for spec in stated.operands], results)
        if (found := inside(equation, operands, results, self.layout)) is not None:
            return found
        letters = self.lettered.letters(equation)
        if letters is None:
            return Division([Operand(whole(v)) for v in equation.invars], results)
        return self.lettered.division(equation, letters, operands, results)


def _along(axes: frozenset[int], wish: Operand, otherwise: Operand) -> Operand:
    """How one operand is divided along some axes, and another one along all others."""
    pairs = enumerate(zip(wish.spec, otherwise.spec, strict=True))
    return Operand(tuple(own if i in axes else other for i, (own, other) in pairs))


def _of(atom: Atom, specs: Mapping[Atom, Operand]) -> Operand:
    """How an operand is divided; numbers in the program's text are not."""
    return Operand(whole(atom)) if is_literal(atom) else specs.get(atom, Operand(whole(atom)))


def _constrained(body: OpenProgram) -> Iterator[tuple[Atom, Operand]]:
    """What is computed for a constraint alone is divided as that says."""
    readers = Counter(v for e in body.eqns for v in e.invars if not is_literal(v))
    readers.update(v for v in body.outvars if not is_literal(v))
    made = {v for e in body.eqns for v in e.outvars}
    for equation in body.eqns:
        stated = partition_specs(equation) if equation.primitive.name in CONSTRAINTS else None
        if stated is None or free_axes(equation):
            continue
        if equation.invars[0] in made and readers[equation.invars[0]] == 1:
            yield equation.invars[0], Operand(stated.results[0], is_fixed=True)
