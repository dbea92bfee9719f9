"""Figures of attention: weights, what rows and keys do at length, and what it costs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from equipoise._check import at, value_error
from equipoise._types import Array
from equipoise.attention import AttentionStatistics
from equipoise.plot._style import COLORS, SEQUENTIAL, new_axes, pair_of_axes, styled

# A picture of weights with more rows shows less than the statistics do.
_MOST_ROWS = 512


@at("plot.attention_weights")
def attention_weights(
    weights: Array | np.ndarray,
    *,
    query_labels: Sequence[str] | None = None,
    key_labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Weights of one head as a picture, for small inputs.

    Args:
        weights: One row per query, shape ``(t, s)``, at most 512 each.
        query_labels: Names of the rows.
        key_labels: Names of the columns.
        ax: Axes to draw on; new ones by default.

    Returns:
        The axes. Masked pairs, of weight exactly 0, stay white; the title says between how many
        keys in effect, e to their entropy, the rows divide their weight.

    Raises:
        ValueError: If ``weights`` is not a matrix or too large to look at.
    """
    w = np.asarray(weights, float)
    if w.ndim != 2:
        raise value_error("weights", "must have shape (t, s), one head", w)
    if max(w.shape) > _MOST_ROWS:
        raise value_error(
            "weights",
            f"must have at most {_MOST_ROWS} rows and keys",
            w,
            "Draw plot.attention_rows(attention.attention_statistics(...)) instead.",
        )
    ax = new_axes(ax, size=(4.6, 4.0))
    with styled():
        picture = ax.imshow(
            np.ma.masked_equal(w, 0),
            # Small weights are many: without the root they all look like 0.
            norm=PowerNorm(0.5, vmin=0, vmax=w.max(initial=0) or 1),
            cmap=SEQUENTIAL,
        )
        ax.grid(visible=False)
        ax.set(xlabel="key", ylabel="query")
        for labels, axis in ((query_labels, ax.yaxis), (key_labels, ax.xaxis)):
            if labels is not None:
                axis.set_ticks(range(len(labels)), labels)
        ax.figure.colorbar(picture, ax=ax, label="weight", shrink=0.85)
        if w.size:
            logs = np.log(w, out=np.zeros_like(w), where=w > 0)
            effective = np.exp(-(w * logs).sum(1))
            low, high = (f"{count:.2g}" for count in (effective.min(), effective.max()))
            ax.set_title(
                f"A row reads {low} to {high} keys"
                if low != high
                else f"Every row reads {low} key{'' if low == '1' else 's'}"
            )
    return ax


