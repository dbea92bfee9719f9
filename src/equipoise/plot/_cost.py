"""Costs against a size, with the crossovers marked."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from equipoise._check import at, value_error
from equipoise.cost import Expression, crossover
from equipoise.plot._style import COLORS, new_axes, styled


@at("plot.cost_curves")
def cost_curves(
    costs: Mapping[str, Expression],
    name: str,
    /,
    *,
    at: Sequence[int],
    ax: Axes | None = None,
    **sizes: int,
) -> Axes:
    r"""Costs against one size, on logarithmic axes, with each crossover marked.

    .. math::

        n \mapsto c_i(n), \qquad n^*_{ij} : c_i(n^*) = c_j(n^*)

    Args:
        costs: Label of each curve to its cost, such as ``analyze(...).flops``.
        name: The size on the horizontal axis.
        at: Values of that size, at least two, increasing.
        ax: Axes to draw on. By default those of a new figure.
        sizes: Numbers for all other sizes.

    Returns:
        The axes. Their title says which cost is largest at the end, and from where on it exceeds
        the next. Points where a cost is 0 are left out. A crossover outside the range of ``at``
        is not marked; where costs never change order there is none.

    Raises:
        ValueError: If a size is missing, or fewer than two values are given.

    Cost: One evaluation per point, and one :func:`equipoise.cost.crossover` for each pair.

    Examples:
        >>> from equipoise import plot
        >>> n, d = cost.Expression("n"), cost.Expression("d")
        >>> layers = {"attention": 4 * n**2 * d, "recurrence": 4 * n * d**2}
        >>> axes = plot.cost_curves(layers, "n", at=[64, 128, 256, 1024], d=256)
        >>> axes.get_title(loc="left")
        'attention costs more than recurrence beyond n = 256'

    References:
        The layers of :cite:t:`vaswani2017`, table 1, are the usual use.
    """
    if len(at) < 2:
        raise value_error("at", "must have two values or more", list(at))
    with styled():
        ax = new_axes(ax)
        grid = np.asarray(at)
        values = {
            label: np.array([float(cost.evaluate(**sizes, **{name: int(n)})) for n in grid])
            for label, cost in costs.items()
        }
        for (label, y), color in zip(values.items(), COLORS * len(costs), strict=False):
            shown = y > 0
            ax.loglog(grid[shown], y[shown], color=color, label=_label(label, costs[label]))
        met = _mark_crossovers(ax, costs, name, grid, sizes)
        ax.set_ylabel("cost")
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=8))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        fixed = ", ".join(f"{key} = {value:,}" for key, value in sizes.items())
        ax.set_xlabel(f"{name} ({fixed})" if fixed else name)
        ax.set_title(_finding(values, met, name), wrap=True)
        ax.legend(loc="upper left")
    return ax


def _label(name: str, expression: Expression) -> str:
    """The name, with the formula where it is short enough to read in a legend."""
    return f"{name}: ${expression.latex()}$" if len(str(expression)) <= 40 else name


def _finding(
    values: Mapping[str, np.ndarray], met: Mapping[frozenset[str], float], name: str
) -> str:
    """Which of the two largest costs at the end is larger, and from where on."""
    if len(values) == 1:
        (label,) = values
        return f"{label} against {name}"
    first, second = sorted(values, key=lambda label: -values[label][-1])[:2]
    if np.array_equal(values[first], values[second]):
        return f"{first} and {second} cost the same"
    root = met.get(frozenset((first, second)))
    if root is not None:
        return f"{first} costs more than {second} beyond {name} = {root:,g}"
    always = np.all(values[first] >= values[second])
    return f"{first} costs more than {second}" + ("" if always else " in the end")


def _mark_crossovers(
    ax: Axes,
    costs: Mapping[str, Expression],
    name: str,
    grid: np.ndarray,
    sizes: Mapping[str, int],
) -> dict[frozenset[str], float]:
    """A dot on each crossover in sight; where they are, by the pair of labels."""
    met: dict[frozenset[str], float] = {}
    for first, second in combinations(costs, 2):
        found = crossover(costs[first], costs[second], name, **sizes)
        if found.size is None or found.root is None or not grid[0] <= found.root <= grid[-1]:
            continue
        met[frozenset((first, second))] = float(found.root)
        height = float(costs[first].evaluate(**sizes, **{name: found.size}))
        ax.plot(found.root, height, "o", color="black", markersize=6, zorder=5)
        ax.annotate(
            f"{name}* = {found.root:g}",
            (found.root, height),
            xytext=(8, -14),
            textcoords="offset points",
        )
    return met
