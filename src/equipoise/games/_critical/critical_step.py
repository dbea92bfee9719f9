"""What a critical step is: the step size, and how the equilibrium is lost there."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, Bool, Int, Scalar, Shaped, aligned, field_by_field, result
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.verdict import Word
from equipoise.games._spectrum.algebra import namespace
from equipoise.games._spectrum.spectrum import not_at_rest

_LARGEST_RESONANCE = 12


class Kind(Word):
    """How an equilibrium is lost: where an eigenvalue reaches the unit circle.

    The members are integers: compare arrays of kinds with them, as in
    ``critical.kind == games.FLIP``. Each has a ``word`` and a ``sentence``.

    Attributes:
        NOT_LOST: No eigenvalue is seen to reach the unit circle; the integer 0. So it is where the
            step sizes are NaN.
        FOLD: An eigenvalue reaches 1; the integer 1.
        FLIP: An eigenvalue reaches −1; the integer 2.
        NEIMARK_SACKER: A pair of eigenvalues reaches the circle elsewhere; the integer 3.
    """

    NOT_LOST = 0, "No eigenvalue is seen to reach the unit circle."
    FOLD = 1, "An eigenvalue reaches 1, and play drifts away in one direction."
    FLIP = 2, "An eigenvalue reaches −1, and play jumps from side to side."
    NEIMARK_SACKER = 3, "A pair of eigenvalues reaches the unit circle, and play spirals out."

    @property
    def word(self) -> str:
        """The name as it is printed in tables."""
        return "Neimark-Sacker" if self is Kind.NEIMARK_SACKER else super().word


#: Kind of a critical step: the equilibrium is not lost up to the largest step size.
NOT_LOST = Kind.NOT_LOST
#: Kind of a critical step: an eigenvalue reaches 1.
FOLD = Kind.FOLD
#: Kind of a critical step: an eigenvalue reaches −1.
FLIP = Kind.FLIP
#: Kind of a critical step: an eigenvalue reaches the unit circle elsewhere.
NEIMARK_SACKER = Kind.NEIMARK_SACKER


@result
class CriticalStep:
    """The step size at which an equilibrium stops attracting, and how it does.

    A direction is an eigenvector of the update on the full state. Small steps attract it, repel it,
    or leave it where it is: λ = 1 + O(η²), as along a continuum of equilibria. The eigenvalue,
    angle, kind and resonance are those of the attracted direction that is lost first; where small
    steps attract none, those at ``neutral_step_size``.

    Attributes:
        step_size: The equilibrium attracts on (0, ``step_size``): 0 where it never does, infinity
            where it does up to ``max_step_size``.
        neutral_step_size: ρ ≤ 1 on (0, ``neutral_step_size``): 0 or infinity likewise.
        attracted_step_size: Every direction that small steps attract is attracted on
            (0, ``attracted_step_size``): 0 where there is none, infinity where all are up to
            ``max_step_size``. It is ``step_size`` where that is not 0.
        num_flat: How many directions small steps leave where they are.
        num_repelling: How many directions small steps repel.
        eigenvalue: The eigenvalue that reaches the unit circle; of a pair, the one above the axis.
        angle: Its angle, in [0, π] radians.
        kind: A ``Kind``: ``FOLD`` (at 1), ``FLIP`` (at −1), ``NEIMARK_SACKER`` (elsewhere), or
            ``NOT_LOST``.
        resonance: (p, q) where the angle is 2πp/q with q ≤ 12, otherwise (0, 0).
        simple: Whether that eigenvalue and its conjugate are simple, and the only ones on the
            circle besides flat directions. Only then is the derivative of the step size a fact
            rather than a convention.
        residual: The largest move of a player's coordinate in one step, per unit of step size: of
            rules that go down gradients the gradient. Large means that the players are in no
            equilibrium; NaN that a payoff is no finite number.
    """

    step_size: Scalar
    neutral_step_size: Scalar
    attracted_step_size: Scalar
    num_flat: Int[Array, ""]
    num_repelling: Int[Array, ""]
    eigenvalue: Shaped[Array, ""]
    angle: Scalar
    kind: Int[Array, ""]
    resonance: Int[Array, "2"]
    simple: Bool[Array, ""]
    residual: Scalar

    def __str__(self) -> str:
        """The step sizes, and how the equilibrium is lost, in words."""
        if isinstance(self.kind, jax.core.Tracer) or jnp.ndim(self.kind):
            return field_by_field(self)
        step, attracted = float(self.step_size), float(self.attracted_step_size)
        names = ["step_size", "neutral_step_size", "eigenvalue", "angle"]
        if step == 0 and attracted != 0:
            names.insert(0, "attracted_step_size")
        p, q = (int(number) for number in self.resonance)
        rows = [
            *([f"  {name}", getattr(self, name)] for name in names),
            ["  kind", Kind.said(self.kind)],
            ["  resonance", f"{p}:{q}" if q else "none"],
            ["  simple", bool(self.simple)],
            ["  residual", self.residual],
        ]
        said = f"\n  {self._why_never()}" if step == 0 else ""
        if step != step:
            said = "\n  Undefined: the update or its spectrum is no number on the way."
        return f"CriticalStep\n{aligned(rows)}{said}{not_at_rest(self.residual)}"

    def _why_never(self) -> str:
        """Why no step attracts all directions."""
        flat, repelling = int(self.num_flat), int(self.num_repelling)
        kinds = [f"{flat} flat"] * (flat > 0) + [f"{repelling} repelling"] * (repelling > 0)
        some = " and ".join(kinds)
        what = f"{some} directions" if some else "small steps neither approach nor leave"
        aside = ", which attracted_step_size leaves out" if self.attracted_step_size != 0 else ""
        return f"step_size is 0: {what}{aside}."


def resonance(angle: Array) -> Array:
    """(p, q) of least q ≤ 12 with angle = 2πp/q up to rounding, otherwise (0, 0).

    Rounding is ε^0.45: an eigenvalue that two others meet has lost half of its digits.
    """
    xp = namespace(angle)
    q = xp.arange(1, _LARGEST_RESONANCE + 1, dtype=angle.dtype)
    turns = angle / (2 * xp.pi) * q
    fits = xp.abs(turns - xp.round(turns)) < rounding(angle.dtype, 0.45) * q
    k = xp.argmax(fits)
    pair = xp.stack([xp.round(turns[k]), q[k]]).astype(np.int32)
    return xp.where(fits.any(), pair, 0)
