"""The last stage: annealed islands, and what they say of each other."""

import dataclasses
import math

import jax
import numpy as np

from equipoise.vi._families.draws import AnyArray
from equipoise.vi._stages.annealed import GRADIENTS, ISLANDS, SNAPSHOTS, Islands, anneal
from equipoise.vi._stages.beginning import GRADIENT, Beginning, Drawn, TooDear
from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.effort import evaluated
from equipoise.vi._weights.verdict import disagreement, draws_needed
from equipoise.vi._weights.weighted import Weighted

_MOST_DRAWS, _MOST_ROUNDS = 2**14, 100
_PARTICLES = 64, 32, 16  # of an island, as many as can go so far:
_USEFUL_ROUNDS = 48
_WIDEST = 3.0  # how much wider the widest island begins: over √coordinates
_FIRST_STEP = 0.3


@np.errstate(all="ignore")  # what is not finite has a verdict
def draw_annealed(start: Beginning) -> Drawn | TooDear | None:
    """Draws of all islands at temperature 1, in blocks until their errors suffice.

    The first half of the blocks is no part of them: draws must not have moved since. None where no
    islands arrive there.
    """
    rng, d, dtype = start.rng, len(start.mean), start.dtype
    a_round = ISLANDS * GRADIENTS * (GRADIENT * start.work + d**2)  # operations for each particle
    fitting = (n for n in _PARTICLES if start.affordable(n * a_round) >= _USEFUL_ROUNDS)
    particles = next(fitting, None)
    if particles is None:
        return TooDear(_PARTICLES[0] * a_round * _USEFUL_ROUNDS)
    left = start.affordable(particles * a_round)
    each = SNAPSHOTS * ISLANDS * particles
    widths = np.linspace(1, 1 + _WIDEST / math.sqrt(d), ISLANDS)
    points = widths[:, None, None] * rng.standard_normal((ISLANDS, particles, d))
    first: AnyArray = points, 0, np.zeros(ISLANDS), math.log(_FIRST_STEP), -np.inf
    arrays: AnyArray = [np.asarray(x, dtype) for x in first]
    islands = Islands(*arrays)
    mean, factor = start.over_all_modes()
    normal = mean.astype(dtype), factor.astype(dtype)
    blocks: list[np.ndarray] = []
    while True:
        key = jax.random.key(rng.integers(2**32, dtype=np.uint32))
        most_rounds = np.int32(min(left, _MOST_ROUNDS))
        islands, shots, *counts = anneal(
            start.density,
            normal,
            widths.astype(dtype),
            islands,
            key,
            most_rounds,
            start.positions,
        )
        taken, rounds = map(int, counts)
        evaluated(ISLANDS * particles * (1 + GRADIENTS * rounds))
        left -= rounds
        if taken < SNAPSHOTS:
            return None if rounds == _MOST_ROUNDS else TooDear(2 * start.budget)
        blocks.append(np.swapaxes(np.asarray(shots, float), 0, 1).reshape(ISLANDS, -1, d))
        kept = len(blocks) // 2
        if len(blocks) & (len(blocks) - 1) or not kept:  # no power of 2
            continue
        away = mean + np.stack(blocks) @ factor.T
        drawn = _compared(islands, *(np.concatenate(x, axis=1) for x in (away[:kept], away[kept:])))
        wanted = math.ceil(draws_needed(drawn.found) / each)
        settled = not drawn.doubt or not drawn.found.khat <= drawn.found.threshold
        more = 2 * kept * each <= _MOST_DRAWS and 2 * len(blocks) * SNAPSHOTS <= left
        if (wanted <= kept and settled) or not more:
            return drawn


def _compared(islands: Islands, before: np.ndarray, kept: np.ndarray) -> Drawn:
    """The draws that are kept, with errors from the differences of islands."""
    evidence = np.asarray(islands.log_evidence, float)
    largest = np.max(evidence)
    masses = np.exp(evidence - largest)
    share = masses / np.sum(masses)
    number, d = kept.shape[1:]

    def weighted_of(draws: AnyArray) -> Weighted:
        log_weights: AnyArray = np.repeat(np.log(share / draws.shape[1]), draws.shape[1])
        effective: AnyArray = draws.shape[1] / np.sum(share**2)
        khat: AnyArray = np.asarray(islands.khat, float)
        return Weighted(draws.reshape(-1, d), log_weights, log_weights, khat, effective)

    def spread(of_islands: AnyArray) -> tuple[AnyArray, AnyArray]:
        mean = share @ of_islands
        variance = share**2 @ (of_islands - mean) ** 2 * ISLANDS / (ISLANDS - 1)
        return mean, variance**0.5

    weighted = weighted_of(kept)
    mean, mean_error = spread(np.mean(kept, axis=1))
    variance, variance_error = spread(np.mean((kept - mean) ** 2, axis=1))
    sd: AnyArray = variance**0.5
    found = dataclasses.replace(
        summarize(weighted),
        effective_sample_size=min(ISLANDS * number, np.min(sd / mean_error) ** 2),
        mean_error=np.max(mean_error / sd),
        sd_error=np.max(variance_error / (2 * variance)),
        log_evidence=largest + np.log(np.mean(masses)),
        log_evidence_error=np.std(masses, ddof=1) / np.mean(masses) / ISLANDS**0.5,
    )
    return Drawn(weighted, found, disagreement(weighted_of(before), weighted))
