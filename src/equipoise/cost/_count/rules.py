"""How much each kind of primitive computes, and how deep; :mod:`table` says which is of which kind.

The conventions are XLA's, so that totals can be compared with its own analysis of the program
before optimization: a product of matrices is 2·m·k·n, arithmetic on integers and Booleans counts
like arithmetic on floating-point numbers, and moving data counts nothing. Where XLA has no figure
(linear algebra is a library call) the textbook count is used, and the result says so.
"""

import functools
from collections.abc import Sequence

from equipoise._jax.programs import Aval, held, opened
from equipoise.cost._count.convolution import products
from equipoise.cost._count.depth import step
from equipoise.cost._count.linear_algebra import COUNTS, batch, stages
from equipoise.cost._count.operation import Operation, Price, Rule
from equipoise.cost._count.work import operations
from equipoise.cost._expression.expression import ONE, ZERO, Expression, apply
from equipoise.cost._program.sizes import array_bytes, count, item_bytes, size_of


def _log2(value: Expression) -> Expression:
    """⌈log₂ value⌉: the steps in which so many numbers can be combined in pairs."""
    return apply("ceil_log2", value)


def elementwise(times: int = 1, transcendental: int = 0) -> Rule:
    """So many operations for each element of the result, one deep."""

    def rule(op: Operation) -> Price:
        size = op.elements_out
        work = operations(elementwise=size * times, transcendental=size * transcendental)
        return Price(work, step(), in_place=True)

    return rule


def moved(op: Operation) -> Price:
    """Data is copied: no operation, no depth."""
    return Price()


def renamed(op: Operation) -> Price:
    """The same bytes under another shape: nothing is done."""
    return Price(moved=(ZERO, ZERO))


def picked(op: Operation) -> Price:
    """Only what is picked is read, beside the indices."""
    taken = array_bytes(*op.outputs)
    indices = array_bytes(*op.inputs[1:])
    return Price(moved=(taken + indices, taken))


def placed(op: Operation) -> Price:
    """Only what is placed is read and written, beside the indices."""
    update = op.inputs[2 if op.name.startswith("scatter") else 1]
    read = array_bytes(*op.inputs[1:])
    return Price(moved=(read, array_bytes(update)), in_place=True)


def converted(op: Operation) -> Price:
    """One operation an element, as XLA counts it, but no link in a chain."""
    return Price(operations(elementwise=op.elements_out), in_place=True)


def integer_power(op: Operation) -> Price:
    """Multiplications by repeated squaring, and a division for a negative power."""
    power = abs(op.equation.params["y"])
    squarings = power.bit_length() - 1 + power.bit_count() - 1 if power else 0
    times = squarings + (op.equation.params["y"] < 0)
    return Price(operations(elementwise=op.elements_out * times), step())


def reduced(times: int = 1) -> Rule:
    """One operation fewer than the elements that go into each result."""

    def rule(op: Operation) -> Price:
        size = (op.elements_in - op.elements_out) * times
        return Price(operations(reduction=size), step(ONE, _log2(op.elements_in / op.elements_out)))

    return rule


def cumulative(op: Operation) -> Price:
    """A running reduction, one operation an element but the first."""
    size = op.size(op.equation.params["axis"])
    work = operations(reduction=op.elements_in - op.elements_in / size)
    return Price(work, step(ONE, _log2(size)))


def windowed(op: Operation) -> Price:
    """A reduction of each window."""
    window = functools.reduce(lambda a, b: a * b, op.equation.params["window_dimensions"], ONE)
    work = operations(reduction=op.elements_out * (window - 1))
    return Price(work, step(ONE, _log2(window)))


def selected_in_windows(op: Operation) -> Price:
    """Each window is searched, and one element of it takes part."""
    window = functools.reduce(lambda a, b: a * b, op.equation.params["window_dimensions"], ONE)
    work = operations(reduction=op.elements_in * window)
    return Price(work, step(ONE, ONE + _log2(window)))


def dot_general(op: Operation) -> Price:
    """2·m·k·n for each element of the batch."""
    (contracted, _), _ = op.equation.params["dimension_numbers"]
    size = functools.reduce(lambda total, axis: total * op.size(axis), contracted, ONE)
    work = operations(matmul=2 * op.elements_out * size)
    return Price(work, step(ONE, ONE + _log2(size)))


