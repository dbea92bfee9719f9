"""Means, sds and quantiles of a posterior, a row per number, with intervals for their errors."""

import functools
import statistics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, type_error, value_error
from equipoise._types import Array, aligned, field_by_field, result, static_field
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._families.family import Family
from equipoise.vi._fit.result import Fit, check_fit
from equipoise.vi._weights.verdict import Verdict
from equipoise.vi._weights.weighted import moments

# Verdicts on draws whose weights are sound, though there may be too few of them.
_MEASURED = (Verdict.TRUSTED, Verdict.FEW_DRAWS, Verdict.MEAN_ERROR, Verdict.SD_ERROR)
_MOST_ROWS = 60  # that are printed


@result
class Summary:
    """Moments of a posterior, one row per number, and how exact they are.

    Attributes:
        names: Where each number is in the example, as in ``['theta'][3]``.
        mean: Posterior means.
        sd: Posterior standard deviations.
        quantiles: Posterior quantiles, a column per level.
        mean_error: Monte Carlo standard errors of the means.
        sd_error: Monte Carlo standard errors of the sds.
        mean_interval: Ends of an interval for each true mean, two columns.
        sd_interval: Ends of an interval for each true sd.
        levels: Levels of the quantiles.
        coverage: Share of the intervals that hold the truth.
        reason: That of the fit.
    """

    mean: Array
    sd: Array
    quantiles: Array
    mean_error: Array
    sd_error: Array
    mean_interval: Array
    sd_interval: Array
    names: tuple[str, ...] = static_field()
    levels: tuple[float, ...] = static_field()
    coverage: float = static_field()
    reason: str = static_field()

    def __str__(self) -> str:
        """A table; where it is long, its beginning and end."""
        if isinstance(self.mean, jax.core.Tracer) or np.ndim(self.mean) != 1:
            return field_by_field(self)
        share = f"{self.coverage:.0%}"
        header = ["", "mean", "error", share, "sd", share, *(f"{p:.4g}" for p in self.levels)]
        columns = [
            [f"  {name}" for name in self.names],
            *map(_texts, (self.mean, self.mean_error)),
            _intervals(self.mean_interval),
            _texts(self.sd),
            _intervals(self.sd_interval),
            *map(_texts, np.asarray(self.quantiles).T),
        ]
        cells = [list(row) for row in zip(*columns, strict=True)]
        left_out = len(cells) - _MOST_ROWS
        if left_out > 0:
            half = _MOST_ROWS // 2
            gap = [f"  … {left_out} more", *[""] * (len(header) - 1)]
            cells = [*cells[:half], gap, *cells[-half:]]
        return f"Summary. {self.reason}\n{aligned(cells, header=header)}"


def _texts(values: Array) -> list[str]:
    return [f"{value:.4g}" for value in np.asarray(values)]


def _intervals(ends: Array) -> list[str]:
    return [f"[{low}, {high}]" for low, high in zip(*map(_texts, np.asarray(ends).T), strict=True)]


@at("vi.summary")
def summary(
    fit: Fit, *, levels: Sequence[float] = (0.05, 0.5, 0.95), coverage: float = 0.9
) -> Summary:
    r"""Means, sds and quantiles by name, with intervals for the true ones.

    .. math::

        \bar z = \sum_i w_i z_i, \qquad s^2 = \sum_i w_i (z_i - \bar z)^2, \qquad
        \operatorname{se}^2 = \sum_i w_i^2 (z_i - \bar z)^2

    The weighted draws are those that the verdict of the fit was made on. The weights correct q, so
    that no error remains but that of a finite number of draws. The intervals, made of the standard
    errors around the mean and around the logarithm of the sd, are therefore for the true moments of
    the posterior, even where q is biased.

    Args:
        fit: What :func:`fit` returned.
        levels: Levels of the quantiles, between 0 and 1.
        coverage: Share of the intervals that hold the truth.

    Returns:
        A :class:`Summary`, which prints as a table. Where the verdict says that the weights cannot
        be believed (a heavy tail, a disagreement, no convergence) nothing is known of the truth:
        the intervals are all numbers, and for sds all positive ones.

    Raises:
        TypeError: If ``fit`` is none, or ``levels`` is no sequence.
        ValueError: If a level or ``coverage`` is not between 0 and 1.

    Cost: O(n d log n) for n weighted draws; the log density is not evaluated.

    Examples:
        >>> log_density = lambda z: -0.5 * ((z["a"] - 3) / 2) ** 2
        >>> found = vi.summary(vi.fit(log_density, {"a": 0.0}, jax.random.key(0)))
        >>> low, high = found.mean_interval[found.names.index("['a']")]
        >>> print(bool(low < 3 < high), round(float(found.sd[0]), 1))
        True 2.0

    References:
        :cite:t:`vehtari2024`, section 2; :cite:t:`owen2013`, section 9.2.
    """
    check_fit(fit)
    if np.ndim(levels) != 1:
        raise type_error("levels", "must be a sequence of numbers", levels, "Try (0.05, 0.95).")
    for name, values in (("levels", levels), ("coverage", (coverage,))):
        if not all(0 < value < 1 for value in values):
            raise value_error(name, "must lie between 0 and 1", str(values))
    numbers: AnyArray = np.asarray(_numbers(fit.family, fit.weighted.draws), float)
    log_weights: AnyArray = np.asarray(fit.weighted.log_weights, float)
    found = moments(numbers, log_weights)
    z = statistics.NormalDist().inv_cdf(0.5 + 0.5 * coverage)
    ends: AnyArray = np.asarray([-z, z])
    if fit.verdict not in _MEASURED:
        ends = np.asarray([-np.inf, np.inf])
    with np.errstate(over="ignore"):
        stretch = np.exp(ends * (found.sd_error / found.sd)[:, None])
    summarized = Summary(
        mean=found.mean,
        sd=found.sd,
        quantiles=_quantiles(numbers, np.exp(log_weights), np.asarray(levels)),
        mean_error=found.mean_error,
        sd_error=found.sd_error,
        mean_interval=found.mean[:, None] + ends * found.mean_error[:, None],
        sd_interval=found.sd[:, None] * stretch,
        names=fit.family.positions.names,
        levels=tuple(map(float, levels)),
        coverage=float(coverage),
        reason=fit.reason,
    )
    dtype = fit.weighted.draws.dtype
    placed: Summary = jax.device_put(jax.tree.map(lambda column: column.astype(dtype), summarized))
    return placed


@functools.partial(jax.jit, static_argnames="family")
def _numbers(family: Family, draws: Array) -> Array:
    """The numbers of the positions of flat draws, a row per draw."""
    leaves = jax.tree.leaves(jax.vmap(family.unravel)(draws))
    return jnp.concatenate([x.reshape(len(draws), -1).astype(draws.dtype) for x in leaves], axis=1)


def _quantiles(numbers: AnyArray, weights: AnyArray, levels: AnyArray) -> Array:
    """Quantiles of every column, between the middles of the steps of its distribution."""
    order = np.argsort(numbers, axis=0)
    steps = weights[order]
    middles = np.cumsum(steps, axis=0) - 0.5 * steps
    ordered = np.take_along_axis(numbers, order, axis=0)
    columns = zip(middles.T, ordered.T, strict=True)
    found: AnyArray = np.stack([np.interp(levels, middle, column) for middle, column in columns])
    return found
