"""Tangents that are zero because nothing moves, as ``defjvp(symbolic_zeros=True)`` gives them."""

from jax.custom_derivatives import SymbolicZero


def is_zero(tangent: object) -> bool:
    """Whether the tangent is known to be zero while tracing."""
    return isinstance(tangent, SymbolicZero)
