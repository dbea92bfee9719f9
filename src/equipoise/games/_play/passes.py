"""Steps of play, several in one pass over memory."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from equipoise._jax.programs import Program, held, opened
from equipoise._types import Array, PyTree

_Carry = TypeVar("_Carry", bound=PyTree)

# Primitives that cost less than to write their result to memory and read it again.
_CHEAP = {
    *("add", "add_any", "sub", "mul", "neg", "abs", "sign", "square", "integer_pow", "max", "min"),
    *("eq", "ne", "ge", "gt", "le", "lt", "and", "or", "not", "select_n", "convert_element_type"),
    *("broadcast_in_dim", "reshape", "squeeze", "copy"),
}
# Beyond these, compilation of a pass and what its rows compute twice cost more than they save.
_MOST_STEPS = 8
_MOST_OPERATIONS = 200


def repeated(one: Callable[[_Carry], _Carry], length: int, start: _Carry) -> _Carry:
    """What ``one`` makes of the start, so many times; cheap steps go several in a pass over memory.

    XLA on CPU writes one array a pass. So leaves of equal type share an array, each row of which
    recomputes the steps of a pass in registers. ``one`` acts on arrays of one entry a lane.
    """
    leaves, treedef = jax.tree.flatten(start)
    operations = _operations(jax.make_jaxpr(one)(start))
    steps = min(_MOST_STEPS, int(_MOST_OPERATIONS / max(operations, 1)))
    if steps < _MOST_STEPS // 2 or len({leaf.shape for leaf in leaves}) > 1:
        return jax.lax.fori_loop(0, length, lambda _, inner: one(inner), start)

    def pack(tree: _Carry) -> dict[str, Array]:
        rows: dict[str, list[Array]] = {}
        for leaf in jax.tree.leaves(tree):
            rows.setdefault(leaf.dtype.name, []).append(leaf)
        return {dtype: jnp.stack(same) for dtype, same in rows.items()}

    def unpack(packed: dict[str, Array]) -> _Carry:
        rows = {dtype: iter(array) for dtype, array in packed.items()}
        return jax.tree.unflatten(treedef, [next(rows[leaf.dtype.name]) for leaf in leaves])

    packed = jax.lax.fori_loop(
        0, length, lambda _, packed: pack(one(unpack(packed))), pack(start), unroll=steps
    )
    # The barrier keeps the steps of the last, shorter pass in one pass too.
    return unpack(jax.lax.optimization_barrier(packed))  # type: ignore[no-untyped-call]


def _operations(program: Program) -> float:
    """How many operations a program has, infinity where one of them is worth a pass of its own."""
    total = 0.0
    for equation in opened(program).eqns:
        inner = list(held(equation))
        if inner:
            total += sum(map(_operations, inner))
        elif equation.primitive.name == "reduce_sum":
            total += math.inf if equation.params["axes"] else 0
        else:
            total += 1 if equation.primitive.name in _CHEAP else math.inf
    return total
