"""What is found beyond a critical step, in numbers and in words."""

import jax
import jax.numpy as jnp

from equipoise._types import Array, Bool, Float, Int, Scalar, aligned, field_by_field, result
from equipoise.games._critical.critical_step import FLIP, Kind
from equipoise.games._rules.game import Players
from equipoise.games._rules.verdict import Word


class Outcome(Word):
    """What is found beyond a critical step.

    The members are integers: compare arrays of outcomes with them, as in
    ``form.outcome == games.Outcome.SOFT``. Each has a ``word`` and a ``sentence``.

    Attributes:
        SOFT: A cycle, circle or pair of points that attracts, and grows from nothing; 0.
        HARD: Nothing near attracts; the integer 1.
        ONE_SIDED: Another point attracts on one side, and play leaves on the other; 2.
        VANISHES: The coefficient is 0 up to rounding: higher orders decide; 3.
        RESONANT: The angle is 2πp/q with q ≤ 4, where the normal form has other terms; 4.
        DRIFTS: Play moves along flat directions meanwhile, which decides; 5.
        REPEATED: The eigenvalue is not simple: several directions are lost at once; 6.
        NOTHING: Nothing is lost; 7.
    """

    SOFT = 0, "Beyond the step, play settles near by."
    HARD = 1, "Beyond the step, play jumps away; before it, the basin shrinks to nothing."
    ONE_SIDED = 2, "Beyond the step, play settles near by from one side and leaves to the other."
    VANISHES = 3, "The coefficient is 0 up to rounding, and higher orders decide."
    RESONANT = 4, "A strong resonance, at which the normal form has other terms."
    DRIFTS = 5, "Play moves along flat directions meanwhile, and they decide."
    REPEATED = 6, "Several directions are lost at once, and their coupling decides."
    NOTHING = 7, "No direction is lost."


@result
class NormalForm:
    """What play does near a critical step η*, at a distance r from the equilibrium.

    With the multiplier −(1 + ε), 1 + ε or (1 + ε)e^{iθ} of the direction that is lost, r is mapped
    to −(1 + ε)r + cr³ at a flip, (1 + ε)r + ar³ at a Neimark–Sacker bifurcation, and
    (1 + ε)r + br² at a fold, or (1 + ε)r + cr³ where symmetry makes b = 0.

    Attributes:
        coefficient: The one of these, c, a or b; NaN where there is none or it does not decide, as
            ``outcome`` says.
        supercritical: Whether the loss is soft: c > 0 at a flip, a < 0 or c < 0 elsewhere.
        kind: A ``Kind``, that of the critical step.
        outcome: An ``Outcome``.
        step_size: η*.
        speed: ∂ε/∂η at η*.
        drift: By how much r² a step moves play along flat directions.
        direction: The direction that is lost, of unit length, with the structure of the players; of
            a pair of eigenvalues the real part, in a phase that makes it longest.
    """

    coefficient: Scalar
    supercritical: Bool[Array, ""]
    kind: Int[Array, ""]
    outcome: Int[Array, ""]
    step_size: Scalar
    speed: Scalar
    drift: Scalar
    direction: Players

    def amplitude(self, step_size: float | Array) -> Float[Array, "*shape"]:
        """Distance of the cycle from the equilibrium, to leading order; 0 where there is none.

        It is the root mean square over the cycle. In a soft loss the cycle attracts, at steps
        beyond η*; in a hard one it repels, at steps before, and bounds what the equilibrium
        attracts. A one-sided loss has another equilibrium of the update there, on both sides.
        """
        excess = self.speed * (jnp.asarray(step_size, self.speed.dtype) - self.step_size)
        sign = jnp.where(self.kind == FLIP, 1, -1).astype(excess.dtype)
        square = sign * excess / self.coefficient
        cubic = jnp.sqrt(jnp.where(square < 0, 0, square))
        return jnp.where(self.outcome == Outcome.ONE_SIDED, jnp.abs(square), cubic)

    def __str__(self) -> str:
        """The coefficient, and what it means in words."""
        if isinstance(self.kind, jax.core.Tracer) or jnp.ndim(self.kind):
            return field_by_field(self)
        rows = [
            ["  outcome", Outcome.said(self.outcome)],
            ["  kind", Kind(int(self.kind)).word],
            *([f"  {name}", getattr(self, name)] for name in ("coefficient", "step_size", "speed")),
            ["  drift", self.drift],
        ]
        return f"NormalForm\n{aligned(rows)}"
