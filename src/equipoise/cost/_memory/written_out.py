"""Operations that XLA writes out as several, each with values of its own between them."""

from collections.abc import Collection, Sequence

import jax.numpy as jnp

from equipoise._jax.programs import Atom, Equation, aval, rank
from equipoise.cost._expression.expression import ZERO
from equipoise.cost._memory.kinds import Kind
from equipoise.cost._memory.values import Node, Values
from equipoise.cost._program.sizes import count, size_of

_INDEX = 4  # bytes of a place along an axis
_WORD = 4  # bytes of each of the two words that random bits are made of, and of what is sorted
_PICKING = frozenset(("slice", "dynamic_slice", "gather"))


class WrittenOut(Values):
    """Values, and those operations on them that are several.

    Attributes beside those of values are what sums onto zeros are made of.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scattered: dict[int, tuple[int, ...]] = {}  # sums onto zeros: indices and updates

    def unbatch(self, equation: Equation, operands: list[int]) -> None:
        """A scatter's indices in a batch are put together with its place, updates in one line."""
        numbers = equation.params.get("dimension_numbers")
        batched = len(getattr(numbers, "operand_batching_dims", ()))
        if not batched or equation.primitive.name == "gather":
            return
        *lines, columns = aval(equation.invars[1]).shape
        whole = self.new(_INDEX * count(lines) * (size_of(columns) + batched))
        self.nodes.append(Node(Kind.PIECED, (operands[1],), (whole,)))
        operands[1], operands[2] = whole, self.copy(operands[2])

    def inverse(self, atom: Atom, operand: int) -> int:
        """The inverse error function: a polynomial in a logarithm and its root, where read."""
        log, root, made = (self.value(atom) for _ in range(3))
        for kind, reads, result in (
            (Kind.DEAR, (operand,), log),
            (Kind.DEAR, (log,), root),
            (Kind.CHEAP, (operand, log, root), made),
        ):
            self.nodes.append(Node(kind, reads, (result,), alike=frozenset(reads)))
        return made

    def mix(self, atom: Atom, key: int) -> int:
        """Random bits: two words for each number, mixed where they lie, the next two beside them.

        They are put together wherever the bits are read.
        """
        word = _WORD * count(aval(atom).shape)
        counted, mixed = (tuple(self.new(word) for _ in range(2)) for _ in range(2))
        over, made = tuple(zip(counted, mixed, strict=True)), self.value(atom)
        self.nodes += [
            *(Node(Kind.OPAQUE, (key,), (v,)) for v in counted),
            Node(Kind.OPAQUE, counted, mixed, (2 * word,), over),
            Node(Kind.CHEAP, mixed, (made,)),
        ]
        return made

    def select_and_scatter(self, equation: Equation, source: int, operand: int) -> int:
        """What was largest in its window takes the source: found with its place in each axis."""
        places, picked = (
            [self.new(_INDEX * count(aval(v).shape)) for _ in range(rank(v))]
            for v in equation.invars[::-1]
        )
        zero, made = self.new(ZERO, owned=True), self.value(equation.outvars[0])
        filled = self.own(self.fill(zero, "0.0", equation.outvars[0]))
        indices = self.new(sum((self.bytes[v] for v in picked), ZERO))
        best = self.new(self.bytes[source])
        self.nodes += [
            *(Node(Kind.OPAQUE, (zero,), (v,)) for v in places),
            Node(Kind.OPAQUE, (operand, *places), (best, *picked)),
            Node(Kind.CHEAP, tuple(picked), (indices,)),
            Node(Kind.OPAQUE, (filled, indices, source), (made,), (), ((filled, made),)),
        ]
        return made

    def scatters(self, name: str, operands: Sequence[int], makes: Sequence[int]) -> bool:
        """Whether this adds a sum onto zeros to something, which is a sum onto that."""
        if name == "scatter-add" and operands[0] in self.zeros:
            self._scattered[makes[0]] = tuple(operands[1:])
        if name in ("add", "add_any"):
            for a, b in (operands, operands[::-1]):
                if b in self._scattered:
                    reads = (a, *self._scattered[b])
                    self.nodes.append(Node(Kind.OPAQUE, reads, tuple(makes), (), ((a, makes[0]),)))
                    return True
        return False

    def top_k(
        self, equation: Equation, operand: int, readers: Sequence[Collection[str]]
    ) -> list[int]:
        """The largest of each line: a library finds them in single precision, others are sorted.

        So are numbers of which only some are read, and whose places are not.
        """
        single = aval(equation.invars[0]).dtype == jnp.float32
        picked = bool(readers[0]) and _PICKING.issuperset(readers[0]) and not readers[1]
        makes = [self.value(v) for v in equation.outvars]
        if single and not picked:
            self.nodes.append(Node(Kind.OPAQUE, (operand,), tuple(makes)))
            return makes
        makes = makes[: 1 if picked else 2]
        size, shape = _WORD * count(aval(equation.invars[0]).shape), self.shapes[operand]
        lines, ordered = ([self.new(size, shape) for _ in makes] for _ in range(2))
        for made in lines:  # the numbers, and their places
            self.nodes.append(Node(Kind.CHEAP, (operand,), (made,), alike=frozenset((operand,))))
        over = tuple(zip(lines, ordered, strict=True))
        self.nodes.append(Node(Kind.OPAQUE, tuple(lines), tuple(ordered), (), over))
        for whole, made in zip(ordered, makes, strict=True):
            self.nodes.append(Node(Kind.CHEAP, (whole,), (made,)))
        return [*makes, *(self.value(v) for v in equation.outvars[len(makes) :])]
