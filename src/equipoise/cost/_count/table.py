"""The rule of every primitive that holds no program: one table."""

from equipoise.cost._count.linear_algebra import COUNTS
from equipoise.cost._count.operation import Operation, Price, Rule
from equipoise.cost._count.rules import (
    communicated,
    converted,
    convolution,
    cumulative,
    dot_general,
    elementwise,
    fourier,
    integer_power,
    linear_algebra,
    moved,
    picked,
    placed,
    ragged_dot,
    random_bits,
    reduced,
    reduced_by_program,
    renamed,
    scattered,
    selected_in_windows,
    sorted_,
    stored,
    top_k,
    unknown,
    windowed,
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
    **_table(picked, "get load masked_load gather slice dynamic_slice split unstack"),
    **_table(placed, "dynamic_update_slice scatter swap masked_swap"),
    **_table(
        moved,
        "axis_index program_id num_programs broadcast broadcast_in_dim concatenate copy copy_p "
        "create_token device_put "
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
    **_table(stored, "addupdate"),
    **_table(scattered, "scatter-add scatter-mul scatter-min scatter-max scatter-sub"),
    **_table(linear_algebra, " ".join(COUNTS)),
    **_table(reduced_by_program, "reduce"),
    **_table(communicated, "psum psum2 psum_invariant pmax pmin reduce_scatter psum_scatter"),
    **_table(sorted_, "sort"),
    **_table(top_k, "top_k approx_top_k"),
    **_table(fourier, "fft"),
    **_table(random_bits, "random_bits random_seed random_fold_in random_split threefry2x32"),
}


def price_of(op: Operation) -> Price:
    """The cost of a primitive by its rule, or by the stated assumption where it has none."""
    return RULES.get(op.name, unknown)(op)
