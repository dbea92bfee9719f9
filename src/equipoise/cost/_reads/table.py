"""How every known primitive moves dependencies: one table."""

from equipoise.cost._reads.contributions import (
    Rule,
    bilinear,
    convolution,
    matrix_product,
    windowed,
)
from equipoise.cost._reads.propagation import (
    along,
    cumulative,
    elementwise,
    identity,
    mixed,
    moved,
    reduced,
    scattered,
    select,
)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_ELEMENTWISE = """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
    digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
    integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not or
    polygamma population_count pow random_gamma_grad real reduce_precision
    regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta"""

RULES: dict[str, Rule] = {
    **_table(elementwise, _ELEMENTWISE),
    **_table(select, "select_n"),
    **_table(
        moved(),
        "broadcast_in_dim reshape transpose squeeze expand_dims slice rev concatenate pad split",
    ),
    **_table(moved(1), "gather dynamic_slice"),
    **_table(moved(2), "dynamic_update_slice"),
    **_table(scattered, "scatter scatter-add scatter-mul scatter-min scatter-max scatter-sub"),
    **_table(
        reduced,
        "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
        "argmax argmin",
    ),
    **_table(cumulative, "cumsum cumprod cummax cummin cumlogsumexp"),
    **_table(along("dimension"), "sort"),
    **_table(along("axis"), "top_k"),
    **_table(windowed, "reduce_window_sum reduce_window_max"),
    **_table(bilinear(matrix_product), "dot_general"),
    **_table(bilinear(convolution), "conv_general_dilated"),
    **_table(mixed(lambda equation: len(equation.params["fft_lengths"])), "fft"),
    **_table(
        mixed(lambda equation: 2), "cholesky triangular_solve lu qr eigh svd householder_product"
    ),
    **_table(identity, "optimization_barrier device_put sharding_constraint pvary"),
}
