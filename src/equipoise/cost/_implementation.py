"""What a primitive computes that has no rule here: its own implementation, traced."""

from collections.abc import Iterator
from typing import Any

import jax

# Under which names a primitive keeps the program that it calls.
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def implementation(equation: Any) -> Any:
    """The program of the primitive's implementation; None where JAX cannot look inside of it."""
    primitive = equation.primitive

    def run(*operands: Any) -> Any:
        found = primitive.impl(*operands, **equation.params)
        return found if primitive.multiple_results else [found]

    made: Any = jax.ShapeDtypeStruct
    shapes = [made(v.aval.shape, v.aval.dtype) for v in equation.invars]
    try:
        traced = jax.make_jaxpr(run)(*shapes)
    except Exception:  # whatever an implementation raises that wants values
        return None
    # The implementation of a primitive of XLA is that primitive.
    return None if primitive.name in names(traced) else traced


def names(program: Any) -> Iterator[str]:
    """The primitives of a program, those inside of others included."""
    for eqn in getattr(program, "jaxpr", program).eqns:
        yield eqn.primitive.name
        for parameter in (*CALLS, "cond_jaxpr", "body_jaxpr"):
            inner = eqn.params.get(parameter)
            if inner is not None:
                yield from names(inner)
        for branch in eqn.params.get("branches", ()):
            yield from names(branch)
