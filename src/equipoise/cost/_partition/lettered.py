"""Along which axes of a mesh an operation is divided, by the letters of its operands and results."""

from collections.abc import Iterable, Mapping, Sequence

from equipoise._jax.meshes.local import Spec, divided, divided_up
from equipoise._jax.programs import Equation, Size, aval
from equipoise.cost._partition.division import Arrays, Division, Operand
from equipoise.cost._partition.factors import Factors, factors
from equipoise.cost._program.sizes import as_text


class Lettered:
    """Divides operations on a mesh of these sizes, most arrays staying as they come."""

    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self._sizes = sizes
        self._parts: dict[tuple[Size, tuple[str, ...]], Size | None] = {}
        self._letters: dict[int, tuple[Equation, Factors | None]] = {}

    def letters(self, equation: Equation) -> Factors | None:
        """The letters of an operation, found once."""
        if id(equation) not in self._letters:
            self._letters[id(equation)] = equation, factors(equation)
        return self._letters[id(equation)][1]

    def padded(self, size: Size, axes: tuple[str, ...]) -> Size:
        """The size of the largest part, where the user divides what has no equal ones."""
        part = self._part(size, axes)
        return divided_up(size, [self._sizes[axis] for axis in axes]) if part is None else part

    def _part(self, size: Size, axes: tuple[str, ...]) -> Size | None:
        """The size of one of the equal parts along these axes; None where there are none."""
        key = size, axes
        if key not in self._parts:
            self._parts[key] = divided(size, [self._sizes[axis] for axis in axes])
        return self._parts[key]

    def division(
        self, equation: Equation, letters: Factors, operands: Arrays, results: Arrays
    ) -> Division:
        """How an operation is divided whose operands and results are so."""
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
        self, equation: Equation, letters: Factors, letter: int, axes: tuple[str, ...]
    ) -> bool:
        """Whether parts of what has a letter are parts of all: of one size, or evenly divided."""
        atoms = (*equation.invars, *equation.outvars)
        places = zip(atoms, (*letters.operands, *letters.results), strict=True)
        sizes = [aval(v).shape[own.index(letter)] for v, own in places if letter in own]
        same = len(set(map(as_text, sizes))) == 1
        return same or all(self._part(n, axes) is not None for n in sizes)


def _until(axes: Iterable[str], used: set[str]) -> Iterable[str]:
    """The axes before the first that is used."""
    for axis in axes:
        if axis in used:
            return
        yield axis
