"""Simulation-based calibration: where true positions rank among the draws of their own fits."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, positive_integer, random_key, type_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import (
    Array,
    PRNGKeyArray,
    PyTree,
    Scalar,
    aligned,
    field_by_field,
    result,
    static_field,
)
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._fit.fit import fit as default_fit
from equipoise.vi._fit.result import Fit, posterior_draws

_Fit: TypeAlias = Callable[[Callable[[PyTree], Scalar], PyTree, PRNGKeyArray], Fit]
_MIN_SIMULATIONS = 20  # two bins of ten, which is little
_EACH, _MOST_BINS = 20, 20  # ranks that a bin should have, and bins of a histogram
_FALSE_ALARMS = 0.01  # of all numbers together


@result
class Calibration:
    """Ranks of true numbers among draws of fits, uniform where those are right.

    Attributes:
        names: Where each number is in the position, as in ``['theta'][3]``.
        ranks: How many draws lie below the true number, one row per simulation, from 0 to
            ``num_draws``.
        counts: How many ranks are in each bin of the histogram, a row per number.
        expected: How many there should be in each bin.
        chi_square: Σ (count − expected)²/expected of each number.
        p_value: Probability of as large a sum where ranks are uniform.
        uniform: Whether none of this is surprising: p-values of 1 % over the number of numbers.
        trusted: Whether each simulation's fit says that it can be used.
        num_draws: Draws of each fit.
    """

    ranks: Array
    counts: Array
    expected: Array
    chi_square: Array
    p_value: Array
    uniform: Array
    trusted: Array
    names: tuple[str, ...] = static_field()
    num_draws: int = static_field()

    def __str__(self) -> str:
        """A row a number, and how many fits were trusted."""
        if isinstance(self.ranks, jax.core.Tracer) or np.ndim(self.ranks) != 2:
            return field_by_field(self)
        trusted = np.asarray(self.trusted)
        center = np.asarray(self.ranks).mean(axis=0) / self.num_draws
        columns = self.names, center, *map(np.asarray, (self.chi_square, self.p_value))
        rows = [
            [f"  {name}", f"{mean:.3f}", f"{chi:.4g}", f"{p:.2g}", "yes" if good else "no"]
            for name, mean, chi, p, good in zip(*columns, np.asarray(self.uniform), strict=True)
        ]
        table = aligned(rows, header=["", "mean rank", "chi-square", "p-value", "uniform"])
        return f"Calibration: {trusted.sum()} of {trusted.size} fits are trusted\n{table}"


@at("vi.calibrate")
def calibrate(
    prior: Callable[[PRNGKeyArray], PyTree],
    simulate: Callable[[PyTree, PRNGKeyArray], PyTree],
    log_density: Callable[[PyTree, PyTree], Scalar],
    key: PRNGKeyArray,
    *,
    num_simulations: int = 100,
    num_draws: int = 99,
    fit: _Fit = default_fit,
) -> Calibration:
    r"""Whether fits are right over the prior, by ranks of what made their data.

    .. math::

        z \sim p(z), \quad x \sim p(x \mid z), \quad z_1, \dots, z_L \sim p(\cdot \mid x)
        \quad \Rightarrow \quad \#\{l : z_l < z\} \sim \operatorname{Uniform}\{0, \dots, L\}

    Positions are drawn from the prior, data from each of them, and each data set is fitted. A q
    that is too narrow puts too many ranks at both ends, one that is too wide puts them in the
    middle, and one that is shifted puts them at the opposite end.

    Args:
        prior: ``prior(key)`` gives one position.
        simulate: ``simulate(position, key)`` gives data, a pytree of arrays.
        log_density: ``log_density(position, data)``, prior and likelihood together.
        key: All randomness.
        num_simulations: Data sets, at least 20.
        num_draws: L, the draws of each fit that the truth is ranked among.
        fit: Called as ``fit(log_density, example, key)`` with the log density of one data set.
            Default: :func:`fit`; ``functools.partial(vi.fit, support=...)`` for one with options.

    Returns:
        A :class:`Calibration`, which prints as a table; :func:`equipoise.plot.rank_histograms`
        draws it. All fits are ranked, trusted or not: ``ranks[trusted]`` are those of the former.

    Raises:
        ValueError: If ``num_simulations`` is below 20, or ``num_draws`` below 1.
        TypeError: If ``key`` is no key, or something that must be a function is none.

    Cost: one program simulates all data; then ``num_simulations`` fits, whose log density is
        compiled once.

    Examples:
        >>> prior = lambda key: jax.random.normal(key)
        >>> simulate = lambda z, key: z + jax.random.normal(key, (5,))
        >>> log_density = lambda z, x: -0.5 * z**2 - 0.5 * jnp.sum((x - z) ** 2)
        >>> found = vi.calibrate(prior, simulate, log_density, jax.random.key(0))
        >>> print(found.ranks.shape, bool(found.uniform[0]))
        (100, 1) True

    References:
        :cite:t:`talts2018`.
    """
    functions = {"prior": prior, "simulate": simulate, "log_density": log_density, "fit": fit}
    for name, function in functions.items():
        if not callable(function):
            raise type_error(name, "must be a function", function)
    positive_integer("num_simulations", num_simulations, minimum=_MIN_SIMULATIONS)
    positive_integer("num_draws", num_draws)
    random_key("key", key)

    def simulated(key: PRNGKeyArray) -> PyTree:
        of_prior, of_data, *others = jax.random.split(key, 4)
        position = prior(of_prior)
        words = jnp.stack([jax.random.key_data(other) for other in others])
        return (position, simulate(position, of_data)), words

    made, keys = _simulated(traced(simulated, key), key, num_simulations)
    made, keys = jax.device_get((made, keys))  # whose rows are no programs
    kind = jax.random.key_impl(key)
    ranks, trusted = [], []
    for index in range(num_simulations):
        truth, data = jax.device_put(jax.tree.map(operator.itemgetter(index), made))
        of_fit, of_draws = (jax.random.wrap_key_data(words, impl=kind) for words in keys[index])
        fitted = fit(functools.partial(_at, log_density, data), truth, of_fit)
        drawn = posterior_draws(fitted, of_draws, num_draws)
        pairs = zip(jax.tree.leaves(drawn), jax.tree.leaves(truth), strict=True)
        below = [np.sum(np.asarray(z) < np.asarray(one), axis=0).ravel() for z, one in pairs]
        ranks.append(np.concatenate(below))
        trusted.append(bool(fitted.trusted))
    return _told(np.stack(ranks), np.asarray(trusted), fitted.family.positions.names, num_draws)


def _at(log_density: Callable[[PyTree, PyTree], Scalar], data: PyTree, position: PyTree) -> Scalar:
    return log_density(position, data)


@functools.partial(jax.jit, static_argnames="number")
def _simulated(one: Traced, key: PRNGKeyArray, number: int) -> tuple[PyTree, Array]:
    """Positions with their data, and the words of two keys each."""
    made: tuple[PyTree, Array] = jax.vmap(one)(jax.random.split(key, number))
    return made


def _told(ranks: AnyArray, trusted: AnyArray, names: Sequence[str], num_draws: int) -> Calibration:
    """What the ranks say: bins of nearly equally many values, each with its share of them."""
    number = len(ranks)
    bins = min(max(number // _EACH, 2), _MOST_BINS, num_draws + 1)
    edges = np.arange(bins + 1) * (num_draws + 1) // bins
    counts: AnyArray = np.stack([np.histogram(column, edges - 0.5)[0] for column in ranks.T])
    expected: AnyArray = number * np.diff(edges) / (num_draws + 1)
    chi_square: AnyArray = np.sum((counts - expected) ** 2 / expected, axis=1)
    p_value = jax.scipy.special.gammaincc(0.5 * (bins - 1), 0.5 * chi_square)
    uniform: AnyArray = np.asarray(p_value) >= _FALSE_ALARMS / len(names)
    statement = chi_square, p_value, uniform
    told = Calibration(ranks, counts, expected, *statement, trusted, tuple(names), num_draws)
    placed: Calibration = jax.device_put(told)
    return placed
