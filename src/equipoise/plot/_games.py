"""Figures of games: where the steps stop converging, and what play does instead."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Circle

from equipoise import games
from equipoise.games._spectrum import update_matrix
from equipoise.plot._style import COLORS, VERDICT_COLORS, new_axes, styled

LINES = {"converges": "-", "neutral": "--", "diverges": ":"}
VERDICTS = {games.CONVERGES: "converges", games.NEUTRAL: "neutral", games.DIVERGES: "diverges"}
STEP_LABEL = "step size η"


def critical_steps(comparison: games.Comparison, *, ax: Axes | None = None) -> Axes:
    """Bars of the step sizes at which each rule converges, is bounded, and diverges.

    Args:
        comparison: From :func:`equipoise.games.compare`.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the rule that converges for the largest steps.
    """
    names, steps = comparison.names, comparison.steps
    limit = float(comparison.max_step_size)
    ends = np.array([[float(s.step_size), float(s.neutral_step_size)] for s in steps])
    order = np.lexsort((ends[:, 1], ends[:, 0]))
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
            if size == 0:
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
            if end == 0
            else f"{best} converges up to η = {min(end, limit):.4g}"
            + (", the end of the search" if end > limit else ""),
        )
    return ax


def step_rates(
    sweeps: Mapping[str, Any],
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
        for color, (name, swept) in zip(_colors(), sweeps.items(), strict=False):
            eta, rate = np.asarray(swept.step_sizes), np.asarray(swept.rate)
            verdict = np.asarray(swept.verdict)
            for value, word in VERDICTS.items():
                # A segment has the verdict of its left end, so that pieces join.
                part = np.where((verdict == value) | (np.roll(verdict, 1) == value), rate, np.nan)
                ax.plot(eta, part, LINES[word], color=color)
            end = None if critical is None else float(critical[name].step_size)
            label = name if end is None else f"{name}: converges below {end:.4g}"
            label = f"{name}: never converges" if end == 0 else label
            ax.plot([], [], color=color, label=label)
            if end is not None and 0 < end < eta.max():
                ax.axvline(end, color=color, linewidth=0.9, alpha=0.7)
            converging = np.where(verdict == games.CONVERGES, rate, np.inf)
            if converging.min() < fastest[1]:
                fastest = (name, converging.min(), eta[converging.argmin()])
        for word, style in LINES.items():
            ax.plot([], [], style, color="#555555", label=word)
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
    equilibrium: Any,
    *,
    step_sizes: Any,
    critical: games.CriticalStep | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Eigenvalues of the update as the step size grows, against the unit circle.

    Args:
        game: The game.
        rule: The update rule.
        equilibrium: A tuple of one pytree a player.
        step_sizes: Step sizes η, a vector.
        critical: Of this rule; marks where the circle is left.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes, with equal scales.
    """
    etas = jnp.asarray(step_sizes)
    values = jax.jit(
        jax.vmap(lambda eta: jnp.linalg.eigvals(update_matrix(game, rule, equilibrium, eta)))
    )(etas)
    values = np.asarray(values)
    with styled():
        ax = new_axes(ax, size=(5.4, 4.6))
        ax.add_patch(Circle((0, 0), 1, fill=False, color="black", linewidth=1))
        color = np.broadcast_to(np.asarray(etas)[:, None], values.shape)
        points = ax.scatter(values.real, values.imag, c=color, s=8, zorder=3)
        figure: Any = ax.figure
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


