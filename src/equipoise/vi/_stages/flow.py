"""Draws of a flow that starts as a normal like the particles before it, and bends towards p.

One of its layers can scale some coordinates by others, as partial non-centerings do, or shift them.
It follows its ELBO, which settles on a part of p if it may, and the likelihood of the particles,
which holds it everywhere. In its own coordinates p is then nearly normal, and a mixture learns what
is left, tails above all, as around any q. Weights do not see what draws never reach: so particles
are asked how much of p lies where the flow has too little.
"""

import math
from typing import NamedTuple

import numpy as np

from equipoise.vi._families.draws import AnyArray
from equipoise.vi._stages.beginning import GRADIENT, Beginning, Drawn, TooDear
from equipoise.vi._stages.coupling import (
    Couplings,
    first_couplings,
    last_order,
    mapped,
    train,
)
from equipoise.vi._weights.adapt import adapt, defended, first_mixture, log_density_of, propose
from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.effort import evaluated
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.psis import log_sum
from equipoise.vi._weights.verdict import Doubt, disagreement
from equipoise.vi._weights.weighted import Weighted, moments

_MAX_SIZE = 200  # coordinates
_PAIRS, _HIDDEN = 6, 32  # of layers, and units of each of their networks
_COLUMNS, _STEPS, _FEWEST_STEPS = 256, 8000, 2000  # draws of a step; steps, and of some use
_CHUNK = 500  # steps of a call
_PRODUCTS = 4.0  # of large matrices in the time of an elementary operation
_RATE, _WARM = 0.01, 20  # the largest, and steps until it is reached; it falls as a cosine does
_COMPONENTS, _MOST_BENT = 6, 50  # of the mixture; coordinates above which it has one alone
_NUM_ADAPTED, _ROUNDS = 4096, 12
_NUM_DRAWS, _MOST_DRAWS = 8192, 2**17
_LOST_THERE = 1.0  # nats of evidence that particles lack that then must agree in moments
_LOST = 3.0  # nats by which log p/q exceeds its mean where q has too little


