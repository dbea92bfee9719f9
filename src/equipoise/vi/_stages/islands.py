"""The last stage: annealed islands, and what they say of each other."""

import dataclasses
import math

import jax
import numpy as np

from equipoise.vi._families.draws import AnyArray
from equipoise.vi._stages.annealed import ISLANDS, PARTICLES, SNAPSHOTS, Islands, anneal
from equipoise.vi._stages.beginning import Beginning, Drawn
from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.verdict import disagreement, draws_needed
from equipoise.vi._weights.weighted import Weighted

_MOST_DRAWS = 2**14
_WIDEST = 3.0  # how much wider the widest island begins: over √coordinates
_FIRST_STEP = 0.3


@np.errstate(all="ignore")  # what is not finite has a verdict
def draw_annealed(start: Beginning) -> Drawn | None:
    """Draws of all islands at temperature 1, in blocks until their errors suffice.

    The first half of the blocks is no part of them: draws must not have moved since. None where the
    budget does not allow for one block.
    """
    each = SNAPSHOTS * ISLANDS * PARTICLES
    most = start.affordable(_MOST_DRAWS) // each
    if not most:
        return None
    most = 1 << most.bit_length() - 1
    rng, d, dtype = start.rng, len(start.mean), start.dtype
    widths = np.linspace(1, 1 + _WIDEST / math.sqrt(d), ISLANDS)
    points = widths[:, None, None] * rng.standard_normal((ISLANDS, PARTICLES, d))
    first: AnyArray = points, 0, np.zeros(ISLANDS), math.log(_FIRST_STEP), -np.inf
    arrays: AnyArray = [np.asarray(x, dtype) for x in first]
    islands = Islands(*arrays)
    mean, factor = start.over_all_modes()
    normal = mean.astype(dtype), factor.astype(dtype)
    blocks: list[np.ndarray] = []
    while True:
        key = jax.random.key(rng.integers(2**32, dtype=np.uint32))
        islands, shots = anneal(
            start.density, normal, widths.astype(dtype), islands, key, start.positions
        )
        blocks.append(np.swapaxes(np.asarray(shots, float), 0, 1).reshape(ISLANDS, -1, d))
        kept = len(blocks) // 2
        if len(blocks) & (len(blocks) - 1) or not kept:  # no power of 2
            continue
        away = mean + np.stack(blocks) @ factor.T
        drawn = _compared(islands, *(np.concatenate(x, axis=1) for x in (away[:kept], away[kept:])))
        wanted = math.ceil(draws_needed(drawn.found) / each)
        settled = not drawn.doubt or not drawn.found.khat <= drawn.found.threshold
        if (wanted <= kept and settled) or kept == most:
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
