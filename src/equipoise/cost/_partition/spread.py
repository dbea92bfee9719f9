"""How every value of a program is divided, from how its arguments are.

Axes of the mesh spread along the letters of operations, forward and backward, until nothing
changes, and are never taken away: as XLA's partitioner spreads them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from equipoise._jax.meshes.local import CONSTRAINTS, Spec, divided, divided_up, partition_specs
from equipoise._jax.programs import (
    COND,
    SCAN,
    SHARD_MAP,
    SOLVE,
    WHILE,
    Atom,
    Equation,
    OpenProgram,
    Program,
    Size,
    aval,
    branches,
    called,
    is_array,
    is_literal,
    linear_solve,
    opened,
    rank,
    scan,
    while_loop,
)
from equipoise.cost._partition.factors import Factors, factors, letters_of


class Operand(NamedTuple):
    """How an array comes, and whether it is the user who says so."""

    spec: Spec
    is_fixed: bool = False


_Arrays: TypeAlias = Sequence[Operand]


class _Layout(NamedTuple):
    """How the inputs and results of a program are divided, and all values in it."""

    inputs: tuple[Operand, ...]
    results: tuple[Operand, ...]
    specs: Mapping[Atom, Operand]


class _Held(NamedTuple):
    """A program that an operation holds, with how its inputs and results are divided."""

    program: Program
    inputs: _Arrays
    results: _Arrays


class Division(NamedTuple):
    """How an operation is divided: operands and results, and letters or the programs it holds."""

    operands: list[Operand]
    results: list[Operand]
    axes: Mapping[int, tuple[str, ...]] = {}
    inside: Sequence[_Held] = ()


def whole(atom: Atom) -> Spec:
    """Not divided at all."""
    return ((),) * rank(atom)


class Spread:
    """Divides programs on a mesh of these sizes."""

    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self._sizes = sizes
        self._known: dict[tuple[int, object, object], tuple[Program, _Layout]] = {}
        self._parts: dict[tuple[Size, tuple[str, ...]], Size | None] = {}
        self._letters: dict[int, tuple[Equation, Factors | None]] = {}

    def part(self, size: Size, axes: Sequence[str]) -> Size | None:
        """The size of one of the equal parts along these axes; None where there are none."""
        key = size, tuple(axes)
        if key not in self._parts:
            self._parts[key] = divided(size, [self._sizes[axis] for axis in axes])
        return self._parts[key]

    def letters(self, equation: Equation) -> Factors | None:
        """The letters of an operation, found once."""
        if id(equation) not in self._letters:
            self._letters[id(equation)] = equation, factors(equation)
        return self._letters[id(equation)][1]

    def padded(self, size: Size, axes: Sequence[str]) -> Size:
        """The size of the largest part, where the user divides what has no equal ones."""
        part = self.part(size, axes)
        return divided_up(size, [self._sizes[axis] for axis in axes]) if part is None else part

    def layout(self, program: Program, inputs: _Arrays, results: _Arrays | None = None) -> _Layout:
        """How the values of a program are divided where its inputs and results are so at least."""
        body = opened(program)
        results = [Operand(whole(v)) for v in body.outvars] if results is None else results
        key = id(program), tuple(inputs), tuple(results)
        if key not in self._known:
            self._known[key] = program, self._layout(program, inputs, results)
        return self._known[key][1]

    def _layout(self, program: Program, inputs: _Arrays, results: _Arrays) -> _Layout:
        body = opened(program)
        specs: dict[Atom, Operand] = {v: Operand(whole(v), is_fixed=True) for v in body.constvars}
        specs.update(zip(body.invars, inputs, strict=True))

        around: dict[Atom, list[int]] = {}
        for index, equation in enumerate(body.eqns):
            for atom in (*equation.invars, *equation.outvars):
                if not is_literal(atom):
                    around.setdefault(atom, []).append(index)
        open_ones = set(range(len(body.eqns)))  # around which something has changed

        def grow(atoms: Sequence[Atom], wishes: _Arrays) -> None:
            for atom, wish in zip(atoms, wishes, strict=True):
                if is_literal(atom) or not is_array(atom):
                    continue
                before = specs.get(atom, Operand(whole(atom)))
                specs[atom] = self.grown(atom, before, wish)
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
        return _Layout(
            tuple(specs.get(v, Operand(whole(v))) for v in body.invars),
            tuple(self.of(v, specs) for v in body.outvars),
            specs,
        )

    def of(self, atom: Atom, specs: Mapping[Atom, Operand]) -> Operand:
        """How an operand is divided; numbers in the program's text are not."""
        return Operand(whole(atom)) if is_literal(atom) else specs.get(atom, Operand(whole(atom)))

    def grown(self, atom: Atom, before: Operand, wish: Operand) -> Operand:
        """The operand divided further as is wished, where it is free to and it can be."""
        if before.is_fixed or wish.is_fixed:
            return before if before.is_fixed else wish
        spec = list(before.spec)
        for i, axes in enumerate(wish.spec):
            others = {axis for j, own in enumerate(spec) if j != i for axis in own}
            longer = len(axes) > len(spec[i]) and axes[: len(spec[i])] == spec[i]
            if longer and not others.intersection(axes):
                spec[i] = axes
        return Operand(tuple(spec))

    def division(self, equation: Equation, specs: Mapping[Atom, Operand]) -> Division:
        """How an equation is divided where its operands and results are so."""
        operands = [self.of(v, specs) for v in equation.invars]
        results = [self.of(v, specs) for v in equation.outvars]
        stated = partition_specs(equation)
        if stated is not None:
            results = [Operand(spec, is_fixed=True) for spec in stated.results]
            if stated.operands is not None:
                return Division([Operand(spec) for spec in stated.operands], results)
        name = equation.primitive.name
        if name == SCAN:
            return self._scan(equation, operands, results)
        if name == WHILE:
            return self._while(equation, operands, results)
        if name == COND:
            return self._cond(equation, operands, results)
        if name == SOLVE:
            program, read = linear_solve(equation)
            inside = self.layout(program, [operands[i] for i in read], results)
            for i, operand in zip(read, inside.inputs, strict=True):
                operands[i] = operand
            held = _Held(program, inside.inputs, inside.results)
            return Division(operands, list(inside.results), inside=[held])
        body = called(equation) if name != SHARD_MAP else None
        if body is not None:
            inside = self.layout(body, operands, results)
            held = _Held(body, inside.inputs, inside.results)
            return Division(list(inside.inputs), list(inside.results), inside=[held])
        letters = self.letters(equation)
        if letters is None:
            return Division([Operand(whole(v)) for v in equation.invars], results)
        return self._lettered(equation, letters, operands, results)

    def _lettered(
        self, equation: Equation, letters: Factors, operands: _Arrays, results: _Arrays
    ) -> Division:
        arrays = [*zip(letters.operands, operands, strict=True)]
        arrays += zip(letters.results, results, strict=True)
        votes: dict[int, list[tuple[str, ...]]] = {}
        for own, operand in arrays:
            for letter, axes in zip(own, operand.spec, strict=True):
                if letter is not None and axes:
                    votes.setdefault(letter, []).append(axes)
        said = {
            letter: axes
            for own, result in zip(letters.results, results, strict=True)
            if result.is_fixed
            for letter, axes in zip(own, result.spec, strict=True)
            if letter is not None
        }
        votes = {letter: v for letter, v in votes.items() if letter not in said}
        votes |= {letter: [axes] * len(arrays) for letter, axes in said.items() if axes}
        chosen: dict[int, tuple[str, ...]] = {}
        used: set[str] = set()
        for letter in sorted(votes, key=lambda letter: -len(votes[letter])):
            most = max(votes[letter], key=lambda axes: (votes[letter].count(axes), len(axes)))
            axes = tuple(_until(most, used))
            if self._divides(equation, letters, letter, axes):
                chosen[letter] = axes
                used.update(axes)

        def spec(own: Sequence[int | None]) -> Spec:
            return tuple(() if i is None else chosen.get(i, ()) for i in own)

        return Division(
            [Operand(spec(own)) for own in letters.operands],
            [r if r.is_fixed else Operand(spec(own)) for own, r in arrays[len(operands) :]],
            axes=chosen,
        )

    def _divides(
        self, equation: Equation, letters: Factors, letter: int, axes: Sequence[str]
    ) -> bool:
        """Whether parts of what has a letter are parts of all: of one size, or evenly divided."""
        atoms = zip(
            (*equation.invars, *equation.outvars),
            (*letters.operands, *letters.results),
            strict=True,
        )
        sizes = {
            str(size): size
            for atom, own in atoms
            for size, found in zip(aval(atom).shape if own else (), own, strict=True)
            if found == letter
        }
        return len(sizes) == 1 or all(self.part(n, axes) is not None for n in sizes.values())

    def _scan(self, equation: Equation, operands: _Arrays, results: _Arrays) -> Division:
        layout = scan(equation)
        constants, carried = layout.num_constants, layout.num_carried
        first = constants + carried
        inputs = [*operands[:first], *map(_inner, operands[first:])]
        outputs = [*results[:carried], *map(_inner, results[carried:])]
        carry = range(constants, first)
        inside = self._repeated(layout.body, inputs, outputs, carry, range(carried))
        return Division(
            [*inside.inputs[:first], *map(_outer, inside.inputs[first:])],
            [*inside.results[:carried], *map(_outer, inside.results[carried:])],
            inside=[_Held(layout.body, inside.inputs, inside.results)],
        )

    def _repeated(
        self,
        body: Program,
        inputs: _Arrays,
        outputs: _Arrays,
        carry: Sequence[int],
        carried: Sequence[int],
    ) -> _Layout:
        """A body whose results come in again, divided as they went out."""
        inputs, outputs, before = list(inputs), list(outputs), None
        atoms = opened(body).invars
        for i, j in zip(carry, carried, strict=True):
            inputs[i] = Operand(inputs[i].spec)  # only its start is the user's
            inputs[i] = self.grown(atoms[i], inputs[i], outputs[j])
        while before != (inputs, outputs):
            before = list(inputs), list(outputs)
            found = self.layout(body, inputs, outputs)
            inputs, outputs = list(found.inputs), list(found.results)
            for i, j in zip(carry, carried, strict=True):
                inputs[i] = self.grown(atoms[i], inputs[i], Operand(outputs[j].spec))
                outputs[j] = self.grown(atoms[i], outputs[j], Operand(inputs[i].spec))
        return found

    def _while(self, equation: Equation, operands: _Arrays, results: _Arrays) -> Division:
        layout = while_loop(equation)
        inputs = operands[layout.num_test_constants :]
        carry = range(layout.num_body_constants, len(inputs))
        inside = self._repeated(layout.body, inputs, results, carry, range(len(results)))
        known = [Operand(o.spec) for o in operands[: layout.num_test_constants]]
        test = _Held(layout.test, [*known, *inside.results], [Operand(())])
        body = _Held(layout.body, inside.inputs, inside.results)
        return Division([*known, *inside.inputs], list(inside.results), inside=[test, body])

    def _cond(self, equation: Equation, operands: _Arrays, results: _Arrays) -> Division:
        inputs, outputs = list(operands[1:]), list(results)
        for branch in branches(equation):
            inside = self.layout(branch, inputs, outputs)
            inputs, outputs = list(inside.inputs), list(inside.results)
        held = [_Held(branch, inputs, outputs) for branch in branches(equation)]
        return Division([operands[0], *inputs], outputs, inside=held)


def _constrained(body: OpenProgram) -> Iterator[tuple[Atom, Operand]]:
    """What is computed for a constraint alone is divided as that says."""
    readers = Counter(v for e in body.eqns for v in e.invars if not is_literal(v))
    readers.update(v for v in body.outvars if not is_literal(v))
    made = {v for e in body.eqns for v in e.outvars}
    for equation in body.eqns:
        stated = partition_specs(equation) if equation.primitive.name in CONSTRAINTS else None
        if stated is not None and equation.invars[0] in made and readers[equation.invars[0]] == 1:
            yield equation.invars[0], Operand(stated.results[0], is_fixed=True)


def _until(axes: Iterable[str], used: set[str]) -> Iterable[str]:
    """The axes before the first that is used."""
    for axis in axes:
        if axis in used:
            return
        yield axis


def _inner(operand: Operand) -> Operand:
    """What one iteration sees of an array that a loop runs along."""
    return Operand(operand.spec[1:], is_fixed=operand.is_fixed)


def _outer(operand: Operand) -> Operand:
    return Operand(((), *operand.spec))
