"""What a sweep finds, and how it is printed."""

from itertools import pairwise
from typing import TypeAlias

import jax
import numpy as np

from equipoise._types import Array, Float, Int, aligned, result, static_field
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.verdict import CONVERGES, Verdict

_Numbers: TypeAlias = Float[Array, "*shape"]
_Integers: TypeAlias = Int[Array, "*shape"]


@result
class Sweep:
    """What play does at each of many step sizes, one entry per step size.

    Attributes:
        step_sizes: η.
        verdict: A ``Verdict`` each: ``CONVERGES``, ``NEUTRAL``, ``DIVERGES`` or ``UNDEFINED``.
        rate: The factor per step by which the distance changes at the end of the run; after an
            overflow a lower bound of it, 0 from a start without distance, and NaN where undefined.
        period: Length of the cycle that play ends in: 1 for a fixed point, 0 for none up to
            ``max_period``.
        final_distance: The distance at the last step that was used; infinity after overflow, and
            NaN where undefined.
        steps_used: Steps until the verdict.
        gradient: The largest coordinate of the players' gradients at the end of the run; infinity
            after overflow, and NaN where undefined.
        is_movement: Whether no equilibrium was given, so that distances are between steps.
        has_twins: Whether batches were drawn, so that distances are from a run under the same ones.
    """

    step_sizes: _Numbers
    verdict: _Integers
    rate: _Numbers
    period: _Integers
    final_distance: _Numbers
    steps_used: _Integers
    gradient: _Numbers
    is_movement: bool = static_field()
    has_twins: bool = static_field(default=False)

    def __str__(self) -> str:
        """The intervals of step sizes with the same verdict, in the order given."""
        if isinstance(self.verdict, jax.core.Tracer) or np.ndim(self.verdict) > 1:
            return f"Sweep of shape {np.shape(self.verdict)}"
        if np.ndim(self.verdict) == 0:
            names = ["step_sizes", "rate", "period", "final_distance", "steps_used", "gradient"]
            rows = [[f"  {name}", getattr(self, name)] for name in names]
            rows.insert(1, ["  verdict", Verdict.said(self.verdict)])
            return f"Sweep\n{aligned(rows)}{self._what_is_measured()}"
        verdict, eta = np.asarray(self.verdict), np.asarray(self.step_sizes)
        rate, period = np.asarray(self.rate), np.asarray(self.period)
        changes = np.flatnonzero(np.diff(verdict)) + 1
        rows = []
        for i, j in pairwise([0, *changes, eta.size] if eta.size else []):
            cycles = sorted({int(p) for p in period[i:j] if p > 1})
            rows.append(
                [
                    f"{eta[i]:.6g} to {eta[j - 1]:.6g}",
                    Verdict(verdict[i]).word,
                    f"{rate[i:j].min():.4g} to {rate[i:j].max():.4g}",
                    ", ".join(map(str, cycles[:6])) or "none",
                ]
            )
        kept = rows if len(rows) <= 30 else [*rows[:29], [f"{len(rows) - 29} more", "", "", ""]]
        header = ["step sizes", "verdict", "rate", "cycles"]
        table = aligned(kept, header=header)
        return f"Sweep of {eta.size} step sizes\n{table}{self._what_is_measured()}"

    def _what_is_measured(self) -> str:
        """What a verdict without an equilibrium does not say, and where it misleads."""
        if self.has_twins:
            return "\n  Distances are those from a second run under the same batches."
        if not self.is_movement:
            return ""
        said = "\n  Distances are those between steps: no equilibrium was given."
        still, gradient = np.asarray(self.verdict) == CONVERGES, np.asarray(self.gradient)
        started = still & (np.asarray(self.rate) == 0)
        away = still & ~started & (gradient > rounding(gradient.dtype, 0.5))
        if started.any():
            said += f"\n  Runs that never moved, as the start is at rest: {started.sum()}."
        if away.any():
            said += (
                f"\n  Runs that slow down where gradients do not vanish: {away.sum()}, with"
                f" gradients up to {gradient[away].max():.3g}. They are at no equilibrium."
            )
        return said
