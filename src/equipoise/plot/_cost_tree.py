"""A cost as an icicle: which part of the code, and within it which line and operation."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from equipoise._check import at, choice, value_error
from equipoise.cost import Cost
from equipoise.plot._style import COLORS, new_axes, styled

_LEVELS = {"line": ("function", "line", "primitive"), "scope": ("scope", "primitive")}
_TOO_NARROW = 0.004  # of the whole: what is narrower is drawn, but not looked into
_CHARACTERS = 95  # that fit side by side into the width of a figure of usual size


@at("plot.cost_tree")
def cost_tree(
    cost: Cost,
    /,
    *,
    kind: str = "line",
    measure: str = "flops",
    ax: Axes | None = None,
    **sizes: int,
) -> Axes:
    r"""Which parts of the code a cost belongs to, from the whole down to single operations.

    .. math::

        w_{\text{part}} = \frac{c_{\text{part}}(n, d, \dots)}{\sum c(n, d, \dots)}

    Args:
        cost: What ``cost.analyze`` returned, or a pass of ``cost.analyze_training``.
        kind: ``"line"``: functions, their lines, and the operations of each line; or ``"scope"``:
            named scopes, nested as they are, and their operations.
        measure: What is divided, as in :meth:`equipoise.cost.Cost.by`.
        ax: Axes to draw on. By default those of a new figure.
        sizes: Numbers for all sizes.

    Returns:
        The axes. Widths are shares of the whole, and every row divides the one above; the title
        names the line or scope that takes most, and its share.

    Raises:
        ValueError: If a size is missing, the cost is 0, or ``kind`` or ``measure`` is unknown.

    Cost: One evaluation per place in the code.

    Examples:
        >>> from equipoise import plot
        >>> found = cost.analyze(lambda w, x: jnp.tanh(x @ w), "f32[d,d]", "f32[n,d]")
        >>> axes = plot.cost_tree(found, kind="scope", n=8, d=64)
        >>> axes.get_title(loc="left")
        'no scope takes 100% of 66,048 flops'

    References:
        Icicle plots: :cite:t:`kruskal1983`.
    """
    levels = _LEVELS[choice("kind", kind, tuple(_LEVELS))]
    parts, shares = cost.by(*levels, measure=measure), dict[tuple[str, ...], float]()
    for i, (label, expression) in enumerate(parts.items()):
        path = _path(label, parts.code[i] if parts.code else "")
        shares[path] = shares.get(path, 0.0) + float(expression.evaluate(**sizes))
    whole, what = sum(shares.values()), measure.replace("_", " ")
    if not whole:
        raise value_error("cost", f"must have {measure} above 0", "0 at these sizes")
    with styled():
        ax = new_axes(ax, size=(8.0, 3.4))
        _draw(ax, f"{whole:,.0f} {what}", 0.0, 1.0, 0, "#d9d9d9")
        _divide(ax, {path: share / whole for path, share in shares.items()}, 0.0, 1, None)
        ax.set(xlim=(0, 1), ylim=(max(map(len, shares)) + 1, 0), xticks=[], yticks=[])
        ax.set_frame_on(False)
        ax.grid(visible=False)
        ax.set_title(_finding(shares, whole, what), wrap=True)
    return ax


def _path(label: str | tuple[str, ...], code: str) -> tuple[str, ...]:
    """What a part lies in, from the whole down: nested scopes, or lines with number and text."""
    first, *rest = (label,) if isinstance(label, str) else label
    if not code:
        return (*first.split("/"), *rest)
    line, *operation = rest
    return first, f"{line.rsplit(':', 1)[-1]}: {code}", *operation


def _divide(
    ax: Axes, shares: Mapping[tuple[str, ...], float], left: float, row: int, color: str | None
) -> None:
    """The parts side by side, the largest first, and below each what it is made of."""
    parts: dict[str, dict[tuple[str, ...], float]] = {}
    for (name, *rest), share in shares.items():
        parts.setdefault(name, {})[tuple(rest)] = share
    widths = {name: sum(inside.values()) for name, inside in parts.items()}
    for i, name in enumerate(sorted(parts, key=lambda name: -widths[name])):
        own = color or COLORS[i % len(COLORS)]
        _draw(ax, name, left, widths[name], row, own)
        inside = {rest: share for rest, share in parts[name].items() if rest}
        if inside and widths[name] > _TOO_NARROW:
            _divide(ax, inside, left, row + 1, own)
        left += widths[name]


def _draw(ax: Axes, name: str, left: float, width: float, row: int, color: str) -> None:
    alpha = 1.0 if row == 0 else max(0.25, 0.75 - 0.2 * (row - 1))
    ax.add_patch(Rectangle((left, row), width, 1, facecolor=color, alpha=alpha, edgecolor="white"))
    fits = int(width * _CHARACTERS) - 1
    if fits >= 3:
        text = name if len(name) <= fits else name[: fits - 1] + "…"
        ax.text(left + width / 2, row + 0.5, text, ha="center", va="center", fontsize=8)


def _finding(shares: Mapping[tuple[str, ...], float], whole: float, what: str) -> str:
    """The largest part, operations apart."""
    parts: dict[str, float] = {}
    for path, share in shares.items():
        name = path[-2]
        parts[name] = parts.get(name, 0.0) + share
    largest = max(parts, key=lambda name: parts[name])
    return f"{largest} takes {parts[largest] / whole:.0%} of {whole:,.0f} {what}"
