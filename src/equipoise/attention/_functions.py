"""User functions of scalars, with the arrays that they capture made explicit operands."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from equipoise import _check_old as _check


class Hoisted(NamedTuple):
    """A function of scalars as a traced program; the arrays that it captured come first."""

    program: Any

    def __call__(self, captured: tuple[Any, ...], scalars: tuple[Any, ...]) -> Any:
        """Values over a block: each scalar is an array of rank 4, and they broadcast."""
        run = jaxpr_as_fun(self.program.replace(consts=list(captured)))

        def mapped(*values: Any) -> Any:
            return run(*values)[0]

        # Only the axes that an argument has are mapped, so a table looked up by head stays small.
        for axis in reversed(range(4)):
            axes = tuple(0 if s.shape[axis] > 1 else None for s in scalars)
            if any(a == 0 for a in axes):
                mapped = jax.vmap(mapped, in_axes=axes)
        squeezed = [s.reshape([n for n in s.shape if n > 1]) for s in scalars]
        shape = [max(s.shape[axis] for s in scalars) for axis in range(4)]
        return mapped(*squeezed).reshape(shape)


def hoist(
    where: str, argument: str, function: Callable[..., Any], dtypes: tuple[Any, ...], kind: Any
) -> tuple[Hoisted, tuple[Any, ...]]:
    """The function traced on scalars of these dtypes, and the arrays that it captured."""
    if not callable(function):
        raise _check.type_error(where, argument, "must be a function of scalars", function)
    shaped: Any = jax.ShapeDtypeStruct
    scalars = [shaped((), dtype) for dtype in dtypes]
    program = jax.make_jaxpr(function)(*scalars)
    out = program.out_avals
    if len(out) != 1 or out[0].shape != () or not jnp.issubdtype(out[0].dtype, kind):
        raise _check.type_error(
            where,
            argument,
            f"must return one scalar of kind {kind.__name__}",
            ", ".join(str(aval) for aval in out),
            "It is called with scalars and mapped over batch, heads, queries and keys.",
        )
    return Hoisted(program), tuple(program.consts)
