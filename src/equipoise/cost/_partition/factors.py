"""Which axes of the operands of an operation are which of its results, as an einsum writes it.

An operation that treats all places along an axis alike can be divided along it: with ``x @ w``
written ``bh,hk->bk`` each letter may be divided among devices. A letter of operands alone is summed
over (or another reduction), each device giving its part. An axis without a letter must be whole.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from equipoise._jax.programs import Atom, Equation, Size, aval, is_array, rank
from equipoise.cost._count.operation import entered
from equipoise.cost._count.rules import ELEMENTWISE
from equipoise.cost._expression.expression import ONE
from equipoise.cost._program.sizes import as_text, is_one, size_of

_Letters = list[int | None]  # of each axis of an array


class Factors(NamedTuple):
    """The letters of the axes of operands and results."""

    operands: list[_Letters]
    results: list[_Letters]


_SENT_ALONG = ("all_gather_dimension", "scatter_dimension", "split_axis", "concat_axis")
_RULES: dict[str, Callable[[Equation], Factors]] = {}


def factors(equation: Equation) -> Factors | None:
    """The letters of an operation; None where none is known, so that it is done as a whole."""
    rule = _RULES.get(equation.primitive.name)
    return None if rule is None else rule(equation)


def _shape(atom: Atom) -> tuple[Size, ...]:
    return aval(atom).shape if is_array(atom) else ()


def _whole(atom: Atom) -> _Letters:
    return [None] * len(_shape(atom))


@entered(_RULES, ELEMENTWISE)
def _elementwise(equation: Equation) -> Factors:
    """A letter for each axis of the result, for operands of its size."""
    shape = _shape(equation.outvars[0])
    operands = []
    for atom in equation.invars:
        own = _shape(atom)
        pairs = enumerate(zip(own, shape, strict=False))
        same = len(own) == len(shape)
        operands.append([i if same and as_text(a) == as_text(b) else None for i, (a, b) in pairs])
    return Factors(operands, [list(range(rank(v))) for v in equation.outvars])


@entered(_RULES, "optimization_barrier psum psum2 psum_invariant pmax pmin ppermute")
def _each_alone(equation: Equation) -> Factors:
    count = itertools.count()
    letters: list[_Letters] = [[next(count) for _ in _shape(v)] for v in equation.outvars]
    return Factors(letters, letters)


@entered(_RULES, "all_gather all_gather_invariant reduce_scatter all_to_all")
def _exchanged(equation: Equation) -> Factors:
    """All axes but those whose places devices send each other."""
    p, (operand, result) = equation.params, (equation.invars[0], equation.outvars[0])
    sent = {value for name, value in p.items() if name in _SENT_ALONG}
    if rank(operand) == rank(result):
        kept: _Letters = [None if i in sent or not p["tiled"] else i for i in range(rank(operand))]
        return Factors([kept], [kept])
    (axis,) = sent  # one more where parts are put beside each other, one less where they are dealt
    longer: _Letters = [None if i == axis else i for i in range(max(rank(operand), rank(result)))]
    shorter = [i for i in longer if i is not None]
    pair = (longer, shorter) if rank(operand) > rank(result) else (shorter, longer)
    return Factors([pair[0]], [pair[1]])


@entered(_RULES, "dot_general")
def _product(equation: Equation) -> Factors:
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    count = itertools.count()
    a, b = _whole(equation.invars[0]), _whole(equation.invars[1])
    for i, j in zip((*left_batch, *left), (*right_batch, *right), strict=True):
        a[i] = b[j] = next(count)
    rest = [[i for i in range(len(letters)) if letters[i] is None] for letters in (a, b)]
    for letters, free in zip((a, b), rest, strict=True):
        for i in free:
            letters[i] = next(count)
    batch = [a[i] for i in left_batch]
    return Factors([a, b], [[*batch, *(a[i] for i in rest[0]), *(b[j] for j in rest[1])]])


@entered(_RULES, "broadcast_in_dim")
def _broadcast(equation: Equation) -> Factors:
    result: _Letters = list(range(rank(equation.outvars[0])))
    shape, operand = _shape(equation.outvars[0]), _whole(equation.invars[0])
    for i, j in enumerate(equation.params["broadcast_dimensions"]):
        if as_text(_shape(equation.invars[0])[i]) == as_text(shape[j]):
            operand[i] = j
    return Factors([operand, *map(_whole, equation.invars[1:])], [result])


@entered(_RULES, "iota random_bits empty full")
def _made(equation: Equation) -> Factors:
    return Factors([*map(_whole, equation.invars)], [list(range(rank(equation.outvars[0])))])


@entered(_RULES, "transpose")
def _transposed(equation: Equation) -> Factors:
    operand: _Letters = list(range(rank(equation.invars[0])))
    return Factors([operand], [[operand[i] for i in equation.params["permutation"]]])


@entered(_RULES, "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor")
@entered(_RULES, "argmax argmin")
def _reduced(equation: Equation) -> Factors:
    operand: _Letters = list(range(rank(equation.invars[0])))
    gone = equation.params["axes"]
    return Factors([operand], [[i for i in operand if i not in gone]])


@entered(_RULES, "reshape squeeze expand_dims bitcast_convert_type")
def _reshaped(equation: Equation) -> Factors:
    """Runs of axes with the same product: the first of each run is the first of the other."""
    shapes = _shape(equation.invars[0]), _shape(equation.outvars[0])
    letters: tuple[_Letters, _Letters] = ([None] * len(shapes[0]), [None] * len(shapes[1]))
    starts: list[dict[str, int]] = []
    for shape in shapes:
        product, found = ONE, dict[str, int]()
        for i, size in enumerate(shape):
            if not is_one(size):
                found[str(product)] = i
            product = product * size_of(size)
        starts.append(found)
    for letter, before in enumerate(starts[0]):
        if before in starts[1]:
            letters[0][starts[0][before]] = letters[1][starts[1][before]] = letter
    return Factors([letters[0]], [letters[1]])


@entered(_RULES, "slice dynamic_slice pad split concatenate dynamic_update_slice rev sort")
@entered(_RULES, "cumsum cumprod cummax cummin cumlogsumexp reduce_window_sum reduce_window_max")
@entered(_RULES, "reduce_window_min reduce_window select_and_scatter_add top_k fft")
@entered(_RULES, "cholesky eigh lu householder_product qr svd triangular_solve tridiagonal_solve")
def _along(equation: Equation) -> Factors:
    """A letter for each axis that has its size everywhere and along which nothing happens."""
    atoms = [v for v in (*equation.invars, *equation.outvars) if rank(v)]
    most = max(map(rank, atoms))
    busy = _busy(equation, most)
    sizes = [{as_text(_shape(v)[i]) for v in atoms if rank(v) == most} for i in range(most)]
    letters: _Letters = [i if i not in busy and len(sizes[i]) == 1 else None for i in range(most)]

    def of(atom: Atom) -> _Letters:
        if rank(atom) == most:
            return letters
        return letters[: rank(atom)] if busy and min(busy) >= rank(atom) else _whole(atom)

    return Factors([*map(of, equation.invars)], [*map(of, equation.outvars)])


def _busy(equation: Equation, most: int) -> set[int]:
    """The axes along which places are not treated alike."""
    p = equation.params
    match equation.primitive.name:
        case "slice" | "dynamic_slice" | "dynamic_update_slice":
            return set()  # an axis that is taken whole has its size before and after
        case "pad":
            return {i for i, padding in enumerate(p["padding_config"]) if any(padding)}
        case "rev":
            return set(p["dimensions"])
        case "top_k":
            return {most - 1}
        case "fft":
            return set(range(most - len(p["fft_lengths"]), most))
    if "window_dimensions" in p:
        return {i for i, size in enumerate(p["window_dimensions"]) if size != 1}
    axis = p.get("dimension", p.get("axis"))
    return {most - 2, most - 1} if axis is None else {axis}


@entered(_RULES, "gather")
def _gathered(equation: Equation) -> Factors:
    """Axes of the indices, axes taken whole, and axes that are looked up, which are summed over."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand, indices = equation.invars
    result: _Letters = list(range(rank(equation.outvars[0])))
    looked, taken = _whole(operand), _whole(indices)
    batch = [i for i in result if i not in numbers.offset_dims]
    taken[: len(batch)] = batch
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [i for i in range(len(looked)) if i not in gone]
    for i, j in zip(kept, numbers.offset_dims, strict=True):
        if as_text(sizes[i]) == as_text(_shape(operand)[i]):
            looked[i] = j
        else:
            result[j] = None
    for i, letter in zip(numbers.collapsed_slice_dims, itertools.count(len(result)), strict=False):
        looked[i] = letter
    for i, j in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        looked[i] = taken[j]
    return Factors([looked, taken], [result])


