"""What every stage begins from, a normal like the last q among it, and what it ends with."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from equipoise._jax.traced import Traced
from equipoise.vi._families.layout import Layout
from equipoise.vi._weights.diagnose import Diagnostics
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.psis import log_sum
from equipoise.vi._weights.remedy import ENOUGH
from equipoise.vi._weights.tails import log_mass, unseen_tail
from equipoise.vi._weights.verdict import NO_DOUBT, Doubt
from equipoise.vi._weights.weighted import Weighted

_SECONDS, _SPEED = 10.0, 1e10  # of work for each, at elementary operations a second
GRADIENT = 3.0  # as much work as a value
_NEAR = 5.0  # sds from a mode, over √coordinates, within which its draws are
_LEAST_SEEN, _LEAST_DRAWS = 0.25, 8  # of the share that a mode has, and draws that it is worth
_LOCAL_DRAWS = 1024  # of a local normal, to tell the mass around it

_Modes: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # means, factors and ELBOs


def budget_of(work: float, max_evaluations: int | None) -> float:
    """Operations that all of the judging may take, and each stage: some seconds, or yours."""
    return _SECONDS * _SPEED if max_evaluations is None else max_evaluations * work


def fewer(number: int, least: int, work: float) -> int:
    """That many points of a density that is cheap, and a share of them where it is dear."""
    affordable = budget_of(work, None) / work
    return max(int(number * min(affordable / ENOUGH, 1.0)), least)


class Beginning(NamedTuple):
    """Where a stage begins.

    Attributes:
        density: Log p of one position.
        positions: How positions are made of flat vectors.
        dtype: Of what is computed, float32 at least.
        mean: Of a normal like the last q.
        factor: Of its covariance, a Cholesky factor.
        modes: Means, factors and relative ELBOs of local normals that it leaves out, in coordinates
            where it is standard.
        values: Log densities of flat vectors, one per row, with the volume factors of supports.
        gradients: The same with their gradients.
        rng: Randomness of the stage.
        work: About how many elementary operations a value of the log density is.
        budget: Those that a stage may take.
        particles: What an annealed stage before this one has drawn.
    """

    density: Traced
    positions: Layout
    dtype: np.dtype
    mean: np.ndarray
    factor: np.ndarray
    modes: _Modes
    values: Callable[[np.ndarray], np.ndarray]
    gradients: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    rng: np.random.Generator
    work: float
    budget: float
    particles: "Drawn | None" = None

    @property
    def sds(self) -> np.ndarray:
        """Of the coordinates."""
        return np.linalg.norm(self.factor, axis=1)

    def over_all_modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and Cholesky factor of a normal like all of them, each with the same share."""
        centers, spreads, _ = _with_q(self.modes)
        center = np.mean(centers, axis=0)
        parts = np.concatenate([spreads, (centers - center)[:, :, None]], axis=2)
        whole = np.einsum("kis,kjs->ij", parts, parts) / len(parts)
        return self.mean + self.factor @ center, self.factor @ np.linalg.cholesky(whole)

    def unseen(self, weighted: Weighted) -> Doubt:
        """Where draws have far less mass in a tail or near one of the modes than these have."""
        normal = self.mean, self.factor
        if tail := unseen_tail(self.values, self.gradients, normal, weighted, self.rng):
            return tail
        draws = np.linalg.solve(self.factor, (np.asarray(weighted.draws) - self.mean).T).T
        weights = np.exp(np.asarray(weighted.log_weights))
        means, factors, elbos = _with_q(self.modes)
        pairs = zip(means, factors, strict=True)
        seen = np.array([np.sum(weights[_near(draws, *pair)]) for pair in pairs])
        if np.all(seen >= _LEAST_SEEN * np.exp(elbos - log_sum(elbos))):
            return NO_DOUBT
        expected = np.sum(seen) * self._shares()
        worth = expected * float(weighted.effective_sample_size) > _LEAST_DRAWS
        for mode in means[worth & (seen < _LEAST_SEEN * expected)]:
            sds = np.abs(self.factor @ mode) / self.sds
            return Doubt(float(np.max(sds)), 0.0, int(np.argmax(sds)))
        return NO_DOUBT

    def _shares(self) -> np.ndarray:
        """Of the mass that is near q or near one of the modes, told by draws of local normals.

        An ELBO is that of a normal alone: in a funnel, where it is far below the mass around it,
        those of narrow normals in the neck are not. Medians over blocks of draws, as their weights
        have heavy tails.
        """
        means, factors, _ = _with_q(self.modes)
        log_masses = []
        for center, spread in zip(means, factors, strict=True):
            noise = self.rng.standard_normal((_LOCAL_DRAWS, len(center)))
            points = transported(self.mean, self.factor, transported(center, spread, noise))
            log_q = -0.5 * np.sum(noise**2, axis=1) - np.linalg.slogdet(spread)[1]
            ratios = self.values(points) - log_q
            log_masses.append(log_mass(ratios))
        shares: np.ndarray = np.exp(np.array(log_masses) - log_sum(np.array(log_masses)))
        return shares

    def affordable(self, work: float) -> int:
        """How often a stage can do what takes so many operations."""
        return int(self.budget / work)


def _with_q(modes: _Modes) -> _Modes:
    """The modes, and before them q."""
    means, factors, elbos = modes
    d = means.shape[1]
    return np.r_[np.zeros((1, d)), means], np.r_[np.eye(d)[None], factors], np.r_[0.0, elbos]


def _near(points: np.ndarray, mode: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Whether they belong to the mode."""
    away = np.linalg.solve(factor, (points - mode).T)
    near: np.ndarray = np.linalg.norm(away, axis=0) < _NEAR + len(mode) ** 0.5
    return near


class TooDear(NamedTuple):
    """What a stage would take that its budget does not allow, in elementary operations."""

    work: float


class Drawn(NamedTuple):
    """The draws of a stage, what measures them, and how far it disagrees with itself."""

    weighted: Weighted
    found: Diagnostics
    doubt: Doubt