def ragged_dot(op: Operation) -> Price:
    """2·m·k·n: each row is multiplied by the matrix of its group."""
    size = op.size(len(op.inputs[0].shape) - 1)
    return Price(
        operations(matmul=2 * op.elements_out * size),
        step(ONE, ONE + _log2(size)),
        "each row of a ragged product meets one group, and contracts its last axis",
    )


def convolution(op: Operation) -> Price:
    """Two operations for each product of an input element and a kernel element; no padding."""
    met, taps = products(op.inputs[0], op.inputs[1], op.outputs[0], op.equation)
    return Price(operations(matmul=2 * met), step(ONE, ONE + _log2(taps)))


def scattered(op: Operation) -> Price:
    """One operation for each update."""
    updates = count(op.inputs[2].shape)
    return placed(op)._replace(work=operations(elementwise=updates), chain=step())


def stored(op: Operation) -> Price:
    """One operation for each element that is added to what is stored."""
    added = count(op.inputs[1].shape)
    return placed(op)._replace(work=operations(elementwise=added), chain=step())


def sorted_(op: Operation) -> Price:
    """N ⌈log₂ n⌉ comparisons of each line, in ⌈log₂ n⌉ stages that are merged in parallel."""
    rounds = _log2(op.size(op.equation.params["dimension"]))
    return Price(operations(other=op.elements_in * rounds), step(ONE, rounds))


def top_k(op: Operation) -> Price:
    """A comparison of each element with a heap of k."""
    rounds = _log2(Expression(op.equation.params["k"])) + 1
    return Price(
        operations(other=op.elements_in * rounds),
        step(ONE, _log2(op.size(len(op.inputs[0].shape) - 1))),
        "top_k keeps a heap: ⌈log₂ k⌉ + 1 comparisons an element",
    )


def fourier(op: Operation) -> Price:
    """8·N·log₂ N for N the larger of input and output, as XLA counts it."""
    rounds = sum((_log2(size_of(n)) for n in op.equation.params["fft_lengths"]), ZERO)
    real = "complex" not in str(op.inputs[0].dtype)
    size = op.elements_in if real else op.elements_out
    return Price(operations(other=8 * size * rounds), step(ONE, rounds))


def random_bits(op: Operation) -> Price:
    """Threefry-2x32: twenty rounds of five operations and fifteen for the keys, for two words."""
    words = op.elements_out * max(1, item_bytes(op.outputs[-1].dtype) // 4)
    work = operations(elementwise=58 * words)
    return Price(work, step(), "random bits cost 58 operations for each 32-bit word (Threefry)")


def linear_algebra(op: Operation) -> Price:
    """The count of the standard algorithm, and a chain of one stage for each column."""
    each, columns = COUNTS[op.name](op.inputs, op.outputs), stages(op.inputs)
    work = operations(other=batch(op.inputs[0]) * each)
    note = f"{op.name}: {each} operations a matrix, as in the standard algorithm"
    return Price(work, step(ONE, columns * (ONE + _log2(columns))), note)


def reduced_by_program(op: Operation) -> Price:
    """Each combination runs the equations of the reduction's own program."""
    equations = sum(len(opened(program).eqns) for program in held(op.equation))
    size = (op.elements_in - op.elements_out) * equations
    return Price(operations(reduction=size), step(ONE, _log2(op.elements_in / op.elements_out)))


def communicated(op: Operation) -> Price:
    """One operation for each element that devices combine."""
    note = f"{op.name}: one operation for each element that a device contributes"
    return Price(operations(reduction=_elements(op.inputs)), step(), note)


def unknown(op: Operation) -> Price:
    """One operation for each element written."""
    assumed = "is not known: one operation assumed for each element it writes"
    work = operations(other=_elements(op.outputs))
    return Price(work, step(), f"primitive {op.name!r} {assumed}")


def _elements(arrays: Sequence[Aval]) -> Expression:
    return sum((count(array.shape) for array in arrays), ZERO)
