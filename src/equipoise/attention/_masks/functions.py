"""User functions of scalars, with the arrays that they capture made explicit operands."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from equipoise._check import type_error
from equipoise._jax.programs import OpenProgram, closed, constants
from equipoise._jax.traced import shared
from equipoise._jax.varying import evaluated, traced_alike
from equipoise._types import Array, PyTree


class Hoisted(NamedTuple):
    """A function of scalars as a traced program; the arrays that it captured come first."""

    program: OpenProgram

    def __call__(self, captured: Sequence[Array], scalars: Sequence[Array]) -> Array:
        """Values over a block: each scalar is an array of rank 4, and they broadcast."""
        program = closed(self.program, captured)

        def mapped(*values: Array) -> Array:
            return evaluated(program, values)[0]

        # Only the axes that an argument has are mapped, so a table looked up by head stays small.
        for axis in reversed(range(4)):
            axes = tuple(None if s.shape[axis] == 1 else 0 for s in scalars)
            if any(a == 0 for a in axes):
                mapped = jax.vmap(mapped, in_axes=axes)
        squeezed = [s.reshape([n for n in s.shape if n != 1]) for s in scalars]
        sizes = zip(*map(jnp.shape, scalars), strict=True)
        shape = [next((n for n in along if n != 1), 1) for along in sizes]
        return mapped(*squeezed).reshape(shape)


def hoist(
    argument: str,
    function: Callable[..., Array],
    dtypes: Sequence[DTypeLike],
    kind: type[jnp.floating] | type[jnp.bool_],
    arrays: Sequence[Array] = (),
) -> tuple[Hoisted, tuple[Array, ...]]:
    """The function traced on scalars of these dtypes, and the arrays that it captured.

    The scalars are those of pairs of such arrays.
    """
    if not callable(function):
        raise type_error(argument, "must be a function of scalars", function)
    scalars = [jax.ShapeDtypeStruct((), d) for d in dtypes]  # type: ignore[no-untyped-call]
    program = traced_alike(function, scalars, arrays)
    out: Sequence[PyTree] = program.out_avals
    if len(out) != 1 or out[0].shape != () or not jnp.issubdtype(out[0].dtype, kind):
        raise type_error(
            argument,
            f"must return one scalar of kind {kind.__name__}",
            ", ".join(str(aval) for aval in out),
            "It is called with scalars and mapped over batch, heads, queries and keys.",
        )
    # Functions that compute alike are one, so that what is compiled for one is found again.
    return Hoisted(shared(program)), tuple(constants(program))