@entered(_RULES, "scatter scatter-add scatter-mul scatter-min scatter-max")
def _scattered(equation: Equation) -> Factors:
    """Axes of the updates that are placed whole; those of the indices are summed over.

    Along an axis of places each device leaves out the updates that are for others.
    """
    numbers = equation.params["dimension_numbers"]
    operand, indices, updates = equation.invars
    target: _Letters = _whole(operand)
    placed: _Letters = list(range(rank(updates)))
    where = _whole(indices)
    batch = [i for i in range(rank(updates)) if i not in numbers.update_window_dims]
    if equation.primitive.name == "scatter":  # of two updates at one place one is kept
        placed = [None if i in batch else i for i in range(rank(updates))]
    where[: len(batch)] = [placed[i] for i in batch]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [i for i in range(len(target)) if i not in gone]
    for i, j in zip(kept, numbers.update_window_dims, strict=True):
        if as_text(_shape(operand)[i]) == as_text(_shape(updates)[j]):
            target[i] = j
        else:
            placed[j] = None
    for i, letter in zip(numbers.inserted_window_dims, itertools.count(len(placed)), strict=False):
        target[i] = letter
    for i, j in zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
    ):
        target[i] = where[j]
    return Factors([target, where, placed], [target])


@entered(_RULES, "conv_general_dilated")
def _convolved(equation: Equation) -> Factors:
    """Batch, and channels where there is one group; what lies in space stays whole."""
    numbers = equation.params["dimension_numbers"]
    image, kernel = map(_whole, equation.invars)
    result = _whole(equation.outvars[0])
    groups = equation.params["feature_group_count"], equation.params["batch_group_count"]
    if groups[1] == 1:
        image[numbers.lhs_spec[0]] = result[numbers.out_spec[0]] = 0
    if groups == (1, 1):
        kernel[numbers.rhs_spec[0]] = result[numbers.out_spec[1]] = 1
        image[numbers.lhs_spec[1]] = kernel[numbers.rhs_spec[1]] = 2
    return Factors([image, kernel], [result])


def letters_of(several: Sequence[_Letters]) -> set[int]:
    """The letters that occur."""
    return {letter for letters in several for letter in letters if letter is not None}
