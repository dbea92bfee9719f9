"""The one style of all figures, safe for color-blind readers; nothing global is changed."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equipoise._check import value_error

#: Okabe and Ito's palette, darkest first so that single lines have contrast.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SEQUENTIAL = "cividis"
VERDICT_COLORS = {"converges": "#0072B2", "neutral": "#E69F00", "diverges": "#D55E00"}

_STYLE: Any = {
    "axes.prop_cycle": plt.cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    # White behind every figure keeps it legible on a dark page.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "image.cmap": SEQUENTIAL,
    "figure.constrained_layout.use": True,
}


def number(value: float, spec: str) -> str:
    """A number in a title or a legend, with the minus sign that the axes have."""
    return f"{value:{spec}}".replace("-", "−")


def styled(**changes: Any) -> Any:
    """A context in which figures are drawn in the house style."""
    return mpl.rc_context({**_STYLE, **changes})


def new_axes(ax: Axes | None, *, size: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """The given axes, or those of a new figure in the house style."""
    if ax is not None:
        return ax
    with styled():
        return plt.figure(figsize=size).add_subplot()


def pair_of_axes(
    ax: Sequence[Axes] | None, *, size: tuple[float, float]
) -> tuple[Figure, Axes, Axes]:
    """The two given axes, or those of a new figure in the house style, and their figure."""
    if ax is None:
        figure, (left, right) = new_grid(1, 2, size=size)
        return figure, left, right
    if len(ax) != 2:
        raise value_error("ax", "must be two axes", f"{len(ax)} of them")
    figure = ax[0].figure  # type: ignore[assignment]
    return figure, ax[0], ax[1]


def new_grid(
    rows: int, columns: int, *, size: tuple[float, float], **keywords: Any
) -> tuple[Figure, Sequence[Any]]:
    """A new figure with a flat sequence of axes in the house style."""
    with styled():
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **keywords)
    return figure, axes.ravel().tolist()
