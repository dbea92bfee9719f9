"""Figures of how a fit came about, and of whether fits are right over a prior."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from equipoise import vi
from equipoise._check import value_error
from equipoise._types import Array
from equipoise.plot._style import COLORS, VERDICT_COLORS, new_axes, new_grid, styled

_SHARE = 0.95  # of uniform histograms lie within the band
_MOST_NUMBERS = 12  # that are drawn, those with the smallest p-values
_LEAST_MARGIN = 0.01  # nats, below which differences mean nothing
_WIDTH = 0.09  # of the column of a stage, as a part of the axis of steps


def fit_history(fit: vi.Fit, *, ax: Axes | None = None) -> Axes:
    """The bound after each step of a fit, what its draws say at the end, and the stages tried.

    The curve is on the fit's own points; the level beside it is the bound on fresh draws, with two
    standard errors. The log evidence is that of the weighted draws. As the first steps may gain
    thousands of nats, the axis shows where the last nine tenths of the steps are. After the steps
    stands a column for each of ``fit.stages``, from cheap to expensive, in the color of its
    verdict; the one with a frame made the draws of the fit.

    Args:
        fit: What :func:`equipoise.vi.fit` returned.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title says where the draws come from and whether they are trusted.
    """
    history = np.asarray(fit.history, float)
    steps = np.arange(1, len(history) + 1)
    elbo, error = float(fit.elbo.value), 2 * float(fit.elbo.standard_error)
    evidence = float(fit.draw_diagnostics.log_evidence)
    ax = new_axes(ax)
    with styled():
        ax.plot(steps, history, color=COLORS[0], label="ELBO on the fit's points")
        ends = [0, len(history)]
        ax.fill_between(ends, elbo - error, elbo + error, color=COLORS[5], alpha=0.4, lw=0)
        fresh = "ELBO on fresh draws ± 2 standard errors"
        ax.plot(ends, [elbo, elbo], color=COLORS[5], label=fresh)
        ax.plot(ends, [evidence] * 2, "--", color=COLORS[1], label="log evidence by weights")
        shown = [*history[len(history) // 10 :], elbo, evidence]
        low, high = np.min(shown, where=np.isfinite(shown), initial=np.inf), np.nanmax(shown)
        if np.isfinite(low) and np.isfinite(high):
            margin = max(0.05 * (high - low), _LEAST_MARGIN)
            ax.set_ylim(low - margin, high + margin)
        _draw_stages(fit, ax)
        done = "1 step" if len(history) == 1 else f"{len(history)} steps"
        title = f"{done}, then draws: {fit.source}, {_said(fit.trusted)}"
        ax.set(xlabel="step", ylabel="nats", title=title)
        ax.legend(loc="best")
    return ax


def _said(trusted: Array | bool) -> str:  # noqa: FBT001
    return "trusted" if trusted else "not trusted"


def _draw_stages(fit: vi.Fit, ax: Axes) -> None:
    """A column for each stage, to the right of the last step."""
    last = len(fit.history)
    width = _WIDTH * last
    for number, stage in enumerate(fit.stages):
        used = stage.source == fit.source
        trusted = used and bool(fit.trusted)  # nothing is tried after draws that are
        color = VERDICT_COLORS["converges" if trusted else "diverges"]
        left = last + (number + 0.5) * width
        ax.axvspan(left, left + 0.9 * width, color=color, alpha=0.25, lw=0)
        if used:
            ax.axvspan(left, left + 0.9 * width, fill=False, ec=color, lw=1.5)
        ax.text(
            left + 0.45 * width,
            0.5,
            f"{stage.source}, {_said(trusted)}",
            rotation=90,
            ha="center",
            va="center",
            transform=ax.get_xaxis_transform(),
        )
    ax.set_xticks([step for step in MaxNLocator(integer=True).tick_values(0, last) if step <= last])
    ax.set_xlim(0, last + (len(fit.stages) + 0.7) * width)


def rank_histograms(
    calibration: vi.Calibration, *, ax: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Histograms of the ranks of true numbers, with the band where uniform ones lie.

    Args:
        calibration: What :func:`equipoise.vi.calibrate` returned.
        ax: Axes to draw on, for the numbers with the smallest p-values. Default: those of a new
            figure, for twelve numbers at most.

    Returns:
        The axes, one per number. Titles give its name and p-value.

    Raises:
        ValueError: If there are more axes than numbers.
    """
    order = np.argsort(np.asarray(calibration.p_value))
    if ax is None:
        number = min(len(order), _MOST_NUMBERS)
        columns = min(number, 3)
        rows = -(-number // columns)
        _, grid = new_grid(rows, columns, size=(3.2 * columns, 2.4 * rows + 0.3))
        for spare in grid[number:]:
            spare.set_axis_off()
        ax = grid[:number]
    if len(ax) > len(order):
        raise value_error("ax", f"must be {len(order)} axes or fewer", f"{len(ax)} of them")
    expected = np.asarray(calibration.expected)
    low, high = _band(calibration)
    edges = np.append(0, np.cumsum(expected)) / np.sum(expected)
    with styled():
        for one, number in zip(ax, order, strict=False):
            good = bool(calibration.uniform[number])
            color = VERDICT_COLORS["converges" if good else "diverges"]
            one.stairs(high, edges, baseline=low, fill=True, color="#d8d8d8")
            one.stairs(expected, edges, color="black", lw=0.8)
            one.stairs(np.asarray(calibration.counts[number]), edges, color=color, lw=1.8)
            p = float(calibration.p_value[number])
            title = f"{calibration.names[number]}: p = {p:.2g}"
            one.set(xlabel="rank / draws", ylabel="simulations", title=title, xlim=(0, 1))
            one.set_ylim(0, 1.1 * max(np.max(high), np.max(calibration.counts[number])))
    return ax


def _band(calibration: vi.Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Between which counts all bins of a uniform histogram lie, by histograms drawn for it."""
    expected = np.asarray(calibration.expected)
    number = len(np.asarray(calibration.ranks))
    drawn = np.random.default_rng(0).multinomial(number, expected / expected.sum(), size=4000)
    scaled = (drawn - expected) / np.sqrt(expected)
    reach = np.quantile(np.max(np.abs(scaled), axis=1), _SHARE) * np.sqrt(expected)
    return np.maximum(expected - reach, 0.0), expected + reach
