"""How each primitive moves dependencies from its operands to its results."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.programs import Aval, Equation, aval, rank
from equipoise._types import Array
from equipoise.cost._reads.contributions import (
    Rule,
    by_level,
    evaluate,
    result,
    value_of,
)
from equipoise.cost._reads.reach import (
    FAR,
    NONE,
    Reach,
    Value,
    anything,
    lift,
    make,
    numeric,
    unknown,
)

# What keeps a very negative number very negative, in the nominal arithmetic with −∞.
_KEEPS_FAR = ("add", "add_any", "sub", "mul", "div", "convert_element_type", "copy", "name")
_VANISHES_FAR = ("exp", "exp2", "logistic")


def elementwise(equation: Equation, xs: list[Value], n: int) -> list[Value]:
    """Each element reads the same element of every operand; 0·x and masks read nothing."""
    name = equation.primitive.name
    a = [lift(x, n) for x in xs]
    shape, dtype = result(equation)
    known = np.broadcast_to(
        np.logical_and.reduce(np.broadcast_arrays(*(x.known for x in a))), shape
    )
    steps = a[0].steps
    for x in a[1:]:
        steps = np.minimum(steps, x.steps)
    far = np.zeros(shape, bool)
    idle = not any(x.known.any() or x.far.any() for x in a)
    value = np.zeros(shape, numeric(dtype))
    if not idle:
        value = value_of(equation, *(x.value for x in a))
    if name in ("mul", "and", "div"):
        absorbed = a[0].zero if name == "div" else a[0].zero | a[1].zero
        known, value = known | absorbed, np.where(absorbed, np.zeros((), value.dtype), value)
    elif name == "or" and value.dtype == bool:
        known = known | (a[0].known & a[0].value) | (a[1].known & a[1].value)
    elif name in _VANISHES_FAR:
        known = known | a[0].far
    elif name == "max":
        steps = np.minimum(*(_unless(x.far & ~_low(y), x.steps) for x, y in (a, a[::-1])))
        far = _low(a[0]) & _low(a[1])
    if name in _KEEPS_FAR and value.dtype.kind not in ("b", "u", "i", "c"):
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


def select(equation: Equation, xs: list[Value], n: int) -> list[Value]:
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

    def rule(equation: Equation, xs: list[Value], n: int) -> list[Value] | None:
        count = len(xs) if data is None else data
        indices = [x for x in xs[count:] if not isinstance(x, Reach)]
        if len(indices) < len(xs) - count:
            return None
        a = [lift(x, n) for x in xs[:count]]
        start, tokens = 0, []
        for x in a:
            size = x.known.size
            tokens.append(np.arange(start, start + size, dtype=np.int32).reshape(x.shape))
            start += size
        changes = {"fill_value": -1} if "fill_value" in equation.params else {}
        results = evaluate(equation, *tokens, *indices, **changes)
        # One more element at the end stands for what lies out of bounds.
        dtype = a[0].value.dtype
        fill = np.asarray(np.nan if dtype.kind not in ("b", "u", "i") else 0, dtype)
        value = np.concatenate([*(x.value.ravel() for x in a), fill[None]])
        known = np.concatenate([*(x.known.ravel() for x in a), [True]])
        steps = np.concatenate([*(x.steps.reshape(-1, n) for x in a), np.full((1, n), NONE)])
        far = np.concatenate([*(x.far.ravel() for x in a), [False]])
        outputs = []
        for found in results:
            at = np.where(found < 0, start, found)
            outputs.append(make(value[at], known[at], steps[at], far=far[at]))
        return outputs

    return rule


def scattered(equation: Equation, xs: list[Value], n: int) -> list[Value] | None:
    """Updates replace elements (``scatter``) or join them (``scatter-add`` and its like)."""
    operand, indices, updates = xs
    if isinstance(indices, Reach):
        return None
    a, b = lift(operand, n), lift(updates, n)
    options = {
        "dimension_numbers": equation.params["dimension_numbers"],
        "mode": equation.params["mode"],
    }

    def touch(sets: np.ndarray) -> np.ndarray:
        def place(indicator: Array) -> Array:
            return jax.lax.scatter_add(
                jnp.zeros(a.shape, jnp.float32), indices, indicator, **options
            )

        return np.asarray(jax.vmap(place)(jnp.asarray(sets, jnp.float32))) > 0

    replaced = touch(np.ones((1, *b.shape)))[0] & (equation.primitive.name == "scatter")
    known = (a.known | replaced) & ~touch((~b.known)[None])[0]
    steps = np.minimum(_unless(replaced, a.steps), by_level(b.steps, touch))
    return [make(value_of(equation, a.value, indices, b.value), known, steps)]


def reduced(equation: Equation, xs: list[Value], n: int) -> list[Value]:
    """Each result reads the elements that it sums over; a maximum skips the masked ones."""
    axes = tuple(equation.params.get("axes", equation.params.get("dimensions", ())))
    a = [lift(x, n) for x in xs]
    steps, known = a[0].steps, a[0].known
    far: np.ndarray = np.zeros((), bool)
    for x in a[1:]:
        steps, known = np.minimum(steps, x.steps), known & x.known
    if equation.primitive.name in ("reduce_max", "argmax"):
        low = _low(a[0])
        all_low = low.all(axis=axes, keepdims=True)
        steps = _unless(a[0].far & ~all_low, steps)
        far = np.asarray(all_low.all(axis=axes))
    all_known = np.asarray(known.all(axis=axes))
    results = evaluate(equation, *(x.value for x in a))
    keeps = equation.primitive.name == "reduce_max"
    return [make(value, all_known, steps.min(axis=axes), far=far & keeps) for value in results]


def cumulative(equation: Equation, xs: list[Value], n: int) -> list[Value]:
    """Each result reads the elements up to it."""
    a, axis = lift(xs[0], n), equation.params["axis"]
    turn = slice(None, None, -1 if equation.params["reverse"] else 1)
    where = (slice(None),) * axis + (turn,)
    steps = np.minimum.accumulate(a.steps[where], axis=axis)[where]
    known = np.logical_and.accumulate(a.known[where], axis=axis)[where]
    return [make(value_of(equation, a.value), known, steps)]


def mixed(axes: Callable[[Equation], int]) -> Rule:
    """Results read every element of the trailing axes, and of equal batch indices."""

    def rule(equation: Equation, xs: list[Value], n: int) -> list[Value]:
        count = axes(equation)
        steps = None
        for x in (lift(x, n) for x in xs):
            trailing = tuple(range(len(x.shape) - count, len(x.shape)))
            own = x.steps.min(axis=trailing)
            steps = own if steps is None else np.minimum(steps, own)
        assert steps is not None
        outputs: list[Value] = []
        for variable in equation.outvars:
            extra = rank(variable) - (steps.ndim - 1)
            own = steps.reshape(*steps.shape[:-1], *(1,) * extra, n)
            outputs.append(_unknown(aval(variable), own))
        return outputs

    return rule


def along(parameter: str) -> Rule:
    """Results read all elements of one axis, of every operand: sorting and its like."""

    def rule(equation: Equation, xs: list[Value], n: int) -> list[Value]:
        a = [lift(x, n) for x in xs]
        axis = equation.params.get(parameter, -1) % len(a[0].shape)
        steps = np.minimum.reduce([x.steps for x in a]).min(axis=axis, keepdims=True)
        return [_unknown(aval(v), steps) for v in equation.outvars]

    return rule


def _unknown(like: Aval, steps: np.ndarray) -> Reach:
    return unknown(tuple(map(int, like.shape)), like.dtype, steps)


def identity(equation: Equation, xs: list[Value], n: int) -> list[Value]:
    """Every result is its operand."""
    return list(xs)


def everything(equation: Equation, xs: list[Value], n: int) -> list[Value]:
    """What is always true: every element of every result reads all that any operand reads."""
    steps = anything(xs, n)
    return [_unknown(aval(v), steps) for v in equation.outvars]
