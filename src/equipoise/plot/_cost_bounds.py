"""Which lines of a program take longest at best, and what each of them waits for."""

import numpy as np
from matplotlib.axes import Axes

from equipoise._check import at, choice, value_error
from equipoise.cost import Roofline
from equipoise.plot._style import COLORS, new_axes, styled

_KINDS = ("line", "function", "scope", "primitive", "dtype")
_RESOURCES = {"matrix units": COLORS[0], "memory": COLORS[1], "links": COLORS[2]}
_SHOWN = 10
_TEXT = 48  # characters of a line of code beside its bar


@at("plot.time_bounds")
def time_bounds(
    roofline: Roofline, /, *, kind: str = "line", libraries: bool = False, ax: Axes | None = None
) -> Axes:
    r"""Seconds that each part of a program takes at best, and the resource that it waits for.

    .. math::

        t_{\text{part}} \ge \max\Big(\sum_{\text{types}} \frac{F}{R}, \frac{Q}{B}, \frac{S}{L}\Big)

    Args:
        roofline: What ``cost.roofline`` returned.
        kind: What the parts are, as in :meth:`equipoise.cost.Cost.by`.
        libraries: Whether lines of installed packages are told apart.
        ax: Axes to draw on. By default those of a new figure.

    Returns:
        The axes: a bar for each of the ten parts that take longest, colored by the resource that
        bounds it. The title names the longest.

    Raises:
        ValueError: If ``kind`` is unknown, or no part takes a finite time above 0.

    Cost: Three evaluations per part.

    Examples:
        >>> from equipoise import plot
        >>> product = cost.analyze(lambda a, b: jnp.tanh(a @ b), "bf16[n,n]", "bf16[n,n]")
        >>> bound = cost.roofline(product, "H100", n=8192)
        >>> axes = plot.time_bounds(bound, kind="primitive")
        >>> axes.get_title(loc="left")
        'dot_general takes 1.11 ms at best, bound by matrix units'

    References:
        :cite:t:`williams2009`.
    """
    parts = roofline.by(choice("kind", kind, _KINDS), libraries=libraries)
    seconds, bound_by = np.array(list(parts.values())), parts.bound_by
    if not seconds.any() or not np.isfinite(seconds).all():
        raise value_error(
            "roofline", "must have parts that take a finite time", f"{seconds.sum()} s in all"
        )
    order = np.argsort(-seconds, kind="stable")[:_SHOWN]
    names = [str(label) for label in parts]
    if any(parts.code):
        numbers = (name.rsplit(":", 1)[-1] for name in names)
        names = [f"{number}: {code}" for number, code in zip(numbers, parts.code, strict=True)]
    unit, scale = ("ms", 1e3) if seconds.max() >= 1e-3 else ("µs", 1e6)
    with styled():
        ax = new_axes(ax, size=(7.0, 0.4 * len(order) + 1.2))
        for resource, color in _RESOURCES.items():
            rows = [row for row, i in enumerate(order) if bound_by[i] == resource]
            if rows:
                ax.barh(rows, scale * seconds[order[rows]], color=color, label=resource)
        ax.set_yticks(range(len(order)), [_short(names[i]) for i in order], fontsize=8)
        ax.set(xlabel=f"time at best ({unit})", ylim=(len(order) - 0.5, -0.5))
        ax.grid(visible=False, axis="y")
        ax.legend(title="bound by", loc="lower right")
        longest = order[0]
        ax.set_title(
            f"{_short(names[longest])} takes {scale * seconds[longest]:.3g} {unit} at best, "
            f"bound by {bound_by[longest]}",
            wrap=True,
        )
    return ax


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
