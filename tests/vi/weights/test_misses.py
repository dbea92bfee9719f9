"""Evidence that is said to be missed is missed, whatever the tail of the weights that say so."""

import dataclasses

import numpy as np
import pytest

from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.verdict import misses
from equipoise.vi._weights.weighted import weigh

NUM_DRAWS = 4096


def weighted(log_ratios):
    """Draws with those log ratios."""
    draws = np.zeros((len(log_ratios), 1)) + np.arange(len(log_ratios))[:, None]
    return weigh(draws, log_ratios, np.zeros(len(log_ratios)))


def exact(log_evidence=0.0):
    """What draws of the target itself say."""
    found = summarize(weighted(np.zeros(NUM_DRAWS)))
    return dataclasses.replace(found, log_evidence=log_evidence)


@pytest.mark.parametrize("shape", [0.5, 0.75, 0.95])
def test_good_draws_miss_nothing_that_heavy_tails_may_show(shape, rng):
    """Pareto weights with mean 1, of which one in hundreds is worth more than all others."""
    scale = 1 - shape
    above = 0
    for _ in range(1000):
        log_ratios = np.log(scale) - shape * np.log(rng.random(NUM_DRAWS))
        found = weighted(log_ratios)
        assert not misses(exact(), found)
        spread = float(summarize(found).log_evidence_error)
        above += float(summarize(found).log_evidence) > max(4 * spread, 0.05)
    # What standard errors of smoothed weights would say, more often than the claimed 1 in 10 000.
    assert above > 0 or shape < 0.7


@pytest.mark.parametrize("lost", [0.15, 0.7])
def test_evidence_that_is_lost_is_missed(lost, rng):
    """Weights as those of a good q, of a target with more mass than the draws found."""
    for _ in range(20):
        log_ratios = 0.3 * rng.standard_normal(NUM_DRAWS) - 0.045
        assert misses(exact(-lost), weighted(log_ratios))


def test_evidence_of_weights_that_are_not_finite_proves_nothing():
    log_ratios = np.full(NUM_DRAWS, -np.inf)
    with np.errstate(all="ignore"):
        assert not misses(exact(), weighted(log_ratios))
