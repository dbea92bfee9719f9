"""Draws of a few coordinates, and of all others from the normal that they leave: nested Laplace.

Latent variables of a hierarchy, a funnel, a banana: what bends them is a few coordinates. Given
those, Newton's method finds the normal of the others, wherever they are. So a hierarchy is
non-centered by as much as its data ask for, each group by itself and anew at each place.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from equipoise.vi._stages.beginning import Beginning, Drawn
from equipoise.vi._stages.drivers import find_drivers
from equipoise.vi._stages.modes import local_normals
from equipoise.vi._weights.adapt import adapt, defended, first_mixture, propose
from equipoise.vi._weights.diagnose import MIN_DRAWS, summarize
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.psis import threshold
from equipoise.vi._weights.verdict import NO_DOUBT
from equipoise.vi._weights.weighted import weigh

_NUM_POINTS = 64  # at which a density's bends are looked for
_NUM_CHECKED = 256  # that are asked whether other modes are near
_MOST_DRIVERS = 12
_COMPONENTS, _NUM_ADAPTED = 12, 512  # of the drivers' mixture, and draws of a round
_ROUNDS, _MORE, _BUDGETED = 8, 4, 32  # of the first time; draws of the second; rounds of a budget
_LEAST_EFFECTIVE = 20  # draws for each driver, to tell their covariance
_NUM_DRAWS, _MOST_DRAWS = 2048, 2**15  # of a round, and of all of them
_ENOUGH = 0.25  # share of effective draws: no smaller set of drivers is tried
_SHARE, _WIDER = 0.25, 1.0  # of draws from wider normals, and how much: over √coordinates
_APART, _SMALLEST, _MOST_SPLIT = 0.25, 7.0, 0.01  # spreads and nats between modes; share of draws


class _Conditional(NamedTuple):
    """The normals of all coordinates but the drivers, given those."""

    start: Beginning
    drivers: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """Which coordinates follow."""
        return ~np.isin(np.arange(len(self.start.mean)), self.drivers)

    def draw(self, drivers: np.ndarray) -> Draws:
        """Flat vectors, one for each row of drivers, log p, and log q of the others given them."""
        n, free = len(drivers), self.free
        noise, log_q = _wide_noise(self.start.rng, n, int(free.sum()))
        points, log_p, log_volume = local_normals(self.start, free, self.expected(drivers), noise)
        return points, log_p, log_q + log_volume

    def expected(self, drivers: np.ndarray) -> np.ndarray:
        """Where the others are in the mean of the normal that the stage begins with."""
        mean, free = self.start.mean, self.free
        covariance = self.start.factor @ self.start.factor.T
        slope = np.linalg.solve(covariance[np.ix_(~free, ~free)], covariance[np.ix_(~free, free)])
        points = np.tile(mean, (len(drivers), 1))
        points[:, ~free] = drivers
        points[:, free] += (drivers - mean[~free]) @ slope
        return points

    def is_split(self, drivers: np.ndarray) -> bool:
        """Whether the others have several modes, of which Newton's method finds one."""
        free, sds, first = self.free, self.start.sds, self.expected(drivers)
        rng, shape = self.start.rng, (len(first), int(free.sum()))
        other = first.copy()
        other[:, free] += 2 * sds[free] * rng.standard_normal(shape)
        none, some = np.zeros(shape), rng.standard_normal(shape)
        (here, *found), (there, *again), (drawn, *_) = (
            local_normals(self.start, free, begin, noise)
            for begin, noise in ((first, none), (other, none), (first, some))
        )
        gain = (again[0] - again[1]) - (found[0] - found[1])
        gap, spread = (np.linalg.norm((x - here) / sds, axis=1) for x in (there, drawn))
        apart = (gap > _APART * spread) & (gain > -_SMALLEST)
        return bool(np.mean(apart) > _MOST_SPLIT)

    def adapted(self, num_samples: int) -> Callable[[int], Draws]:
        """How to draw, from a mixture of the drivers that learned where they are.

        It learns twice: the second time in coordinates where they are standard, and with more
        draws, as by then they are where the drivers are.
        """
        start, chosen = self.start, self.drivers
        rows = start.factor[chosen]
        mean, root = start.mean[chosen], np.linalg.cholesky(rows @ rows.T)
        draw = self._learned(mean, root, num_samples, _ROUNDS)
        found = weigh(*draw(_MORE * num_samples))
        if found.effective_sample_size > _LEAST_EFFECTIVE * len(chosen):
            weights, drivers = np.exp(found.log_weights), found.draws[:, chosen]
            mean = weights @ drivers
            away = drivers - mean
            root = np.linalg.cholesky((weights[:, None] * away).T @ away)
        return self._learned(mean, root, _MORE * num_samples, _ROUNDS // 2)

    def _learned(
        self, mean: np.ndarray, root: np.ndarray, num_samples: int, num_rounds: int
    ) -> Callable[[int], Draws]:
        """The same in given coordinates of the drivers."""
        start, chosen = self.start, self.drivers
        centers, factors, elbos = start.modes
        seen = np.linalg.solve(root, start.factor[chosen])  # of coordinates where q is standard
        centers = np.linalg.solve(root, start.mean[chosen] - mean) + centers @ seen.T
        spreads = seen @ factors
        factors = np.linalg.cholesky(spreads @ np.swapaxes(spreads, 1, 2))

        def log_p(noise: np.ndarray) -> np.ndarray:
            _, log_p, log_q = self.draw(transported(mean, root, noise))
            # Tails decide the errors of sds, so more draws are wanted there than p has.
            return log_p - log_q + np.log1p(np.mean(noise**2, axis=1))

        mixture, _ = adapt(
            log_p,
            first_mixture(start.rng, _COMPONENTS, centers, factors, elbos),
            start.rng,
            num_samples=num_samples,
            num_rounds=num_rounds,
        )
        wide, log_volume = defended(mixture), np.sum(np.log(np.diagonal(root)))

        def draw(number: int) -> Draws:
            noise, log_q = propose(start.rng, wide, number)
            points, log_p, log_rest = self.draw(transported(mean, root, noise))
            return points, log_p, log_q - log_volume + log_rest

        return draw


def _wide_noise(rng: np.random.Generator, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a standard normal, some of them wider so that tails are covered, and log q."""
    wide = 1 + _WIDER / math.sqrt(size)
    noise = np.where(rng.random((n, 1)) < _SHARE, wide, 1.0) * rng.standard_normal((n, size))
    square = 0.5 * np.sum(noise**2, axis=1)
    narrow = math.log1p(-_SHARE) - square
    broad = math.log(_SHARE) - size * math.log(wide) - square / wide**2
    return noise, np.logaddexp(narrow, broad) - 0.5 * size * math.log(2 * math.pi)


@np.errstate(all="ignore")  # what is not finite has no weight
def draw_conditionally(start: Beginning) -> Drawn | None:
    """Weighted draws with the set of drivers that wastes the fewest.

    None where nothing bends, where the others have several modes given any set of drivers, and
    where the budget is too small to find one.
    """
    rng, d = start.rng, len(start.mean)
    budget = start.affordable(_MOST_DRAWS)
    number = min(_NUM_DRAWS, budget)
    num_adapted = min(_NUM_ADAPTED, budget // _BUDGETED)
    if num_adapted < MIN_DRAWS or d > start.most_curved:
        return None
    points = transported(start.mean, start.factor, rng.standard_normal((_NUM_POINTS, d)))
    drivers = find_drivers(
        start.density,
        start.positions,
        points.astype(start.dtype),
        start.sds,
        rng,
        most=_MOST_DRIVERS,
    )
    best, choice = -1.0, None
    while drivers:
        tried = _Conditional(start, np.sort(drivers))
        drivers = drivers[: len(drivers) // 2]
        make = tried.adapted(num_adapted)
        made = make(number)
        found = weigh(*made)
        chosen = rng.choice(number, _NUM_CHECKED, p=np.exp(found.log_weights))
        if tried.is_split(made[0][chosen][:, tried.drivers]):
            continue
        share = float(found.effective_sample_size) / number
        share *= 1.0 if found.khat <= threshold(number) else 0.1
        if share > best:
            best, choice = share, (functools.partial(make, number), made)
        if share > _ENOUGH:
            break
    if choice is None:
        return None
    weighted = grown(*choice, num_rounds=2, most=budget // number)
    return Drawn(weighted, summarize(weighted), NO_DOUBT)
