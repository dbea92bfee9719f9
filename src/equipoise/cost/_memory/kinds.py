"""How each primitive is compiled: into the loop of another, into one of its own, or as a call.

And what XLA makes of its operands first: copies in another order of axes, memory that the result
takes over, programs that it runs inside.
"""

import enum
from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from equipoise._jax.meshes.collectives import collective
from equipoise._jax.meshes.shards import num_devices
from equipoise._jax.programs import (
    COND,
    KERNEL,
    SCAN,
    SHARD_MAP,
    SOLVE,
    WHILE,
    Atom,
    Equation,
    Program,
    Size,
    aval,
    branches,
    is_array,
    linear_solve,
    rank,
    scan,
    while_loop,
)
from equipoise.cost._expression.expression import Expression
from equipoise.cost._program.sizes import is_one, size_of

HOLDING = (SCAN, WHILE, COND, SOLVE, SHARD_MAP, KERNEL)
# Elementwise operations whose operands have other shapes, or other types, than the result.
_RESHAPING = "clamp concatenate convert_element_type dynamic_slice pad select_n slice split"
RESHAPING = tuple(_RESHAPING.split())


class Kind(enum.Enum):
    """How an operation is compiled."""

    SPREAD = "a broadcast: computed again wherever it is read"
    CHEAP = "computed again wherever it is read"
    DEAR = "computed once, in the loop of its one reader"
    PIECED = "computed in the loop of its one reader, where that reads it at one place"
    PRODUCT = "a call of a library, which a reduction takes in where nothing else reads it"
    FILLED = "the same number everywhere: written out for a window alone"
    REDUCTION = "a loop of its own, which takes in what it reads"
    WINDOW = "the same, by a library"
    COPY = "the same numbers in the order that a library wants, as soon as they are there"
    OPAQUE = "reads and writes memory"


_CHEAP = """
abs add add_any and ceil clamp complex conj convert_element_type copy
dynamic_slice eq eq_to floor ge gt imag integer_pow is_finite le le_to lt lt_to max min
mul ne neg not one_minus_square mul_add or population_count pvary real reduce_precision rev
round select_n shift_left shift_right_arithmetic shift_right_logical sign slice split square
sub transpose xor mesh_cast optimization_barrier sharding_constraint
"""
_SPREAD = "broadcast broadcast_in_dim full iota"
_DEAR = """
acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma div erf erf_inv erfc exp exp2 expm1
lgamma log log1p logistic pow rem rsqrt sin sinh sqrt tan tanh nextafter
"""
_REDUCTION = """
reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce
"""
_WINDOW = "reduce_window reduce_window_sum reduce_window_max reduce_window_min"
_UPDATE = "dynamic_update_slice scatter scatter-add scatter-mul scatter-min scatter-max scatter-sub"
KINDS = {
    name: kind
    for kind, names in (
        (Kind.SPREAD, _SPREAD),
        (Kind.CHEAP, _CHEAP),
        (Kind.DEAR, _DEAR),
        (Kind.PIECED, "concatenate pad"),
        (Kind.REDUCTION, _REDUCTION),
        (Kind.WINDOW, _WINDOW),
        (Kind.PRODUCT, "dot_general conv_general_dilated"),
    )
    for name in names.split()
}


_IN_LIBRARY = """
abs add add_any ceil cosh div erf exp exp2 expm1 floor integer_pow log log1p logistic max min mul
neg pow rsqrt sign sqrt square sub tanh broadcast broadcast_in_dim iota pad
reduce_sum reduce_max reduce_min reduce_window_sum reduce_window_max reduce_window_min
"""
_FEATURES = 16  # of a convolution, less than which are none either
_LEAST = 2  # axes of what has elements enough for a call of the library


def in_library(equation: Equation) -> bool:
    """Whether a library knows the operation, and takes it in with what surrounds it."""
    name, params = equation.primitive.name, equation.params
    arrays = [aval(v) for v in (*equation.invars, *equation.outvars) if is_array(v)]
    if any(a.dtype not in (jnp.float32, jnp.float64) for a in arrays):
        return False
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        return tuple(summed) == (rank(equation.invars[0]) - 1,)
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        in_order = not any(True for _ in reordered(equation)) and len(params["padding"]) == 2
        dilated = any(d != 1 for d in (*params["lhs_dilation"], *params["rhs_dilation"]))
        ends = equation.invars[0], equation.outvars[0]
        features = [size_of(aval(v).shape[numbers.lhs_spec[1]]).constant for v in ends]
        large = any(f is None or f > _FEATURES for f in features)
        return in_order and large and not dilated and params["batch_group_count"] == 1
    if name not in _IN_LIBRARY.split():
        return False
    axes = [sum(not is_one(size) for size in a.shape) for a in arrays]
    return name.startswith("broadcast") or max(axes) >= _LEAST