class _Flow(NamedTuple):
    """A flow from noise to flat vectors: z = m + W f(noise), and its mixture of noise."""

    start: Beginning
    mean: np.ndarray
    factor: np.ndarray
    orders: np.ndarray
    couplings: Couplings

    def map(self, rows: np.ndarray, *, back: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images of the rows and log volume factors, or of what the rows are images."""
        parts = []
        for first in range(0, len(rows), _NUM_ADAPTED):
            here = rows[first : first + _NUM_ADAPTED]
            columns = np.zeros((rows.shape[1], _NUM_ADAPTED), self.start.dtype)
            columns[:, : len(here)] = here.T
            found = mapped(self.couplings, self.orders, columns, np.int32(back))
            parts.append([np.asarray(x, float).T[: len(here)] for x in found])
        images, volumes = map(np.concatenate, zip(*parts, strict=True))
        return images, volumes + np.linalg.slogdet(self.factor)[1]

    def draws(self, noise: np.ndarray, log_q: np.ndarray) -> Draws:
        """Flat vectors with log p, and log q from that of the noise."""
        images, volumes = self.map(noise, back=False)
        points = transported(self.mean, self.factor, images)
        return points, self.start.values(points), log_q - volumes

    def noise(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What flat vectors are images of, and log volume factors."""
        return self.map(np.linalg.solve(self.factor, (points - self.mean).T).T, back=True)


@np.errstate(all="ignore")  # what is not finite has no weight
def draw_by_flow(start: Beginning) -> Drawn | TooDear | None:
    """Weighted draws of a flow; None where no particles say where p is."""
    particles, d = start.particles, len(start.mean)
    if particles is None or d > _MAX_SIZE:
        return None
    # Forward and back, each with derivatives: three numbers of a network for two coordinates.
    networks = 2 * _PAIRS * _HIDDEN * 1.5 * d * 2 * GRADIENT / _PRODUCTS
    a_step = _COLUMNS * (GRADIENT * start.work + d**2 + networks)
    drawing = (_MOST_DRAWS + _ROUNDS * _NUM_ADAPTED) * start.work
    num_steps = min(int((start.budget - drawing) / a_step), _STEPS)
    if num_steps < _FEWEST_STEPS:
        return TooDear(a_step * _FEWEST_STEPS + drawing)
    flow = _trained(start, particles.weighted, num_steps - num_steps % _CHUNK)
    if flow is None:
        return None
    rng = start.rng

    def log_p(noise: np.ndarray) -> np.ndarray:
        _, values, volumes = flow.draws(noise, np.zeros(len(noise)))
        return values - volumes

    no_modes = np.zeros((0, d)), np.zeros((0, d, d)), np.zeros(0)
    components = _COMPONENTS if d <= _MOST_BENT else 1
    mixture, _ = adapt(
        log_p,
        first_mixture(rng, components, *no_modes),
        rng,
        num_samples=_NUM_ADAPTED,
        num_rounds=_ROUNDS,
    )

    wide = defended(mixture)

    def draw() -> Draws:
        return flow.draws(*propose(rng, wide, _NUM_DRAWS))

    weighted = grown(draw, draw(), num_rounds=2, most=_MOST_DRAWS // _NUM_DRAWS)
    there = np.asarray(particles.weighted.draws)
    noise, volumes = flow.noise(there)
    ratios = start.values(there) - log_density_of(wide, noise) + volumes
    found, doubt = summarize(weighted), left_out(weighted, particles.weighted, ratios)
    if not doubt and found.log_evidence - particles.found.log_evidence > _LOST_THERE:
        doubt = disagreement(particles.weighted, weighted)
    return Drawn(weighted, found, doubt)


def _trained(start: Beginning, particles: Weighted, num_steps: int) -> _Flow | None:
    """A flow after so many steps, which began as a normal like the particles."""
    rng, d, weights = start.rng, len(start.mean), np.exp(particles.log_weights)
    mean = weights @ particles.draws
    away = particles.draws - mean
    try:
        root = np.linalg.cholesky((weights[:, None] * away).T @ away)
    except np.linalg.LinAlgError:
        return None
    networks = np.dtype(np.float32)  # the weights are of what it became, whatever rounding did
    now, orders = first_couplings(rng, d, _PAIRS, _HIDDEN, networks)
    factor = root[:, last_order(orders)]
    done = np.arange(num_steps) / num_steps
    rates = _RATE * np.minimum(
        (1 + np.arange(num_steps)) / _WARM, 0.5 + 0.5 * np.cos(math.pi * done)
    )
    white = np.linalg.solve(factor, away.T).astype(networks)
    normal = mean.astype(start.dtype), factor.astype(start.dtype)
    for first in range(0, num_steps, _CHUNK):
        chunk = slice(first, first + _CHUNK)
        noise = rng.standard_normal((_CHUNK, d, _COLUMNS // 2), networks)
        chosen = rng.choice(len(weights), (_CHUNK, _COLUMNS // 2), p=weights / weights.sum())
        there = np.moveaxis(white[:, chosen], 0, 1)
        steps: AnyArray = noise, there, rates[chunk].astype(networks)
        now = train(now, orders, steps, normal, start.density, start.positions)
    evaluated(num_steps * _COLUMNS)
    couplings: AnyArray = (np.asarray(x, start.dtype) for x in now.couplings)
    couplings = Couplings(*couplings)
    return _Flow(start, mean, factor, orders, couplings)


def left_out(weighted: Weighted, there: Weighted, ratios: np.ndarray) -> Doubt:
    """How much the moments of p lack of particles where q has too little, log p/q being given.

    How much of p lies in such places the draws of q tell too, as long as they reach it all; what
    counts is what particles have there beyond that.
    """
    log_evidence = log_sum(weighted.log_ratios) - math.log(len(weighted.log_ratios))
    few, few_there = weighted.log_ratios > _LOST + log_evidence, ~(ratios < _LOST + log_evidence)
    expected = np.sum(np.exp(weighted.log_weights)[few])
    shares = np.exp(there.log_weights)[few_there]
    own = moments(weighted.draws, weighted.log_weights)
    excess = shares * max(1 - expected / max(np.sum(shares), np.finfo(float).tiny), 0)
    away = (there.draws[few_there] - own.mean) / own.sd
    mean, sd = np.abs(excess @ away), np.abs(excess @ (away**2 - 1)) / 2
    return Doubt(float(np.max(mean)), float(np.max(sd)), int(np.argmax(np.maximum(mean, sd))))
