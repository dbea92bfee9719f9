"""What a critical learning rate is, and how it prints."""

import jax
import jax.numpy as jnp

from equipoise._types import (
    Array,
    Bool,
    Int,
    PyTree,
    Scalar,
    Shaped,
    aligned,
    field_by_field,
    result,
)
from equipoise.games._critical.critical_step import Kind


@result
class CriticalLearningRate:
    """The learning rate at which training leaves its point, and how it does.

    Attributes:
        learning_rate: The critical one; infinity where none is up to ``max_step_size``, NaN where
            the loss or a derivative is no number.
        sharpness: vᵀHv/vᵀPv of the direction v that is lost. P is 1 for optimizers without a second
            moment, otherwise the inverse of what the optimizer makes of a constant gradient: then
            it is the largest eigenvalue of P⁻¹H where all coordinates have one recurrence.
        direction: v, a unit vector with the structure of the parameters.
        kind: A ``Kind``: ``FLIP``, ``NEIMARK_SACKER``, or ``NOT_LOST``.
        eigenvalue: Eigenvalue of the update on the unit circle; of a pair, the one above the real
            axis.
        error: A bound of the relative error of the learning rate, from the residual of v; the
            square of the residual over the gap to the next eigenvalue where that is less.
        converged: Whether the error is within the tolerance.
        num_flat: How many directions have no curvature, to rounding; −1 where they are not counted.
        num_repelling: How many have a negative curvature; −1 where they are not counted.
        bend: How far the update of the present gradient is from its linearization, as a part of
            it. Large where the gradient is clipped, or unlike those that the optimizer has seen.
        num_products: How many products with the Hessian were taken.
    """

    learning_rate: Scalar
    sharpness: Scalar
    direction: PyTree[Array]
    kind: Int[Array, ""]
    eigenvalue: Shaped[Array, ""]
    error: Scalar
    converged: Bool[Array, ""]
    num_flat: Int[Array, ""]
    num_repelling: Int[Array, ""]
    bend: Scalar
    num_products: Int[Array, ""]

    def __str__(self) -> str:
        """The learning rate and how it is lost, and in words what it rests on."""
        if isinstance(self.kind, jax.core.Tracer) or jnp.ndim(self.kind):
            return field_by_field(self)
        rows: list[list[object]] = [
            ["  learning_rate", self.learning_rate],
            ["  sharpness", self.sharpness],
            ["  kind", Kind.said(self.kind)],
            ["  error", f"{float(self.error):.1e} of the learning rate, at most"],
            ["  num_flat", _counted(self.num_flat)],
            ["  num_repelling", _counted(self.num_repelling)],
            ["  num_products", self.num_products],
        ]
        text = f"CriticalLearningRate\n{aligned(rows)}"
        if not self.converged:
            text += "\n  The error is above the tolerance: allow more products."
        if self.bend > 0.1:
            text += (
                f"\n  The update of the present gradient is {float(self.bend):.0%} off its"
                " linearization: it is clipped, or unlike what the optimizer has seen."
            )
        return text


def _counted(number: Array) -> object:
    return int(number) if number >= 0 else "not counted"