REDUCING = (Kind.REDUCTION, Kind.WINDOW)


def written_over(equation: Equation) -> Iterator[tuple[int, int]]:
    """Operands that a result may be written over, each with that result."""
    match equation.primitive.name:
        case "scan":
            layout = scan(equation)
            first, count = layout.num_constants, layout.num_carried
        case "while":
            loop = while_loop(equation)
            first = loop.num_test_constants + loop.num_body_constants
            count = len(equation.outvars)
        case "sort":
            first, count = 0, len(equation.outvars)
        case name:
            first, count = 0, int(name in _UPDATE.split())
    yield from ((first + i, i) for i in range(count))


def fills(atom: Atom, shape: Sequence[Size]) -> bool:
    """Whether an operand of an elementwise operation has the result's shape."""
    own = aval(atom).shape
    widened = any(is_one(a) and not is_one(b) for a, b in zip(own, shape, strict=False))
    return len(own) == len(shape) and not widened


def folds(equation: Equation) -> bool:
    """Whether it transposes a matrix, which products of matrices read as it lies."""
    return equation.primitive.name == "transpose" and rank(equation.invars[0]) == 2


def reordered(equation: Equation) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Operands of a product or convolution that are copied first, with the order of their axes."""
    if equation.primitive.name == "dot_general":
        contracted, batch = equation.params["dimension_numbers"]
        first = tuple(range(len(batch[0])))
        ranks = [rank(v) for v in equation.invars]
        in_order = all(tuple(axes) == first for axes in batch)
        if in_order and len(contracted[0]) == 1 and max(ranks) <= len(first) + 2:
            return
        for i, own in enumerate(ranks):
            rest = [a for a in range(own) if a not in (*batch[i], *contracted[i])]
            inner = [*rest, *contracted[i]] if i == 0 else [*contracted[i], *rest]
            order = (*batch[i], *inner)
            if own > 2 and order != tuple(range(own)):
                yield i, order
    if equation.primitive.name == "conv_general_dilated":
        numbers, last = equation.params["dimension_numbers"], rank(equation.invars[0]) - 1
        if tuple(numbers.lhs_spec) != (0, last, *range(1, last)):
            yield 0, tuple(numbers.lhs_spec)
        if tuple(numbers.rhs_spec) != (last, last - 1, *range(last - 1)):
            yield 1, tuple(numbers.rhs_spec)


def is_flat(equation: Equation) -> bool:
    """Whether it is a product that is computed as one of matrices, its result in another shape."""
    if equation.primitive.name != "dot_general":
        return False
    return any(n != 1 for n in _kept(equation)) or any(map(is_one, aval(equation.outvars[0]).shape))


def flattened(equation: Equation, operands: Sequence[int]) -> Iterator[int]:
    """Operands of a product that are read as matrices and are none."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        for atom, v, kept in zip(equation.invars, operands, _kept(equation), strict=True):
            if kept != 1 or len(contracted) != 1 or any(map(is_one, aval(atom).shape)):
                yield v


def _kept(equation: Equation) -> Iterator[int]:
    """The axes of each operand of a product that are axes of its result alone."""
    contracted, batch = equation.params["dimension_numbers"]
    for atom, summed, shared in zip(equation.invars, contracted, batch, strict=True):
        yield rank(atom) - len(summed) - len(shared)


def held(equation: Equation) -> Iterator[tuple[Program, int, int | Expression]]:
    """Programs inside of an operation, their constant operands, and how many run side by side."""
    match equation.primitive.name:
        case "shard_map":
            yield equation.params["jaxpr"], 0, size_of(num_devices(equation))
        case "scan":
            layout = scan(equation)
            yield layout.body, layout.num_constants, 1
        case "while":
            loop = while_loop(equation)
            yield loop.body, loop.num_body_constants, 1
        case "cond":
            yield from ((branch, 0, 1) for branch in branches(equation))
        case "custom_linear_solve":
            yield linear_solve(equation).program, 0, 1


def summed(equation: Equation) -> object:
    """What sums over devices have in common that are made at once; None for all else."""
    found = collective(equation)
    if found is None or found.kind != "all-reduce":
        return None
    return equation.primitive.name, found.axes, found.group, aval(equation.invars[0]).dtype


def lies_apart(equation: Equation) -> bool:
    """Whether devices exchange pieces that do not lie in one: they are copied before and after."""
    found, p = collective(equation), equation.params
    axis = p.get("all_gather_dimension", p.get("scatter_dimension", 0))
    return found is not None and (found.kind == "all-to-all" or axis != 0)