def phase_plane(
    game: games.Game,
    paths: Mapping[str, Any],
    *,
    equilibrium: Any = None,
    extent: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Trajectories of two scalar players over the direction of steepest play.

    Args:
        game: A game of two scalars.
        paths: Results of :func:`equipoise.games.simulate` by name.
        equilibrium: Where to draw a cross. Default: nowhere.
        extent: Half the width of the window around the equilibrium (or 0). Default: all of the
            paths that is within ten times the largest start.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the paths that end nearest and farthest, relative to their start.
    """
    tracks = {
        name: np.stack([np.asarray(x).reshape(len(x), -1)[:, 0] for x in jax.tree.leaves(path)], 1)
        for name, path in paths.items()
    }
    center = np.zeros(2) if equilibrium is None else np.asarray(ravel_pytree(equilibrium)[0])
    growth = {name: _growth(track - center) for name, track in tracks.items()}
    if extent is None:
        starts = max(np.abs(track[0] - center).max() for track in tracks.values())
        reach = max(np.nanmax(np.abs(track - center)) for track in tracks.values())
        extent = 1.15 * float(min(reach, 10 * starts))
    grid = np.linspace(-extent, extent, 25)
    x, y = np.meshgrid(center[0] + grid, center[1] + grid)
    field: Any = jax.vmap(jax.vmap(lambda a, b: games.vector_field(game, (a, b))))
    u, v = field(jnp.asarray(x), jnp.asarray(y))
    with styled():
        ax = new_axes(ax, size=(5.2, 5.0))
        ax.streamplot(
            x, y, -np.asarray(u), -np.asarray(v), color="#c8c8c8", linewidth=0.7, arrowsize=0.8
        )
        for color, (name, track) in zip(_colors(), tracks.items(), strict=False):
            label = f"{name}: distance ×{growth[name]:.3g}"
            ax.plot(*track.T, "o-", color=color, markersize=3.5, linewidth=1.2, label=label)
            ax.plot(*track[0], "s", color="black", markersize=6, zorder=5)
        if equilibrium is not None:
            ax.plot(*center, "x", color="black", markersize=8, markeredgewidth=2, zorder=5)
        ax.set(
            xlim=(center[0] - extent, center[0] + extent),
            ylim=(center[1] - extent, center[1] + extent),
            aspect="equal",
            xlabel="first player",
            ylabel="second player",
        )
        ax.grid(visible=False)
        ax.legend(loc="upper right", frameon=True, framealpha=0.9)
        nearest, farthest = min(growth, key=growth.__getitem__), max(growth, key=growth.__getitem__)
        alone = f"{nearest}: distance ×{growth[nearest]:.3g} in {len(track) - 1} steps"
        ax.set_title(alone if len(tracks) == 1 else f"{nearest} ends nearest, {farthest} farthest")
    return ax


def orbit_diagram(
    diagram: games.OrbitDiagram,
    *,
    coordinate: int = 0,
    label: str = STEP_LABEL,
    ax: Axes | None = None,
) -> Axes:
    """States that a map settles on, over a parameter.

    Args:
        diagram: From :func:`equipoise.games.orbit_diagram`, over one scalar parameter.
        coordinate: Which number of the state is drawn.
        label: What the parameter is called, with its unit.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title says where the period doubles.
    """
    parameters = np.asarray(jax.tree.leaves(diagram.parameters)[0])
    states = np.concatenate(
        [np.asarray(x).reshape(*x.shape[:2], -1) for x in jax.tree.leaves(diagram.states)], axis=2
    )[:, :, coordinate]
    periods = np.asarray(diagram.periods)
    with styled():
        ax = new_axes(ax, size=(7.0, 4.2))
        ax.plot(
            np.repeat(parameters, states.shape[1]),
            states.ravel(),
            ",",
            color=COLORS[0],
            alpha=0.6,
            rasterized=True,
        )
        doubled = _doublings(parameters, periods)
        for _, parameter in doubled:
            ax.axvline(parameter, color=COLORS[1], linewidth=0.8, linestyle="--")
        ax.set(xlabel=label, ylabel="states visited", xlim=(parameters[0], parameters[-1]))
        ax.set_title(
            "; ".join(f"period {p} from {at:.4g}" for p, at in doubled)
            or "The period never doubles"
        )
    return ax


def basins(
    found: games.Basins,
    axes: Sequence[Any],
    *,
    labels: Sequence[str] = ("first coordinate", "second coordinate"),
    ax: Axes | None = None,
) -> Axes:
    """The plane colored by the attractor that each start settles on.

    Args:
        found: From :func:`equipoise.games.basins` on a grid of two axes.
        axes: The axes of that grid.
        labels: What the two coordinates are called, with units.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title says which share of the starts escapes.
    """
    count = int(found.num_attractors)
    names = ["escapes", "bounded"] + [f"attractor {i + 1}" for i in range(count)]
    palette = ["#efefef", "#8c8c8c", *(COLORS * (1 + count // len(COLORS)))[:count]]
    grid = np.asarray(found.labels).T
    present = [i for i in range(count + 2) if np.any(grid == i - 1)]
    fractions = np.asarray(found.fractions)
    with styled():
        ax = new_axes(ax, size=(5.8, 4.6))
        ax.pcolormesh(
            np.asarray(axes[0]),
            np.asarray(axes[1]),
            grid,
            cmap=ListedColormap(palette),
            norm=BoundaryNorm(np.arange(-1.5, count + 1.5), count + 2),
            shading="nearest",
            rasterized=True,
        )
        handles = [ax.scatter([], [], marker="s", s=60, color=palette[i]) for i in present]
        ax.legend(
            handles,
            [f"{names[i]}: {fractions[i]:.1%}" for i in present],
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )
        states = jax.vmap(lambda state: ravel_pytree(state)[0])(found.attractors)
        if states.shape[1] == 2:
            ax.plot(*np.asarray(states).T, "o", color="white", markeredgecolor="black", zorder=4)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        ax.grid(visible=False)
        ax.set_title(f"{fractions[0]:.1%} of the starts escape")
    return ax


def _colors() -> list[str]:
    return list(COLORS) * 4


def _how_lost(name: str, critical: games.CriticalStep) -> tuple[str, tuple[float, float]]:
    """How a rule loses its equilibrium, and the eigenvalue where it does."""
    size, neutral = float(critical.step_size), float(critical.neutral_step_size)
    value = complex(critical.eigenvalue)
    where = (value.real, value.imag)
    if np.isinf(size):
        return f"{name} stays inside the circle", (np.nan, np.nan)
    if neutral == 0:
        return f"{name} is outside from the start", where
    if size == 0:
        return f"{name} is on the circle up to η = {neutral:.4g}", where
    degrees = np.rad2deg(float(critical.angle))
    return f"{name} leaves the circle at η = {size:.4g}, angle {degrees:.4g}°", where


def _doublings(parameters: np.ndarray, periods: np.ndarray) -> list[tuple[int, float]]:
    """Where twice the period before is first found, up to three times."""
    found: list[tuple[int, float]] = []
    settled = np.flatnonzero(periods)
    while len(settled) and len(found) < 3:
        twice = 2 * int(periods[settled[0]])
        settled = settled[np.isin(periods[settled], twice).cumsum() > 0]
        if len(settled):
            found.append((twice, float(parameters[settled[0]])))
    return found


def _growth(track: np.ndarray) -> float:
    """The distance at the end over that at the start; infinite after an overflow."""
    start, end = np.linalg.norm(track[0]), np.linalg.norm(track[-1])
    return float(end / start) if np.isfinite(end) and start > 0 else np.inf
