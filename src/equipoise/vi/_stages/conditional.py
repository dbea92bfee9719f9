"""Draws of a few coordinates, and of all others from the normal that they leave: nested Laplace.

Latent variables of a hierarchy, a funnel, a banana: what bends them is a few coordinates. Given
those, Newton's method finds the normal of the others, wherever they are. So a hierarchy is
non-centered by as much as its data ask for, each group by itself and anew at each place.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from equipoise.vi._stages.beginning import Beginning, Drawn, TooDear, fewer
from equipoise.vi._stages.drivers import curvatures, find_drivers
from equipoise.vi._stages.modes import Following, following
from equipoise.vi._weights.adapt import adapt, defended, first_mixture, moments_of, propose
from equipoise.vi._weights.diagnose import MIN_DRAWS, summarize
from equipoise.vi._weights.effort import spent
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.psis import threshold
from equipoise.vi._weights.verdict import NO_DOUBT
from equipoise.vi._weights.weighted import weigh

_NUM_POINTS, _LEAST_POINTS = 64, 4  # at which a density's bends are looked for
_MAX_NUMBERS = 2**22  # of the second derivatives there
_MAX_SIZE = 1000  # coordinates
_NUM_CHECKED = 256  # that are asked whether other modes are near
_MOST_DRIVERS = 24
_REACH, _BROADER = 3.0, 1.5  # sds as far as a guide knows, and of the drivers that it learns from
_COMPONENTS = 12  # of the drivers' mixture
_NUM_ADAPTED, _ADAPTED_EACH = 512, 128  # draws of its rounds, at least and for each driver
_ROUNDS, _MORE, _BUDGETED = 20, 4, 40  # of the first time; draws of the second; rounds of a budget
_JOURNEYS, _STRIDE = 4, 2.0  # to where the drivers are, each with so much wider steps
_LEAST_EFFECTIVE = 5  # draws for each driver, to tell their covariance
_NUM_DRAWS, _MOST_DRAWS = 2048, 2**17  # of a round, and of all of them
_HALVES = 3  # sizes of sets, the largest first, as each compiles a program of its own
_ENOUGH = 0.1  # share of effective draws: no smaller set of drivers is tried
_APART, _SMALLEST, _MOST_SPLIT = 0.25, 7.0, 0.01  # spreads and nats between modes; share of draws


class _Guide(NamedTuple):
    """Where modes are expected: a quadratic function of the drivers, in units of a normal."""

    mean: np.ndarray
    root: np.ndarray
    coefficients: np.ndarray

    def __call__(self, drivers: np.ndarray) -> np.ndarray:
        return _quadratic(self.mean, self.root, drivers) @ self.coefficients


def _quadratic(mean: np.ndarray, root: np.ndarray, drivers: np.ndarray) -> np.ndarray:
    """Constant, linear and quadratic terms, held where they are beyond some sds."""
    z = np.clip(np.linalg.solve(root, (drivers - mean).T).T, -_REACH, _REACH)
    one, other = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, one] * z[:, other]], axis=1)


class _Conditional(NamedTuple):
    """The normals of all coordinates but the drivers, given those."""

    start: Beginning
    drivers: np.ndarray
    how: Following
    guide: _Guide
    each: float  # evaluations that a normal takes, about

    def draw(self, drivers: np.ndarray) -> Draws:
        """Flat vectors, one for each row of drivers, log p, and log q of the others given them."""
        return self.how.normals(self.expected(drivers), self.start.rng).draws

    def expected(self, drivers: np.ndarray) -> np.ndarray:
        """Those drivers, and the others where the guide expects them."""
        points = np.empty((len(drivers), len(self.start.mean)))
        points[:, self.drivers], points[:, self.how.order] = drivers, self.guide(drivers)
        return points

    def guided(self, mean: np.ndarray, root: np.ndarray) -> "_Conditional":
        """The same with a guide that learned from modes around a normal of the drivers."""
        rng, terms, before = self.start.rng, len(self.guide.coefficients), spent()
        noise = rng.standard_normal((max(_NUM_CHECKED, 2 * terms), len(mean)))
        drivers = transported(mean, _BROADER * root, noise)
        modes = self.how.normals(self.expected(drivers), rng).modes
        sound = np.all(np.isfinite(modes), axis=1)
        fitted = np.linalg.lstsq(_quadratic(mean, root, drivers)[sound], modes[sound])[0]
        each = (spent() - before) / len(modes)
        return self._replace(guide=_Guide(mean, root, fitted), each=each)

    def affordable(self, before: int) -> int:
        """Normals that are left of the budget of a stage that began with so many evaluations."""
        return int((self.start.affordable(self.how.work) - spent() + before) / self.each)

    def is_split(self, drivers: np.ndarray) -> bool:
        """Whether the others have several modes, of which Newton's method finds one."""
        order, sds, first = self.how.order, self.start.sds, self.expected(drivers)
        other = first.copy()
        noise = self.start.rng.standard_normal((len(first), len(order)))
        other[:, order] += 2 * sds[order] * noise
        here, there = (self.how.normals(begin, self.start.rng) for begin in (first, other))
        gain = there.log_mass - here.log_mass
        gap, spread = (
            np.linalg.norm((x - here.modes) / sds[order], axis=1)
            for x in (there.modes, here.draws[0][:, order])
        )
        apart = (gap > _APART * spread) & (gain > -_SMALLEST)
        return bool(np.mean(apart) > _MOST_SPLIT)

    def adapted(self, num_samples: int) -> Callable[[int], Draws]:
        """How to draw, from a mixture of the drivers that learned where they are.

        It learns anew in coordinates of what it found: wider ones as long as it is not yet there,
        and at last ones where the drivers are standard, with more draws.
        """
        here, chosen, (mean, root, _) = self, self.drivers, self.guide
        for _ in range(_JOURNEYS):
            draw, like = here._learned(mean, root, num_samples, _ROUNDS)
            found = weigh(*draw(_MORE * num_samples))
            if found.effective_sample_size > _LEAST_EFFECTIVE * len(chosen):
                weights, drivers = np.exp(found.log_weights), found.draws[:, chosen]
                mean = weights @ drivers
                away = drivers - mean
                root = np.linalg.cholesky((weights[:, None] * away).T @ away)
                break
            mean, root = like[0], _STRIDE * like[1]
            here = here.guided(mean, root)
        return here.guided(mean, root)._learned(mean, root, _MORE * num_samples, _ROUNDS // 5)[0]

    def _learned(
        self, mean: np.ndarray, root: np.ndarray, num_samples: int, num_rounds: int
    ) -> tuple[Callable[[int], Draws], tuple[np.ndarray, np.ndarray]]:
        """The same in given coordinates of the drivers, and a normal like the mixture."""
        start, chosen = self.start, self.drivers
        centers, factors, elbos = start.modes
        seen = np.linalg.solve(root, start.factor[chosen])  # of coordinates where q is standard
        centers = np.linalg.solve(root, start.mean[chosen] - mean) + centers @ seen.T
        spreads = seen @ factors
        factors = np.linalg.cholesky(spreads @ np.swapaxes(spreads, 1, 2))

        def log_p(noise: np.ndarray) -> np.ndarray:
            points = self.expected(transported(mean, root, noise))
            log_mass = self.how.normals(points, start.rng).log_mass
            # Tails decide the errors of sds, so more draws are wanted there than p has.
            return log_mass + np.log1p(np.mean(noise**2, axis=1))

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

        center, spread = moments_of(mixture)
        return draw, (mean + root @ center, root @ spread)


def _sizes(number: int, strengths: list[float]) -> list[int]:
    """How many drivers to try: those before the widest gap, then all of them, then fewer."""
    halves = [number >> k for k in range(min(number.bit_length(), _HALVES))]
    if len(strengths) < 2:
        return halves
    gap = int(np.argmin(np.divide(strengths[1:], strengths[:-1]))) + 1
    return list(dict.fromkeys([gap, *halves]))


def _conditional(start: Beginning, drivers: np.ndarray, curved: np.ndarray) -> _Conditional | None:
    """The normals given these drivers, which are near those that the start expects first."""
    found = following(start, drivers, curved)
    if found is None:
        return None
    drivers, how = found
    order, rows = np.asarray(how.order), start.factor[drivers]
    mean, root = start.mean[drivers], np.linalg.cholesky(rows @ rows.T)
    terms = _quadratic(mean, root, mean[None]).shape[1]
    linear = np.zeros((terms, len(order)))
    linear[0] = start.mean[order]
    linear[1 : 1 + len(drivers)] = np.linalg.solve(root, rows @ start.factor[order].T)
    return _Conditional(start, drivers, how, _Guide(mean, root, linear), how.fewest)


@np.errstate(all="ignore")  # what is not finite has no weight
def draw_conditionally(start: Beginning) -> Drawn | TooDear | None:
    """Weighted draws with the set of drivers that wastes the fewest.

    None where nothing bends, and where the others have several modes given any set of drivers.
    """
    before = spent()
    rng, d = start.rng, len(start.mean)
    if d > _MAX_SIZE:
        return None
    held = max(_MAX_NUMBERS // d**2, _LEAST_POINTS)
    looked = fewer(_NUM_POINTS, _LEAST_POINTS, start.work)
    noise = rng.standard_normal((min(looked, held), d))
    points = transported(start.mean, start.factor, noise).astype(start.dtype)
    curved = np.asarray(
        curvatures(start.density, points, start.sds.astype(start.dtype), start.positions)
    )
    drivers, strengths = find_drivers(
        start.density, start.positions, points, curved, start.sds, rng, most=_MOST_DRIVERS
    )
    best, choice, dear = -1.0, None, None
    for most in _sizes(len(drivers), strengths):
        tried = _conditional(start, np.array(drivers[:most]), curved)
        if tried is None:
            continue
        left = tried.affordable(before)
        if left < _BUDGETED * MIN_DRAWS:
            dear = dear or TooDear(tried.each * tried.how.work * _BUDGETED * _NUM_ADAPTED)
            continue
        tried = tried.guided(tried.guide.mean, tried.guide.root)
        wanted = max(_NUM_ADAPTED, _ADAPTED_EACH * len(tried.drivers))
        num_adapted = min(wanted, left // _BUDGETED)
        number = min(_NUM_DRAWS, left // _ROUNDS)
        make = tried.adapted(num_adapted)
        made = make(number)
        found = weigh(*made)
        rows = rng.choice(number, _NUM_CHECKED, p=np.exp(found.log_weights))
        if tried.is_split(made[0][rows][:, tried.drivers]):
            continue
        share = float(found.effective_sample_size) / number
        share *= 1.0 if found.khat <= threshold(number) else 0.1
        if share > best:
            best, choice = share, (tried, functools.partial(make, number), made)
        if share > _ENOUGH:
            break
    if choice is None:
        return dear
    best_of, draw, first = choice
    most = min(best_of.affordable(before), _MOST_DRAWS) // len(first[0])
    weighted = grown(draw, first, num_rounds=2, most=max(most, 1))
    return Drawn(weighted, summarize(weighted), NO_DOUBT)
