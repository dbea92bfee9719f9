"""Figures of what lies beyond the first critical step: later intervals, and cycles."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from equipoise import games
from equipoise._types import Array
from equipoise.plot._games import STEP_LABEL
from equipoise.plot._style import COLORS, VERDICT_COLORS, new_axes, styled


def stable_steps(found: Mapping[str, games.StableStepSizes], *, ax: Axes | None = None) -> Axes:
    """Bars of all intervals of step sizes at which an equilibrium attracts, one row per name.

    Args:
        found: Results of :func:`equipoise.games.stable_step_sizes` by name.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the row whose intervals cover most.
    """
    cover = {name: float(np.diff(x.intervals).sum()) for name, x in found.items()}
    limit = max(float(x.max_step_size) for x in found.values())
    with styled():
        ax = new_axes(ax, size=(7.0, 0.5 * len(found) + 1.4))
        for row, (name, stable) in enumerate(found.items()):
            end = float(stable.max_step_size)
            ax.barh(row, end, color=VERDICT_COLORS["diverges"], height=0.6, alpha=0.25)
            for low, high in np.asarray(stable.intervals):
                ax.barh(row, high - low, left=low, color=VERDICT_COLORS["converges"], height=0.6)
                text = f"{low:.4g} to {high:.4g}"
                if high - low > 0.14 * limit:
                    middle = (low + high) / 2
                    ax.text(middle, row, text, va="center", ha="center", color="white", fontsize=9)
            if not cover[name]:
                ax.text(0.012 * limit, row, "none", va="center", fontsize=9)
        ax.set_yticks(range(len(found)), list(found))
        ax.set_xlim(0, limit)
        ax.set_xlabel(STEP_LABEL)
        ax.grid(visible=False)
        best = max(cover, key=cover.__getitem__)
        share = cover[best] / float(found[best].max_step_size)
        ax.set_title(
            f"{best} attracts at {share:.3g} of all steps up to {limit:.4g}"
            if share
            else f"No step up to {limit:.4g} attracts"
        )
    return ax


def cycle_amplitude(
    form: games.NormalForm,
    *,
    step_sizes: Array,
    played: Array | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Distance of the cycle from the equilibrium over step sizes, as the normal form predicts it.

    Args:
        form: From :func:`equipoise.games.normal_form`.
        step_sizes: Step sizes η, a vector.
        played: Distances that play settled on at these step sizes, drawn as points.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes, solid where the cycle attracts and dashed where it repels. Its title says how
        stability is lost.
    """
    etas, critical = np.asarray(step_sizes), float(form.step_size)
    outcome = games.Outcome(int(form.outcome))
    with styled():
        ax = new_axes(ax, size=(6.4, 4.2))
        ax.axvline(critical, color="black", linewidth=0.8, label=f"critical step {critical:.4g}")
        for part, line in ((etas < critical, "-"), (etas >= critical, ":")):
            ax.plot(etas[part], np.zeros(part.sum()), line, color=COLORS[0])
        distance = np.asarray(form.amplitude(step_sizes))
        exists = distance > 0
        line = "-" if outcome == games.Outcome.SOFT else "--"
        ax.plot(etas[exists], distance[exists], line, color=COLORS[1], label="predicted")
        if played is not None:
            ax.plot(etas, np.asarray(played), "o", color=COLORS[2], markersize=4, label="played")
        ax.set(xlabel=STEP_LABEL, ylabel="distance from the equilibrium", ylim=(0, None))
        ax.legend(loc="best")
        ways = {
            games.Outcome.SOFT: "a cycle grows from nothing",
            games.Outcome.HARD: "the basin shrinks to nothing",
        }
        way = ways.get(outcome, outcome.word)
        ax.set_title(f"{games.Kind(int(form.kind)).word} at η = {critical:.4g}: {way}")
    return ax
