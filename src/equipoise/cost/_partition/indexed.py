"""The letters of operations that look places up, or write to them.

A device that holds some places of an axis leaves out what is for the others.
"""

import itertools
from collections.abc import Iterable, Sequence

from equipoise._jax.programs import Equation, rank
from equipoise.cost._partition.letters import Factors, Letters, shape_of, unlettered
from equipoise.cost._program.sizes import as_text


def looked_up(equation: Equation) -> Factors:
    """Axes of the indices, axes taken whole, and axes that are looked up, which are summed over."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand, indices = equation.invars
    result: Letters = list(range(rank(equation.outvars[0])))
    looked, taken = unlettered(operand), unlettered(indices)
    batch = [i for i in result if i not in numbers.offset_dims]
    taken[: len(batch)] = batch
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [i for i in range(len(looked)) if i not in gone]
    for i, j in zip(kept, numbers.offset_dims, strict=True):
        if as_text(sizes[i]) == as_text(shape_of(operand)[i]):
            looked[i] = j
        else:
            result[j] = None
    shared = [taken[j] for j in numbers.start_indices_batching_dims]
    _number(looked, numbers.collapsed_slice_dims, itertools.count(len(result)))
    _number(looked, numbers.operand_batching_dims, shared)
    return Factors([looked, taken], [result])


def scattered(equation: Equation) -> Factors:
    """Axes of the updates that are placed whole; those of the indices are summed over.

    Along an axis of places each device leaves out the updates that are for others.
    """
    numbers = equation.params["dimension_numbers"]
    operand, indices, updates = equation.invars
    target: Letters = unlettered(operand)
    placed: Letters = list(range(rank(updates)))
    where = unlettered(indices)
    batch = [i for i in range(rank(updates)) if i not in numbers.update_window_dims]
    if equation.primitive.name == "scatter":  # of two updates at one place one is kept
        placed = [None if i in batch else i for i in range(rank(updates))]
    where[: len(batch)] = [placed[i] for i in batch]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [i for i in range(len(target)) if i not in gone]
    for i, j in zip(kept, numbers.update_window_dims, strict=True):
        if as_text(shape_of(operand)[i]) == as_text(shape_of(updates)[j]):
            target[i] = j
        else:
            placed[j] = None
    _number(target, numbers.inserted_window_dims, itertools.count(len(placed)))
    both = [where[j] for j in numbers.scatter_indices_batching_dims]
    _number(target, numbers.operand_batching_dims, both)
    return Factors([target, where, placed], [target])


def _number(letters: Letters, axes: Sequence[int], those: Iterable[int | None]) -> None:
    """Give these axes those letters."""
    for i, letter in zip(axes, those, strict=False):
        letters[i] = letter
