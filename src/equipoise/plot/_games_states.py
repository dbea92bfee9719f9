"""Figures of play and of maps: where states go, and where they settle."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

from equipoise import games
from equipoise._types import Array, PyTree
from equipoise.plot._games import STEP_LABEL
from equipoise.plot._style import COLORS, new_axes, number, styled


def phase_plane(
    game: games.Game,
    paths: Mapping[str, tuple[PyTree[Array], ...]],
    *,
    equilibrium: tuple[PyTree[Array], ...] | None = None,
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
    field: Callable[[Array, Array], tuple[Array, Array]] = jax.vmap(
        jax.vmap(lambda a, b: games.vector_field(game, (a, b)))
    )
    u, v = field(jnp.asarray(x), jnp.asarray(y))
    with styled():
        ax = new_axes(ax, size=(5.2, 5.0))
        ax.streamplot(
            x, y, -np.asarray(u), -np.asarray(v), color="#c8c8c8", linewidth=0.7, arrowsize=0.8
        )
        for color, (name, track) in zip(cycle(COLORS), tracks.items(), strict=False):
            label = f"{name}: distance ×{number(growth[name], '.3g')}"
            ax.plot(*track.T, "o-", color=color, markersize=3.5, linewidth=1.2, label=label)
            ax.plot(*track[0], "s", color="black", markersize=6, zorder=5)
            _direction(ax, track, 0.15 * extent, color)
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
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12))  # paths may go anywhere above
        nearest, farthest = min(growth, key=growth.__getitem__), max(growth, key=growth.__getitem__)
        alone = f"{nearest}: distance ×{number(growth[nearest], '.3g')} in {len(track) - 1} steps"
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
    axes: Sequence[Array],
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


def _direction(ax: Axes, track: np.ndarray, distance: float, color: str) -> None:
    """An arrowhead on the path, where it is first this far from its start, or at its end."""
    far = np.linalg.norm(track - track[0], axis=1) >= distance
    i = max(int(far.argmax()), 1) if far.any() else len(track) - 1
    if i > 0 and np.isfinite(track[i - 1 : i + 1]).all():
        arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
        middle = track[i - 1] / 2 + track[i] / 2
        ax.annotate("", middle, track[i - 1], arrowprops={**arrow, "mutation_scale": 14})


def _growth(track: np.ndarray) -> float:
    """The distance at the end over that at the start; infinite after an overflow."""
    start, end = np.linalg.norm(track[0]), np.linalg.norm(track[-1])
    return float(end / start) if np.isfinite(end) and start > 0 else np.inf
