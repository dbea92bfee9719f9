"""Figures of variational inference: bounds, posteriors, gradient noise, trust, latent maps."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from numpy.typing import ArrayLike

from equipoise import vi
from equipoise.plot._style import COLORS, VERDICT_COLORS, new_axes, number, styled


def elbo_curve(
    steps: ArrayLike,
    bounds: vi.Estimate,
    *,
    optimum: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The bound over the steps of a fit, with a band of two standard errors.

    Args:
        steps: Number of the step of each bound.
        bounds: An :class:`equipoise.vi.Estimate` whose fields have one entry per step.
        optimum: The exact best bound, or the log evidence, as a line.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title gives the last bound and its distance from the optimum.
    """
    value, error = np.asarray(bounds.value), 2 * np.asarray(bounds.standard_error)
    ax = new_axes(ax)
    with styled():
        ax.fill_between(steps, value - error, value + error, color=COLORS[5], alpha=0.4, lw=0)
        ax.plot(steps, value, color=COLORS[0], label="ELBO ± 2 standard errors")
        title = f"ELBO {number(value[-1], '.2f')} nats"
        if optimum is not None:
            ax.axhline(optimum, color=COLORS[1], ls="--", label="exact optimum")
            title += f", {number(optimum - value[-1], '.2g')} below the optimum"
        ax.set(xlabel="step", ylabel="ELBO (nats)", title=title)
        ax.legend(loc="lower right")
    return ax


def posterior_pair(
    draws: ArrayLike,
    *,
    normals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    labels: tuple[str, str] = ("z₁", "z₂"),
    ax: Axes | None = None,
) -> Axes:
    """Reference draws of two coordinates, with the two-sigma ellipses of approximations.

    Args:
        draws: Reference draws of shape ``(n, 2)``.
        normals: Mean and covariance of each approximation by name.
        labels: Names of the coordinates, with units.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the approximation whose sds are the farthest off, and how far.
    """
    draws = np.asarray(draws)
    ax = new_axes(ax, size=(5.0, 4.5))
    worst = ("", 0.0)
    with styled():
        ax.scatter(
            draws[:, 0], draws[:, 1], s=3, color="#a0a0a0", alpha=0.5, lw=0, label="reference draws"
        )
        for color, (name, (mean, covariance)) in zip(COLORS, (normals or {}).items(), strict=False):
            values, vectors = np.linalg.eigh(np.asarray(covariance))
            angle = np.degrees(np.arctan2(vectors[1, -1], vectors[0, -1]))
            width, height = 4 * np.sqrt(values[::-1])
            shape = Ellipse(np.asarray(mean), width, height, angle=angle, fill=False)  # type: ignore[arg-type]
            shape.set(edgecolor=color, lw=2, label=f"{name}, 2 sd")
            ax.add_patch(shape)
            ratio = np.sqrt(np.diag(covariance)) / draws.std(axis=0) - 1
            off = float(ratio[np.argmax(np.abs(ratio))])
            worst = max(worst, (name, off), key=lambda pair: abs(pair[1]))
        title = (
            f"{worst[0]}: sd off by {number(worst[1], '+.0%')}" if worst[0] else "Reference draws"
        )
        ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
        # Below the axes: a cloud may lie in any corner.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, markerscale=3)
    return ax


def gradient_noise(
    steps: ArrayLike,
    variances: Mapping[str, ArrayLike],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Variance of gradient estimators along a fit, on a logarithmic scale.

    Args:
        steps: Number of the step at which each variance was measured.
        variances: Total variance at each step, by name of the estimator.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title names the least noisy estimator at the start and at the end.
    """
    ax = new_axes(ax)
    curves = {name: np.asarray(values) for name, values in variances.items()}
    names = list(curves)
    noise = np.stack([curves[name] for name in names])
    first, last = names[int(np.argmin(noise[:, 0]))], names[int(np.argmin(noise[:, -1]))]
    styles = ("-", "--", "-.", ":")
    with styled():
        for i, (name, values) in enumerate(curves.items()):
            ax.semilogy(steps, values, styles[i % 4], color=COLORS[i % 7], label=name)
        title = first if first == last else f"{first} first, {last} last"
        ax.set(xlabel="step", ylabel="variance of the gradient", title=f"Least noise: {title}")
        ax.legend()
    return ax


def trust_report(
    fits: Mapping[str, vi.Fit] | Sequence[vi.Fit] | vi.Fit, *, ax: Axes | None = None
) -> Axes:
    """Checks of each fit's draws against their limits: bars beyond 1 fail.

    Args:
        fits: Fits by name, several in order, or one.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Its title counts the trusted fits.
    """
    if isinstance(fits, vi.Fit):
        fits = {"fit": fits}
    elif not isinstance(fits, Mapping):
        fits = {f"fit {i}": fit for i, fit in enumerate(fits)}
    ax = new_axes(ax, size=(6.5, 1.2 + 0.5 * len(fits)))
    names = list(fits)
    ratios = np.array(
        [float(fit.draw_diagnostics.khat / fit.draw_diagnostics.threshold) for fit in fits.values()]
    )
    trusted = [bool(fit.trusted) for fit in fits.values()]
    colors = [VERDICT_COLORS["converges" if t else "diverges"] for t in trusted]
    with styled():
        ax.barh(names, np.clip(ratios, 0, 3), color=colors, height=0.6)
        for i, (fit, good) in enumerate(zip(fits.values(), trusted, strict=True)):
            size = float(fit.draw_diagnostics.effective_sample_size)
            verdict = "trusted" if good else "not trusted"
            ax.text(0.02, i, f"{verdict}, {size:.0f} effective draws", va="center", color="white")
        ax.axvline(1.0, color="black", lw=1, ls="--")
        ax.set(
            xlabel="k̂ divided by its threshold",
            xlim=(0, 3.05),
            title=f"{sum(trusted)} of {len(fits)} fits are trusted",
        )
        ax.invert_yaxis()
    return ax


def latent_map(means: ArrayLike, classes: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Latent means of data in two coordinates, one color for each class.

    Args:
        means: Latent mean of each point, shape ``(n, 2)``.
        classes: Class of each point, integers from 0; shape ``(n,)``.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes. Each class is labeled at its median.
    """
    means, classes = np.asarray(means), np.asarray(classes)
    ax = new_axes(ax, size=(5.5, 5.0))
    with styled():
        ax.scatter(means[:, 0], means[:, 1], c=classes, cmap="tab10", s=6, alpha=0.6, lw=0)
        for one in np.unique(classes):
            center = np.median(means[classes == one], axis=0)
            box = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8}
            ax.annotate(str(one), center, ha="center", va="center", weight="bold", bbox=box)
        ax.set(xlabel="latent mean 1", ylabel="latent mean 2", title="Where each class is encoded")
    return ax


def image_grid(
    images: ArrayLike, *, columns: int = 10, title: str = "", ax: Axes | None = None
) -> Axes:
    """Small gray images side by side, row after row.

    Args:
        images: Shape ``(n, height, width)``.
        columns: Images in a row.
        title: What they are.
        ax: Axes to draw on. Default: those of a new figure.

    Returns:
        The axes.
    """
    images = np.asarray(jax.device_get(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[1:]
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + 1), (i % columns) * (width + 1)
        canvas[y : y + height, x : x + width] = image
    ax = new_axes(ax, size=(0.6 * columns, 0.6 * rows + 0.5))
    with styled():
        ax.imshow(canvas, cmap="gray_r", interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=title)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    return ax
