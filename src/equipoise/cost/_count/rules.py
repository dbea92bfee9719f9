"""How much each primitive that holds no program computes, and how deep: one rule for each kind.

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
from equipoise.cost._count.operation import Operation, Price, Rule, entered
from equipoise.cost._count.work import operations
from equipoise.cost._expression.expression import ONE, ZERO, Expression, apply
from equipoise.cost._program.sizes import array_bytes, count, item_bytes, size_of

RULES: dict[str, Rule] = {}

# Results that share the memory of their operand.
RENAMED = ("reshape", "squeeze", "expand_dims", "stop_gradient", "bitcast_convert_type")

# Operations and transcendental functions for each element of the result, and whose they are.
_PER_ELEMENT = """
1 0 abs add add_any and atan2_grad clamp clz complex conj div eq eq_to floor ceil ge gt imag
1 0 is_finite le le_to lt lt_to max min mul ne neg not or population_count real reduce_precision
1 0 rem round select_n shift_left shift_right_arithmetic shift_right_logical sign square sub xor
2 0 one_minus_square mul_add
24 0 nextafter
0 1 acosh asinh atan atan2 atanh cbrt cos cosh erf erfc exp expm1 log log1p pow rsqrt sin sqrt
0 1 tan tanh
1 1 exp2
3 1 logistic
5 2 asin
3 2 acos
10 3 sinh
37 2 erf_inv
53 4 lgamma
73 3 digamma
"""
_OF_AN_ELEMENT = {
    name: (int(times), int(functions))
    for times, functions, *names in map(str.split, _PER_ELEMENT.strip().splitlines())
    for name in names
}

# Operations that compute each element of the result from the elements at its place.
ELEMENTWISE = " ".join(_OF_AN_ELEMENT) + (
    " convert_element_type copy copy_p integer_pow mesh_cast pbroadcast pvary stop_gradient"
    " reshard sharding_constraint threefry2x32"
)


def price_of(op: Operation) -> Price:
    """The cost of a primitive by its rule, or by the stated assumption where it has none."""
    return RULES.get(op.name, _unknown)(op)


def _log2(value: Expression) -> Expression:
    """⌈log₂ value⌉: the steps in which so many numbers can be combined in pairs."""
    return apply("ceil_log2", value)


@entered(RULES, " ".join(_OF_AN_ELEMENT))
def _elementwise(op: Operation) -> Price:
    """So many operations for each element of the result, one deep."""
    size, (times, functions) = op.elements_out, _OF_AN_ELEMENT[op.name]
    work = operations(elementwise=size * times, transcendental=size * functions)
    return Price(work, step(), in_place=True)


@entered(
    RULES,
    "axis_index program_id num_programs broadcast broadcast_in_dim concatenate copy copy_p "
    "create_token device_put empty full iota mesh_cast optimization_barrier pad pbroadcast "
    "platform_index pvary random_unwrap random_wrap reshard rev sharding_constraint tile "
    "transpose all_gather all_to_all ppermute psend precv",
)
def _moved(op: Operation) -> Price:
    """Data is copied: no operation, no depth."""
    return Price()


@entered(RULES, " ".join(RENAMED))
def _renamed(op: Operation) -> Price:
    """The same bytes under another shape: nothing is done."""
    return Price(moved=(ZERO, ZERO))


@entered(RULES, "get load masked_load gather slice dynamic_slice split unstack")
def _picked(op: Operation) -> Price:
    """Only what is picked is read, beside the indices."""
    taken = array_bytes(*op.outputs)
    indices = array_bytes(*op.inputs[1:])
    return Price(moved=(taken + indices, taken))


@entered(RULES, "dynamic_update_slice scatter swap masked_swap")
def _placed(op: Operation) -> Price:
    """Only what is placed is read and written, beside the indices."""
    moved = array_bytes(*op.inputs[1:]), array_bytes(_update(op))
    return Price(moved=moved, in_place=True)


def _update(op: Operation) -> Aval:
    return op.inputs[2 if op.name.startswith("scatter") else 1]


@entered(RULES, "convert_element_type")
def _converted(op: Operation) -> Price:
    """One operation an element, as XLA counts it, but no link in a chain."""
    return Price(operations(elementwise=op.elements_out), in_place=True)


@entered(RULES, "integer_pow")
def _integer_power(op: Operation) -> Price:
    """Multiplications by repeated squaring, and a division for a negative power."""
    power = abs(op.equation.params["y"])
    squarings = power.bit_length() - 1 + power.bit_count() - 1 if power else 0
    times = squarings + (op.equation.params["y"] < 0)
    return Price(operations(elementwise=op.elements_out * times), step())


@entered(RULES, "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor")
@entered(RULES, "argmax argmin")
def _reduced(op: Operation) -> Price:
    """One operation fewer than the elements that go into each result."""
    # XLA carries value and index: four comparisons, three logical operations and two selections.
    times = 9 if op.name in ("argmax", "argmin") else 1
    size = (op.elements_in - op.elements_out) * times
    return Price(operations(reduction=size), step(ONE, _log2(op.elements_in / op.elements_out)))


@entered(RULES, "cumsum cumprod cummax cummin cumlogsumexp")
def _cumulative(op: Operation) -> Price:
    """A running reduction, one operation an element but the first."""
    size = op.size(op.equation.params["axis"])
    work = operations(reduction=op.elements_in - op.elements_in / size)
    return Price(work, step(ONE, _log2(size)))


@entered(RULES, "reduce_window_sum reduce_window_max reduce_window_min reduce_window")
def _windowed(op: Operation) -> Price:
    """A reduction of each window."""
    window = functools.reduce(lambda a, b: a * b, op.equation.params["window_dimensions"], ONE)
    work = operations(reduction=op.elements_out * (window - 1))
    return Price(work, step(ONE, _log2(window)))


@entered(RULES, "select_and_scatter_add select_and_gather_add")
def _selected_in_windows(op: Operation) -> Price:
    """Each window is searched, and one element of it takes part."""
    window = functools.reduce(lambda a, b: a * b, op.equation.params["window_dimensions"], ONE)
    work = operations(reduction=op.elements_in * window)
    return Price(work, step(ONE, ONE + _log2(window)))


@entered(RULES, "dot_general")
def _dot_general(op: Operation) -> Price:
    """2·m·k·n for each element of the batch."""
    (contracted, _), _ = op.equation.params["dimension_numbers"]
    size = functools.reduce(lambda total, axis: total * op.size(axis), contracted, ONE)
    work = operations(matmul=2 * op.elements_out * size)
    return Price(work, step(ONE, ONE + _log2(size)))


@entered(RULES, "ragged_dot_general")
def _ragged_dot(op: Operation) -> Price:
    """2·m·k·n: each row meets the matrix of its group, or is summed into that of its group."""
    numbers = op.equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    size = functools.reduce(lambda total, axis: total * op.size(axis), contracted, ONE)
    meets = op.elements_out * size
    if set(numbers.lhs_ragged_dimensions) & set(contracted):  # groups share what is summed
        meets = meets / size_of(op.inputs[2].shape[-1])
    return Price(
        operations(matmul=2 * meets),
        step(ONE, ONE + _log2(size)),
        "each row of a ragged product belongs to one group",
    )


@entered(RULES, "conv_general_dilated")
def _convolution(op: Operation) -> Price:
    """Two operations for each product of an input element and a kernel element; no padding."""
    met, taps = products(op.inputs[0], op.inputs[1], op.outputs[0], op.equation)
    return Price(operations(matmul=2 * met), step(ONE, ONE + _log2(taps)))


@entered(RULES, "scatter-add scatter-mul scatter-min scatter-max scatter-sub addupdate")
def _combined(op: Operation) -> Price:
    """One operation for each element that meets what stands at its place."""
    work = operations(elementwise=count(_update(op).shape))
    return _placed(op)._replace(work=work, chain=step())


@entered(RULES, "sort")
def _sorted(op: Operation) -> Price:
    """N ⌈log₂ n⌉ comparisons of each line, in ⌈log₂ n⌉ stages that are merged in parallel."""
    rounds = _log2(op.size(op.equation.params["dimension"]))
    return Price(operations(other=op.elements_in * rounds), step(ONE, rounds))


@entered(RULES, "top_k approx_top_k")
def _top_k(op: Operation) -> Price:
    """A comparison of each element with a heap of k."""
    rounds = _log2(Expression(op.equation.params["k"])) + 1
    return Price(
        operations(other=op.elements_in * rounds),
        step(ONE, _log2(op.size(len(op.inputs[0].shape) - 1))),
        "top_k keeps a heap: ⌈log₂ k⌉ + 1 comparisons an element",
    )


@entered(RULES, "fft")
def _fourier(op: Operation) -> Price:
    """8·N·log₂ N for N the larger of input and output, as XLA counts it."""
    rounds = sum((_log2(size_of(n)) for n in op.equation.params["fft_lengths"]), ZERO)
    real = "complex" not in str(op.inputs[0].dtype)
    size = op.elements_in if real else op.elements_out
    return Price(operations(other=8 * size * rounds), step(ONE, rounds))


@entered(RULES, "random_bits random_seed random_fold_in random_split threefry2x32")
def _random_bits(op: Operation) -> Price:
    """Threefry-2x32: twenty rounds of five operations and fifteen for the keys, for two words."""
    words = op.elements_out * max(1, item_bytes(op.outputs[-1].dtype) // 4)
    work = operations(elementwise=58 * words)
    return Price(work, step(), "random bits cost 58 operations for each 32-bit word (Threefry)")


@entered(RULES, " ".join(COUNTS))
def _linear_algebra(op: Operation) -> Price:
    """The count of the standard algorithm, and a chain of one stage for each column."""
    each, columns = COUNTS[op.name](op.inputs, op.outputs), stages(op.inputs)
    work = operations(other=batch(op.inputs[0]) * each)
    note = f"{op.name}: {each} operations a matrix, as in the standard algorithm"
    return Price(work, step(ONE, columns * (ONE + _log2(columns))), note)


@entered(RULES, "reduce")
def _reduced_by_program(op: Operation) -> Price:
    """Each combination runs the equations of the reduction's own program."""
    equations = sum(len(opened(program).eqns) for program in held(op.equation))
    size = (op.elements_in - op.elements_out) * equations
    return Price(operations(reduction=size), step(ONE, _log2(op.elements_in / op.elements_out)))


@entered(RULES, "psum psum2 psum_invariant pmax pmin reduce_scatter psum_scatter")
def _communicated(op: Operation) -> Price:
    """One operation for each element that devices combine."""
    note = f"{op.name}: one operation for each element that a device contributes"
    return Price(operations(reduction=_elements(op.inputs)), step(), note)


def _unknown(op: Operation) -> Price:
    """One operation for each element written."""
    assumed = "is not known: one operation assumed for each element it writes"
    work = operations(other=_elements(op.outputs))
    return Price(work, step(), f"primitive {op.name!r} {assumed}")


def _elements(arrays: Sequence[Aval]) -> Expression:
    return sum((count(array.shape) for array in arrays), ZERO)
