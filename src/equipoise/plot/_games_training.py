"""The figure of training: how sharp the loss is, against what the learning rate allows."""

import numpy as np
from matplotlib.axes import Axes

from equipoise import games
from equipoise._check import value_error
from equipoise._types import Array
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
        found: Of :func:`equipoise.games.critical_learning_rate` at many points of a run, its arrays
            one a point: by ``jax.lax.map``, or results stacked leaf by leaf.
        steps: The step of each point, a vector.
        learning_rate: That of the run. The edge is the sharpness at which it would be critical.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Their title says whether the run has come to the edge, and when.

    Raises:
        ValueError: If there is not one result a step.
    """
    where, sharp = np.asarray(steps), np.asarray(found.sharpness)
    if where.ndim != 1 or sharp.shape != where.shape:
        raise value_error(
            "found",
            f"must have one entry a step, of shape {where.shape}",
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
