"""A primitive applied, and what it costs."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from equipoise._jax.programs import Aval, Equation, aval, is_array
from equipoise.cost._count.depth import EMPTY, Chain
from equipoise.cost._count.work import NOTHING, Work
from equipoise.cost._expression.expression import ZERO, Expression
from equipoise.cost._program.sizes import count, size_of


class Operation(NamedTuple):
    """A primitive applied: its parameters and the shapes of what it reads and writes."""

    equation: Equation
    inputs: list[Aval]
    outputs: list[Aval]

    @property
    def name(self) -> str:
        """The primitive."""
        return self.equation.primitive.name

    @property
    def elements_in(self) -> Expression:
        """Elements of the first operand."""
        return count(self.inputs[0].shape) if self.inputs else ZERO

    @property
    def elements_out(self) -> Expression:
        """Elements of the first result."""
        return count(self.outputs[0].shape)

    def size(self, axis: int, operand: int = 0) -> Expression:
        """The size of one axis of an operand."""
        return size_of(self.inputs[operand].shape[axis])


class Price(NamedTuple):
    """What one primitive costs; ``note`` states what was assumed."""

    work: Work = NOTHING
    chain: Chain = EMPTY
    note: str = ""
    # Bytes read and written, where those are not all of the operands and results.
    moved: tuple[Expression, Expression] | None = None
    # Whether the result may be written over an operand of the same size.
    in_place: bool = False


Rule = Callable[[Operation], Price]
_Entry = TypeVar("_Entry", bound=Callable[..., object])


def entered(table: dict[str, _Entry], names: str) -> Callable[[_Entry], _Entry]:
    """Enter the function that follows into a table under its primitives' names."""

    def enter(function: _Entry) -> _Entry:
        table.update(dict.fromkeys(names.split(), function))
        return function

    return enter


def operation(equation: Equation) -> Operation:
    """The equation with the shapes of the arrays that it reads and writes."""
    return Operation(
        equation,
        [aval(v) for v in equation.invars if is_array(v)],
        [aval(v) for v in equation.outvars if is_array(v)],
    )
