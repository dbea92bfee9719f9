"""Figures of training: how sharp the loss is, and where the noise of batches holds it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from equipoise import games
from equipoise._check import value_error
from equipoise._types import Array
from equipoise.plot._games import STEP_LABEL
from equipoise.plot._style import COLORS, new_axes, styled


def sharpness(
    found: games.CriticalLearningRate,
    *,
    steps: Array,
    learning_rate: float,
    ax: Axes | None = None,
) -> Axes:
    """The sharpness along training, and the edge beyond which its learning rate would leave.

    Args:
        found: Results of :func:`equipoise.games.critical_learning_rate` at many points of a run,
            one entry per point: by ``jax.lax.map``, or results stacked leaf by leaf.
        steps: The step of each point, a vector.
        learning_rate: That of the run. The edge is the sharpness at which it would be critical.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Their title says whether the run has come to the edge, and when.

    Raises:
        ValueError: If there is not one result per step.
    """
    where, sharp = np.asarray(steps), np.asarray(found.sharpness)
    if where.ndim != 1 or sharp.shape != where.shape:
        raise value_error(
            "found",
            f"must have one entry per step, of shape {where.shape}",
            f"entries of shape {sharp.shape}",
            "Example: jax.tree.map(lambda *leaves: jnp.stack(leaves), *results).",
        )
    share = learning_rate / np.asarray(found.learning_rate)
    is_lost = share > 0
    with styled():
        ax = new_axes(ax)
        ax.plot(where, sharp, "o-", color=COLORS[0], markersize=3, label="sharpness")
        edge = sharp[is_lost] / share[is_lost]
        ax.plot(where[is_lost], edge, "--", color=COLORS[1], label="edge")
        near = np.flatnonzero(share >= 0.95)
        title = f"Training comes as near as {share.max():.2f} of the edge"
        if near.size:
            title = f"Training is at the edge from step {where[near[0]]:.0f} on"
        ax.set(xlabel="training step", ylabel="sharpness", title=title)
        ax.set_ylim(0, 1.2 * np.nanmax([*sharp, *edge]))
        ax.legend(loc="lower right")
    return ax


def noise_floors(
    floors: games.NoiseFloor,
    *,
    step_sizes: Array,
    critical: games.MeanSquareCriticalStep | None = None,
    played: Sequence[float] | Array | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The distance at which the noise of batches holds play, over step sizes.

    Args:
        floors: Results of :func:`equipoise.games.noise_floor` for many step sizes, by ``jax.vmap``.
        step_sizes: The step sizes η, a vector.
        critical: Critical step of the same game and rule; marks where the variance begins to grow.
        played: Root mean square distances of runs, one per step size, drawn as points.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Their title says where the variance begins to grow, or how far the noise reaches.

    Raises:
        ValueError: If the floors are not one per step size.
    """
    eta, distance = np.asarray(step_sizes), np.asarray(floors.distance)
    if eta.ndim != 1 or distance.shape != eta.shape:
        raise value_error(
            "floors",
            f"must be one per step size, of shape {eta.shape}",
            f"those of shape {distance.shape}",
            "Example: jax.vmap(lambda eta: games.noise_floor(..., step_size=eta))(step_sizes).",
        )
    settles = np.isfinite(distance)
    with styled():
        ax = new_axes(ax)
        ax.plot(eta[settles], distance[settles], color=COLORS[0], label="noise floor")
        if played is not None:
            ax.plot(eta, np.asarray(played), "o", color=COLORS[6], markersize=4, label="played")
        title = "At no step size does the variance stay bounded"
        if settles.any():
            title = f"Noise holds play {distance[settles].max():.3g} away at most"
        if critical is not None and np.isfinite(critical.step_size):
            end = float(critical.step_size)
            ax.axvline(end, color=COLORS[1], linewidth=1.2, label="mean-square critical step")
            title = f"The variance grows from η = {end:.4g} on"
        ax.set_yscale("log")
        ax.set(xlabel=STEP_LABEL, ylabel="root mean square distance √E‖z − z*‖²", title=title)
        ax.legend()
    return ax
