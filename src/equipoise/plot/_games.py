"""Figures of step sizes: where play stops converging, how fast it does, and why."""

from collections.abc import Mapping
from itertools import cycle, pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from equipoise import games
from equipoise._types import Array, PyTree
from equipoise.games._spectrum.algebra import eigenvalues
from equipoise.games._spectrum.spectrum import family_of, update_matrices
from equipoise.plot._style import COLORS, VERDICT_COLORS, new_axes, styled

_LINES = {games.CONVERGES: "-", games.NEUTRAL: "--", games.DIVERGES: ":"}
STEP_LABEL = "step size η"


def critical_steps(comparison: games.Comparison, *, ax: Axes | None = None) -> Axes:
    """Bars of the step sizes at which each rule converges, is bounded, and diverges.

    Args:
        comparison: From :func:`equipoise.games.compare`.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the rule that converges for the largest steps.
    """
    names, limit = comparison.names, float(comparison.max_step_size)
    ends = np.stack([comparison.step_size, comparison.neutral_step_size], axis=1)
    order = np.lexsort(np.nan_to_num(ends[:, ::-1].T, nan=-1, posinf=np.inf))
    finite = ends[np.isfinite(ends) & (ends > 0)]
    shown = min(limit, 1.25 * finite.max()) if finite.size else limit
    with styled():
        ax = new_axes(ax, size=(7.0, 0.45 * len(names) + 1.6))
        for row, i in enumerate(order):
            edges = [0, *np.minimum(ends[i], shown), shown]
            for color, (left, right) in zip(VERDICT_COLORS.values(), pairwise(edges), strict=True):
                ax.barh(row, right - left, left=left, color=color, height=0.7)
            size, bounded = ends[i]
            text = f"{size:.4g}" if size < shown else f"beyond {shown:.3g}"
            if np.isnan(size):
                text = games.UNDEFINED.word
            elif size == 0:
                text = f"bounded to {bounded:.4g}" if bounded > 0 else "never"
            ax.text(0.012 * shown, row, text, va="center", color="white", fontsize=9, weight="bold")
        ax.set_yticks(range(len(names)), [names[i] for i in order])
        ax.set_xlim(0, shown)
        ax.set_xlabel(STEP_LABEL)
        ax.grid(visible=False)
        handles = [ax.barh(0, 0, color=color) for color in VERDICT_COLORS.values()]
        ax.legend(handles, VERDICT_COLORS, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
        best, end = names[order[-1]], ends[order[-1], 0]
        ax.set_title(
            "No rule converges"
            if not end > 0
            else f"{best} converges up to η = {min(end, limit):.4g}"
            + (", the end of the search" if end > limit else ""),
        )
    return ax


def step_rates(
    sweeps: Mapping[str, games.Sweep],
    *,
    critical: Mapping[str, games.CriticalStep] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Rate per step over step sizes, solid where play converges, dotted where it diverges.

    Args:
        sweeps: Results of :func:`equipoise.games.sweep` by name of the rule.
        critical: Critical steps by the same names, drawn as vertical lines.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the fastest rule and its step size.
    """
    fastest = ("", np.inf, np.inf)
    with styled():
        ax = new_axes(ax, size=(7.0, 5.0))
        for color, (name, swept) in zip(cycle(COLORS), sweeps.items(), strict=False):
            eta, rate = np.asarray(swept.step_sizes), np.asarray(swept.rate)
            verdict = np.asarray(swept.verdict)
            for value, line in _LINES.items():
                # A segment has the verdict of its left end, so that pieces join.
                part = np.where((verdict == value) | (np.roll(verdict, 1) == value), rate, np.nan)
                ax.plot(eta, part, line, color=color)
            end = None if critical is None else float(critical[name].step_size)
            label = name if end is None else f"{name}: converges below {end:.4g}"
            label = f"{name}: never converges" if end == 0 else label
            ax.plot([], [], color=color, label=label)
            if end is not None and 0 < end < eta.max():
                ax.axvline(end, color=color, linewidth=0.9, alpha=0.7)
            converging = np.where(verdict == games.CONVERGES, rate, np.inf)
            if converging.min() < fastest[1]:
                fastest = (name, converging.min(), eta[converging.argmin()])
        for value, line in _LINES.items():
            ax.plot([], [], line, color="#555555", label=value.word)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xlabel(STEP_LABEL)
        ax.set_ylabel("rate: factor of the distance per step")
        ax.set_ylim(0, min(ax.get_ylim()[1], 2))
        ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        ax.set_title(
            f"{fastest[0]} is fastest: {fastest[1]:.3f} per step at η = {fastest[2]:.3g}"
            if fastest[0]
            else "No rule converges at any of these steps"
        )
    return ax


def eigenvalue_paths(
    game: games.Game,
    rule: games.Rule,
    equilibrium: tuple[PyTree[Array], ...],
    *,
    step_sizes: Array,
    critical: games.CriticalStep | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Eigenvalues of the update as the step size grows, against the unit circle.

    Args:
        game: The game.
        rule: The update rule.
        equilibrium: A tuple of one pytree per player.
        step_sizes: Step sizes η, a vector.
        critical: Critical step of this rule; marks where the circle is left.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes, with equal scales.
    """
    etas = np.asarray(step_sizes)
    matrices: PyTree = np.asarray(update_matrices(family_of(game, rule, equilibrium), step_sizes))
    values = eigenvalues(matrices)
    with styled():
        ax = new_axes(ax, size=(5.4, 4.6))
        ax.add_patch(Circle((0, 0), 1, fill=False, color="black", linewidth=1))
        color = np.broadcast_to(etas[:, None], values.shape)
        points = ax.scatter(values.real, values.imag, c=color, s=8, zorder=3)
        figure = ax.figure
        assert isinstance(figure, Figure)
        figure.colorbar(points, ax=ax, label=STEP_LABEL, shrink=0.85)
        # A flip at −1 or a fold at 1 must not lie on the frame.
        extent = min(max(1.15, 1.08 * float(np.abs(values).max())), 3.0)
        ax.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
        ax.set(xlabel="real part of λ", ylabel="imaginary part of λ")
        title = rule.name
        if critical is not None:
            title, where = _how_lost(rule.name, critical)
            ax.scatter(
                *where, s=90, facecolors="none", edgecolors=COLORS[1], linewidths=2, zorder=4
            )
        ax.set_title(title)
    return ax


def _how_lost(name: str, critical: games.CriticalStep) -> tuple[str, tuple[float, float]]:
    """How a rule loses its equilibrium, and the eigenvalue where it does."""
    size, neutral = float(critical.step_size), float(critical.neutral_step_size)
    value = complex(critical.eigenvalue)
    where = (value.real, value.imag)
    if np.isinf(size):
        return f"{name} stays inside the circle", (np.nan, np.nan)
    attracted = float(critical.attracted_step_size)
    if size == 0 < attracted < np.inf:
        return f"{name} loses what it attracts at η = {attracted:.4g}", where
    if neutral == 0:
        return f"{name} is outside from the start", where
    if size == 0:
        return f"{name} is on the circle up to η = {neutral:.4g}", where
    degrees = np.rad2deg(float(critical.angle))
    return f"{name} leaves the circle at η = {size:.4g}, angle {degrees:.4g}°", where
