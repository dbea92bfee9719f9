import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from equipoise._types import Array

# Primitives that cost less than to write their result to memory and read it again.
CHEAP = {
    *("add", "add_any", "sub", "mul", "neg", "abs", "sign", "square", "integer_pow", "max", "min"),
    *("eq", "ne", "ge", "gt", "le", "lt", "and", "or", "not", "select_n", "convert_element_type"),
    *("broadcast_in_dim", "reshape", "squeeze", "copy"),
}
# Beyond these, compilation of a pass and what its rows compute twice cost more than they save.
MOST_STEPS = 8
MOST_OPERATIONS = 200


def repeated(one: Callable[[Any], Any], length: int, start: Any) -> Any:
    """What ``one`` makes of the start, so many times; cheap steps go several in a pass over memory.

    XLA on CPU writes one array a pass. So leaves of equal type share an array, each row of which
    recomputes the steps of a pass in registers. ``one`` acts on arrays of one entry a lane.
    """
    leaves, treedef = jax.tree.flatten(start)
    operations = _operations(jax.make_jaxpr(one)(start).jaxpr)
    steps = min(MOST_STEPS, int(MOST_OPERATIONS / max(operations, 1)))
    if steps < MOST_STEPS // 2 or len({leaf.shape for leaf in leaves}) > 1:
        return jax.lax.fori_loop(0, length, lambda _, inner: one(inner), start)

    def pack(tree: Any) -> dict[Any, Array]:
        rows: dict[Any, list[Array]] = {}
        for leaf in jax.tree.leaves(tree):
            rows.setdefault(leaf.dtype.name, []).append(leaf)
        return {dtype: jnp.stack(same) for dtype, same in rows.items()}

    def unpack(packed: dict[Any, Array]) -> Any:
        rows = {dtype: iter(array) for dtype, array in packed.items()}
        return jax.tree.unflatten(treedef, [next(rows[leaf.dtype.name]) for leaf in leaves])

    packed = jax.lax.fori_loop(
        0, length, lambda _, packed: pack(one(unpack(packed))), pack(start), unroll=steps
    )
    # The barrier keeps the steps of the last, shorter pass in one pass too.
    return unpack(jax.lax.optimization_barrier(packed))  # type: ignore[no-untyped-call]


def _operations(jaxpr: Any) -> float:
    """How many operations a program has, infinity where one of them is worth a pass of its own."""
    total = 0.0
    for equation in jaxpr.eqns:
        parts = equation.params.values()
        inner = [p.jaxpr for p in parts if isinstance(p, jax.extend.core.ClosedJaxpr)]
        if inner:
            total += sum(map(_operations, inner))
        elif equation.primitive.name == "reduce_sum":
            total += math.inf if equation.params["axes"] else 0
        else:
            total += 1 if equation.primitive.name in CHEAP else math.inf
    return total
