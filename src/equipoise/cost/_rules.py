"""The cost of one primitive, for every primitive that is no control flow: one table.

The conventions are XLA's, so that totals can be compared with its own analysis of the program
before optimization: a product of matrices is 2·m·k·n, arithmetic on integers and Booleans counts
like arithmetic on floating-point numbers, and moving data counts nothing. Where XLA has no figure
(linear algebra is a library call) the textbook count is used, and the result says so.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from equipoise.cost import _convolution, _linear_algebra, _shapes
from equipoise.cost._depth import EMPTY, Chain, step
from equipoise.cost._expression import ONE, ZERO, Expression, apply
from equipoise.cost._work import NOTHING, Work, operations


class Operation(NamedTuple):
    """A primitive applied: its parameters and the shapes of what it reads and writes."""

    name: str
    inputs: list[Any]
    outputs: list[Any]
    params: dict[str, Any]

    @property
    def elements_in(self) -> Expression:
        """Elements of the first operand."""
        return _shapes.count(self.inputs[0].shape) if self.inputs else ZERO

    @property
    def elements_out(self) -> Expression:
        """Elements of the first result."""
        return _shapes.count(self.outputs[0].shape)

    def size(self, axis: int, operand: int = 0) -> Expression:
        """The size of one axis of an operand."""
        return _shapes.expression(self.inputs[operand].shape[axis])


class Cost(NamedTuple):
    """What one primitive costs; ``note`` states what was assumed."""

    work: Work = NOTHING
    chain: Chain = EMPTY
    note: str = ""
    # Bytes read and written, where those are not all of the operands and results.
    moved: tuple[Expression, Expression] | None = None
    # Whether the result may be written over an operand of the same size.
    in_place: bool = False


Rule = Callable[[Operation], Cost]


def log2(value: Expression) -> Expression:
    """⌈log₂ value⌉: the steps in which so many numbers can be combined in pairs."""
    return apply("ceil_log2", value)


def elementwise(times: int = 1, transcendental: int = 0) -> Rule:
    """So many operations for each element of the result, one deep."""

    def rule(op: Operation) -> Cost:
        size = op.elements_out
        work = operations(elementwise=size * times, transcendental=size * transcendental)
        return Cost(work, step(), in_place=True)

    return rule


def moved(op: Operation) -> Cost:
    """Data is copied: no operation, no depth."""
    return Cost()


def renamed(op: Operation) -> Cost:
    """The same bytes under another shape: nothing is done."""
    return Cost(moved=(ZERO, ZERO))


def picked(op: Operation) -> Cost:
    """Only what is picked is read, beside the indices."""
    taken = sum(map(_shapes.array_bytes, op.outputs), ZERO)
    indices = sum(map(_shapes.array_bytes, op.inputs[1:]), ZERO)
    return Cost(moved=(taken + indices, taken))


def placed(op: Operation) -> Cost:
    """Only what is placed is read and written, beside the indices."""
    update = op.inputs[2 if op.name.startswith("scatter") else 1]
    read = sum(map(_shapes.array_bytes, op.inputs[1:]), ZERO)
    return Cost(moved=(read, _shapes.array_bytes(update)), in_place=True)


def converted(op: Operation) -> Cost:
    """One operation an element, as XLA counts it, but no link in a chain."""
    return Cost(operations(elementwise=op.elements_out), in_place=True)


def integer_power(op: Operation) -> Cost:
    """Multiplications by repeated squaring, and a division for a negative power."""
    power = abs(op.params["y"])
    squarings = power.bit_length() - 1 + power.bit_count() - 1 if power else 0
    times = squarings + (op.params["y"] < 0)
    return Cost(operations(elementwise=op.elements_out * times), step())


def reduced(times: int = 1) -> Rule:
    """One operation fewer than the elements that go into each result."""

    def rule(op: Operation) -> Cost:
        size = (op.elements_in - op.elements_out) * times
        return Cost(operations(reduction=size), step(ONE, log2(op.elements_in / op.elements_out)))

    return rule


def cumulative(op: Operation) -> Cost:
    """A running reduction, one operation an element but the first."""
    size = op.size(op.params["axis"])
    work = operations(reduction=op.elements_in - op.elements_in / size)
    return Cost(work, step(ONE, log2(size)))


def windowed(op: Operation) -> Cost:
    """A reduction of each window."""
    window = functools.reduce(lambda a, b: a * b, op.params["window_dimensions"], ONE)
    work = operations(reduction=op.elements_out * (window - 1))
    return Cost(work, step(ONE, log2(window)))


def selected_in_windows(op: Operation) -> Cost:
    """Each window is searched, and one element of it takes part."""
    window = functools.reduce(lambda a, b: a * b, op.params["window_dimensions"], ONE)
    work = operations(reduction=op.elements_in * window)
    return Cost(work, step(ONE, ONE + log2(window)))


def dot_general(op: Operation) -> Cost:
    """2·m·k·n for each element of the batch."""
    (contracted, _), _ = op.params["dimension_numbers"]
    size = functools.reduce(lambda total, axis: total * op.size(axis), contracted, ONE)
    work = operations(matmul=2 * op.elements_out * size)
    return Cost(work, step(ONE, ONE + log2(size)))


def ragged_dot(op: Operation) -> Cost:
    """2·m·k·n: each row is multiplied by the matrix of its group."""
    size = op.size(len(op.inputs[0].shape) - 1)
    return Cost(
        operations(matmul=2 * op.elements_out * size),
        step(ONE, ONE + log2(size)),
        "each row of a ragged product meets one group, and contracts its last axis",
    )


def convolution(op: Operation) -> Cost:
    """Two operations for each product of an input element and a kernel element; no padding."""
    products, taps = _convolution.products(op.inputs[0], op.inputs[1], op.outputs[0], op.params)
    return Cost(operations(matmul=2 * products), step(ONE, ONE + log2(taps)))


def scattered(op: Operation) -> Cost:
    """One operation for each update."""
    updates = _shapes.count(op.inputs[2].shape)
    return placed(op)._replace(work=operations(elementwise=updates), chain=step())


def sorted_(op: Operation) -> Cost:
    """N ⌈log₂ n⌉ comparisons of each line, in ⌈log₂ n⌉ stages that are merged in parallel."""
    rounds = log2(op.size(op.params["dimension"]))
    return Cost(operations(other=op.elements_in * rounds), step(ONE, rounds))


def top_k(op: Operation) -> Cost:
    """A comparison of each element with a heap of k."""
    rounds = log2(Expression(op.params["k"])) + 1
    return Cost(
        operations(other=op.elements_in * rounds),
        step(ONE, log2(op.size(len(op.inputs[0].shape) - 1))),
        "top_k keeps a heap: ⌈log₂ k⌉ + 1 comparisons an element",
    )


def fourier(op: Operation) -> Cost:
    """8·N·log₂ N for N the larger of input and output, as XLA counts it."""
    rounds = sum((log2(_shapes.expression(n)) for n in op.params["fft_lengths"]), ZERO)
    real = "complex" not in str(op.inputs[0].dtype)
    size = op.elements_in if real else op.elements_out
    return Cost(operations(other=8 * size * rounds), step(ONE, rounds))


def random_bits(op: Operation) -> Cost:
    """Threefry-2x32: twenty rounds of five operations and fifteen for the keys, for two words."""
    words = op.elements_out * max(1, _shapes.item_bytes(op.outputs[-1].dtype) // 4)
    work = operations(elementwise=58 * words)
    return Cost(work, step(), "random bits cost 58 operations for each 32-bit word (Threefry)")


def linear_algebra(op: Operation) -> Cost:
    """The count of the standard algorithm, and a chain of one stage for each column."""
    count = _linear_algebra.COUNTS[op.name](op.inputs, op.outputs)
    stages = _linear_algebra.stages(op.inputs)
    work = operations(other=_linear_algebra.batch(op.inputs[0]) * count)
    note = f"{op.name}: {count} operations a matrix, as in the standard algorithm"
    return Cost(work, step(ONE, stages * (ONE + log2(stages))), note)


def reduced_by_program(op: Operation) -> Cost:
    """Each combination runs the equations of the reduction's own program."""
    equations = len(getattr(op.params["jaxpr"], "jaxpr", op.params["jaxpr"]).eqns)
    size = (op.elements_in - op.elements_out) * equations
    return Cost(operations(reduction=size), step(ONE, log2(op.elements_in / op.elements_out)))