@at("plot.attention_rows")
def attention_rows(
    statistics: AttentionStatistics,
    *,
    heads: Sequence[int] | None = None,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Entropy of every row and mass of every key, for inputs of any length.

    Args:
        statistics: Result of :func:`equipoise.attention.attention_statistics`, without batch axes.
        heads: Which heads to draw; the first four by default.
        ax: Two axes to draw on; those of a new figure by default.

    Returns:
        The figure. Its two panels show the number of keys that each row reads in effect, e to its
        entropy, and the weight that each key gets, averaged over the neighbors that share a pixel.
        Their titles name the head that reads the fewest keys, and the key of the largest weight.

    Raises:
        ValueError: If ``statistics`` has batch axes, or ``ax`` is not two axes.
    """
    entropy, mass = np.asarray(statistics.entropy), np.asarray(statistics.key_mass)
    if entropy.ndim != 2:
        raise value_error(
            "statistics",
            "must be of one batch entry",
            entropy,
            "Take one: jax.tree.map(lambda x: x[0], statistics).",
        )
    chosen = range(min(4, entropy.shape[1])) if heads is None else heads
    figure, left, right = pair_of_axes(ax, size=(9.5, 3.6))
    with styled():
        for color, head in zip(COLORS * 9, chosen, strict=False):
            for panel, y in ((left, np.exp(entropy[:, head])), (right, mass[:, head])):
                x, low, mean, high = _binned(y)
                panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
                panel.plot(x, mean, color=color, label=f"head {head}")
        left.set(xlabel="query", ylabel="keys read in effect, exp(entropy)", yscale="log")
        right.set(xlabel="key", ylabel="weight from all queries", yscale="symlog")
        right.legend()
        read = {head: float(np.exp(entropy[:, head]).mean()) for head in chosen}
        sharpest = min(read, key=read.__getitem__)
        left.set_title(f"Head {sharpest} reads the fewest keys: {read[sharpest]:.3g} on average")
        summed = mass[:, list(chosen)]
        right.set_title(f"Key {summed.max(1).argmax()} gets the most weight: {summed.max():.3g}")
    return figure


def _binned(y: np.ndarray, bins: int = 200) -> tuple[np.ndarray, ...]:
    """Position, minimum, mean and maximum over runs of neighbors."""
    parts = np.array_split(np.arange(len(y)), min(bins, max(len(y), 1)))
    parts = [part for part in parts if len(part)]
    rows = [(part.mean(), y[part].min(), y[part].mean(), y[part].max()) for part in parts]
    return tuple(np.array(rows).reshape(-1, 4).T)


@at("plot.attention_costs")
def attention_costs(
    lengths: Sequence[int],
    memory: Mapping[str, Sequence[float]],
    seconds: Mapping[str, Sequence[float]],
    *,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Memory and time of several implementations against the sequence length.

    Args:
        lengths: T of each measurement.
        memory: Temporary bytes of each implementation; NaN where it could not run.
        seconds: Time of each implementation; NaN where it was not measured.
        ax: Two axes to draw on; those of a new figure by default.

    Returns:
        The figure. Its two panels have logarithmic axes and lines of slope 1 and 2 to compare with;
        their titles name what needs least at the largest length at which anything was measured.

    Raises:
        ValueError: If a series has another length than ``lengths``, or ``ax`` is not two axes.
    """
    for argument, series in (("memory", memory), ("seconds", seconds)):
        for name, values in series.items():
            if len(values) != len(lengths):
                raise value_error(
                    argument,
                    f"must have {len(lengths)} numbers for {name!r}, one per length",
                    str(len(values)),
                )
    figure, left, right = pair_of_axes(ax, size=(9.5, 3.8))
    names = list(dict.fromkeys([*memory, *seconds]))
    colors = dict(zip(names, COLORS * 9, strict=False))
    with styled():
        for panel, series, unit, label, least in (
            (left, memory, 2**20, "temporary memory (MiB)", "needs least memory"),
            (right, seconds, 1, "time (s)", "takes least time"),
        ):
            scaled = {name: np.asarray(values, float) / unit for name, values in series.items()}
            for name, y in scaled.items():
                panel.plot(lengths, y, "o-", color=colors[name], label=name, markersize=4)
            _slopes(panel, np.asarray(lengths, float))
            panel.set(xscale="log", yscale="log", xlabel="sequence length T", ylabel=label)
            panel.set_xticks(lengths, [f"{n:,}" for n in lengths])
            panel.xaxis.set_minor_locator(NullLocator())
            if series:
                panel.legend()
            panel.set_title(_least(lengths, scaled, least))
    return figure


def _least(lengths: Sequence[int], series: Mapping[str, np.ndarray], least: str) -> str:
    """Who needs least where the longest input was measured; empty where nothing was."""
    for i in reversed(range(len(lengths))):
        measured = {name: y[i] for name, y in series.items() if np.isfinite(y[i])}
        if measured:
            return f"{min(measured, key=measured.__getitem__)} {least} at T = {lengths[i]:,}"
    return ""


def _slopes(ax: Axes, lengths: np.ndarray) -> None:
    """Dotted lines proportional to T and T², from the lowest point of the panel."""
    heights = [np.asarray(line.get_ydata(), float) for line in ax.get_lines()]
    if not heights or not np.isfinite(np.concatenate(heights)).any():
        return
    low = np.nanmin(np.concatenate(heights))
    for power, text in ((1, "∝ T"), (2, "∝ T²")):
        y = low * (lengths / lengths[0]) ** power
        ax.plot(lengths, y, ":", color="#888888", linewidth=1)
        ax.annotate(text, (lengths[-1], y[-1]), color="#666666", fontsize=8, va="center")
