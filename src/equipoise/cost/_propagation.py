"""How each primitive moves dependencies from its operands to its results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equipoise.cost._contributions import (
    Rule,
    bilinear,
    bind,
    by_level,
    convolution,
    matrix_product,
    windowed,
)
from equipoise.cost._reach import FAR, NONE, Reach, anything, lift, make, numeric, unknown

ELEMENTWISE = """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
    digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
    integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not or
    polygamma population_count pow random_gamma_grad real reduce_precision
    regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta"""
# What keeps a very negative number very negative, in the nominal arithmetic with −∞.
KEEPS_FAR = ("add", "add_any", "sub", "mul", "div", "convert_element_type", "copy", "name")
VANISHES_FAR = ("exp", "exp2", "logistic")


def elementwise(eqn: Any, xs: list[Any], n: int) -> list[Any]:
    """Each element reads the same element of every operand; 0·x and masks read nothing."""
    name = eqn.primitive.name
    a = [lift(x, n) for x in xs]
    shape = eqn.outvars[0].aval.shape
    known = np.broadcast_to(
        np.logical_and.reduce(np.broadcast_arrays(*(x.known for x in a))), shape
    )
    steps = a[0].steps
    for x in a[1:]:
        steps = np.minimum(steps, x.steps)
    dtype, far = numeric(eqn.outvars[0].aval.dtype), np.zeros(shape, bool)
    idle = not any(x.known.any() or x.far.any() for x in a)
    value = np.zeros(shape, dtype) if idle else np.asarray(bind(eqn, *(x.value for x in a)))
    if name in ("mul", "and", "div"):
        absorbed = a[0].zero if name == "div" else a[0].zero | a[1].zero
        known, value = known | absorbed, np.where(absorbed, np.zeros((), value.dtype), value)
    elif name == "or" and value.dtype == bool:
        known = known | (a[0].known & a[0].value) | (a[1].known & a[1].value)
    elif name in VANISHES_FAR:
        known = known | a[0].far
    elif name == "max":
        steps = np.minimum(*(_unless(x.far & ~_low(y), x.steps) for x, y in (a, a[::-1])))
        far = _low(a[0]) & _low(a[1])
    if name in KEEPS_FAR and value.dtype.kind not in ("b", "u", "i", "c"):
        far = value <= FAR
    return [
        make(value, np.broadcast_to(known, shape), np.broadcast_to(steps, (*shape, n)), far=far)
    ]


def _low(x: Reach) -> np.ndarray:
    """Which elements lie below every moderate number."""
    below: np.ndarray = x.far | (x.known & (x.value <= FAR))
    return below


def _unless(drop: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.where(drop[..., None], NONE, steps)


def select(eqn: Any, xs: list[Any], n: int) -> list[Any]:
    """A known predicate reads one case; an unknown one reads itself and every case."""
    which, *cases = [lift(x, n) for x in xs]
    shape = cases[0].shape
    index = np.broadcast_to(which.value, shape).astype(np.int64)[None]
    chosen_known = np.broadcast_to(which.known, shape)

    def chosen(arrays: list[np.ndarray]) -> np.ndarray:
        return np.asarray(np.take_along_axis(np.stack(arrays), index, axis=0)[0])

    stacked = np.stack([case.steps for case in cases])
    picked = np.take_along_axis(stacked, index[..., None], axis=0)[0]
    any_case = np.minimum(stacked.min(axis=0), np.broadcast_to(which.steps, (*shape, n)))
    known = chosen_known & chosen([case.known for case in cases])
    far = np.where(
        chosen_known,
        chosen([case.far for case in cases]),
        np.logical_and.reduce([_low(case) for case in cases]),
    )
    steps = np.where(chosen_known[..., None], picked, any_case)
    return [make(chosen([case.value for case in cases]), known, steps, far=far)]


def moved(data: int | None = None) -> Rule:
    """Results are elements of the first ``data`` operands: the primitive moves their numbers."""

    def rule(eqn: Any, xs: list[Any], n: int) -> list[Any] | None:
        count = len(xs) if data is None else data
        if any(isinstance(x, Reach) for x in xs[count:]):
            return None
        a = [lift(x, n) for x in xs[:count]]
        start, tokens = 0, []
        for x in a:
            size = x.known.size
            tokens.append(np.arange(start, start + size, dtype=np.int32).reshape(x.shape))
            start += size
        changes = {"fill_value": -1} if "fill_value" in eqn.params else {}
        found = bind(eqn, *tokens, *xs[count:], **changes)
        results = found if eqn.primitive.multiple_results else [found]
        # One more element at the end stands for what lies out of bounds.
        dtype = a[0].value.dtype
        fill = np.asarray(np.nan if dtype.kind not in ("b", "u", "i") else 0, dtype)
        value = np.concatenate([*(x.value.ravel() for x in a), fill[None]])
        known = np.concatenate([*(x.known.ravel() for x in a), [True]])
        steps = np.concatenate([*(x.steps.reshape(-1, n) for x in a), np.full((1, n), NONE)])
        far = np.concatenate([*(x.far.ravel() for x in a), [False]])
        outputs = []
        for result in results:
            at = np.asarray(result)
            at = np.where(at < 0, start, at)
            outputs.append(make(value[at], known[at], steps[at], far=far[at]))
        return outputs

    return rule


def scattered(eqn: Any, xs: list[Any], n: int) -> list[Any] | None:
    """Updates replace elements (``scatter``) or join them (``scatter-add`` and its like)."""
    operand, indices, updates = xs
    if isinstance(indices, Reach):
        return None
    a, b = lift(operand, n), lift(updates, n)
    options = {"dimension_numbers": eqn.params["dimension_numbers"], "mode": eqn.params["mode"]}

    def touch(sets: np.ndarray) -> np.ndarray:
        def place(indicator: Any) -> Any:
            return jax.lax.scatter_add(
                jnp.zeros(a.shape, jnp.float32), indices, indicator, **options
            )

        return np.asarray(jax.vmap(place)(jnp.asarray(sets, jnp.float32))) > 0

    replaced = touch(np.ones((1, *b.shape)))[0] & (eqn.primitive.name == "scatter")
    known = (a.known | replaced) & ~touch((~b.known)[None])[0]
    steps = np.minimum(_unless(replaced, a.steps), by_level(b.steps, touch))
    return [make(bind(eqn, a.value, indices, b.value), known, steps)]


def reduced(eqn: Any, xs: list[Any], n: int) -> list[Any]:
    """Each result reads the elements that it sums over; a maximum skips the masked ones."""
    axes = tuple(eqn.params.get("axes", eqn.params.get("dimensions", ())))
    a = [lift(x, n) for x in xs]
    steps, known = a[0].steps, a[0].known
    far: Any = False
    for x in a[1:]:
        steps, known = np.minimum(steps, x.steps), known & x.known
    if eqn.primitive.name in ("reduce_max", "argmax"):
        low = _low(a[0])
        all_low = low.all(axis=axes, keepdims=True)
        steps = _unless(a[0].far & ~all_low, steps)
        far = all_low.all(axis=axes)
    all_known = np.asarray(known.all(axis=axes))
    values = bind(eqn, *(x.value for x in a))
    results = values if eqn.primitive.multiple_results else [values]
    keeps = eqn.primitive.name == "reduce_max"
    return [make(value, all_known, steps.min(axis=axes), far=far & keeps) for value in results]


def cumulative(eqn: Any, xs: list[Any], n: int) -> list[Any]:
    """Each result reads the elements up to it."""
    a, axis = lift(xs[0], n), eqn.params["axis"]
    turn = slice(None, None, -1 if eqn.params["reverse"] else 1)
    where = (slice(None),) * axis + (turn,)
    steps = np.minimum.accumulate(a.steps[where], axis=axis)[where]
    known = np.logical_and.accumulate(a.known[where], axis=axis)[where]
    return [make(bind(eqn, a.value), known, steps)]


def mixed(axes: Callable[[Any], int]) -> Rule:
    """Results read every element of the trailing axes, and of equal batch indices."""

    def rule(eqn: Any, xs: list[Any], n: int) -> list[Any]:
        count = axes(eqn)
        steps = None
        for x in (lift(x, n) for x in xs):
            trailing = tuple(range(len(x.shape) - count, len(x.shape)))
            own = x.steps.min(axis=trailing)
            steps = own if steps is None else np.minimum(steps, own)
        assert steps is not None
        outputs = []
        for variable in eqn.outvars:
            shape = variable.aval.shape
            extra = len(shape) - (steps.ndim - 1)
            own = steps.reshape(*steps.shape[:-1], *(1,) * extra, n)
            outputs.append(unknown(shape, variable.aval.dtype, own))
        return outputs

    return rule


def along(parameter: str) -> Rule:
    """Results read all elements of one axis, of every operand: sorting and its like."""

    def rule(eqn: Any, xs: list[Any], n: int) -> list[Any]:
        a = [lift(x, n) for x in xs]
        axis = eqn.params.get(parameter, -1) % len(a[0].shape)
        steps = np.minimum.reduce([x.steps for x in a]).min(axis=axis, keepdims=True)
        return [unknown(v.aval.shape, v.aval.dtype, steps) for v in eqn.outvars]

    return rule


def identity(eqn: Any, xs: list[Any], n: int) -> list[Any]:
    """Every result is its operand."""
    return list(xs)


def everything(eqn: Any, xs: list[Any], n: int) -> list[Any]:
    """What is always true: every element of every result reads all that any operand reads."""
    steps = anything(xs, n)
    return [unknown(v.aval.shape, v.aval.dtype, steps) for v in eqn.outvars]


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_table(elementwise, ELEMENTWISE),
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
    **_table(mixed(lambda eqn: len(eqn.params["fft_lengths"])), "fft"),
    **_table(mixed(lambda eqn: 2), "cholesky triangular_solve lu qr eigh svd householder_product"),
    **_table(identity, "optimization_barrier device_put sharding_constraint pvary"),
}