def communicated(op: Operation) -> Cost:
    """One operation for each element that devices combine."""
    size = sum((_shapes.count(aval.shape) for aval in op.inputs), ZERO)
    return Cost(
        operations(reduction=size),
        step(),
        f"{op.name}: one operation for each element that a device contributes",
    )


def unknown(op: Operation) -> Cost:
    """One operation for each element written."""
    size = sum((_shapes.count(aval.shape) for aval in op.outputs if hasattr(aval, "shape")), ZERO)
    return Cost(
        operations(other=size),
        step(),
        f"primitive {op.name!r} is not known: one operation assumed for each element it writes",
    )


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


# Results that share the memory of their operand.
RENAMED = ("reshape", "squeeze", "expand_dims", "stop_gradient", "bitcast_convert_type")

RULES: dict[str, Rule] = {
    **_table(
        elementwise(),
        "abs add add_any and atan2_grad clamp clz complex conj div eq eq_to floor ceil ge gt imag "
        "is_finite le le_to lt lt_to max min mul ne neg not or population_count real "
        "reduce_precision rem round select_n shift_left shift_right_arithmetic "
        "shift_right_logical sign square sub xor",
    ),
    **_table(elementwise(2), "one_minus_square mul_add"),
    **_table(elementwise(24), "nextafter"),
    **_table(
        elementwise(0, 1),
        "acosh asinh atan atan2 atanh cbrt cos cosh erf erfc exp expm1 log log1p pow rsqrt sin "
        "sqrt tan tanh",
    ),
    **_table(elementwise(1, 1), "exp2"),
    **_table(elementwise(3, 1), "logistic"),
    **_table(elementwise(5, 2), "asin"),
    **_table(elementwise(3, 2), "acos"),
    **_table(elementwise(10, 3), "sinh"),
    **_table(elementwise(37, 2), "erf_inv"),
    **_table(elementwise(53, 4), "lgamma"),
    **_table(elementwise(73, 3), "digamma"),
    **_table(integer_power, "integer_pow"),
    **_table(converted, "convert_element_type"),
    **_table(renamed, " ".join(RENAMED)),
    **_table(picked, "gather slice dynamic_slice split unstack"),
    **_table(placed, "dynamic_update_slice scatter"),
    **_table(
        moved,
        "axis_index broadcast broadcast_in_dim concatenate copy copy_p create_token device_put "
        "empty full iota mesh_cast optimization_barrier pad pbroadcast platform_index pvary "
        "random_unwrap random_wrap reshard rev sharding_constraint tile transpose "
        "all_gather all_to_all ppermute psend precv",
    ),
    **_table(
        reduced(), "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor"
    ),
    # XLA carries value and index: four comparisons, three logical operations and two selections.
    **_table(reduced(9), "argmax argmin"),
    **_table(cumulative, "cumsum cumprod cummax cummin cumlogsumexp"),
    **_table(windowed, "reduce_window_sum reduce_window_max reduce_window_min reduce_window"),
    **_table(selected_in_windows, "select_and_scatter_add select_and_gather_add"),
    **_table(dot_general, "dot_general"),
    **_table(ragged_dot, "ragged_dot ragged_dot_general"),
    **_table(convolution, "conv_general_dilated"),
    **_table(scattered, "scatter-add scatter-mul scatter-min scatter-max scatter-sub"),
    **_table(linear_algebra, " ".join(_linear_algebra.COUNTS)),
    **_table(reduced_by_program, "reduce"),
    **_table(communicated, "psum psum2 psum_invariant pmax pmin reduce_scatter psum_scatter"),
    **_table(sorted_, "sort"),
    **_table(top_k, "top_k approx_top_k"),
    **_table(fourier, "fft"),
    **_table(random_bits, "random_bits random_seed random_fold_in random_split threefry2x32"),
}


def cost(op: Operation) -> Cost:
    """The cost of a primitive by its rule, or by the stated assumption where it has none."""
    return RULES.get(op.name, unknown)(op)
