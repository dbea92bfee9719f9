"""What every stage begins from, a normal like the last q among it, and what it ends with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from equipoise._jax.traced import Traced
from equipoise.vi._families.layout import Layout
from equipoise.vi._weights.diagnose import Diagnostics
from equipoise.vi._weights.verdict import NO_DOUBT, Doubt
from equipoise.vi._weights.weighted import Weighted

_SECONDS, _SPEED = 10.0, 1e10  # of work for each, at elementary operations a second
GRADIENT = 3.0  # as much work as a value
_NEAR = 5.0  # sds from a mode, over √coordinates, within which its draws are
_LEAST_SEEN = 0.25  # of the share that a mode must have


def budget_of(work: float, max_evaluations: int | None) -> float:
    """Operations that all of the judging may take, and each stage: some seconds, or yours."""
    return _SECONDS * _SPEED if max_evaluations is None else max_evaluations * work


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
    modes: tuple[np.ndarray, np.ndarray, np.ndarray]
    values: Callable[[np.ndarray], np.ndarray]
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
        means, factors, _ = self.modes
        centers = np.concatenate([np.zeros((1, len(self.mean))), means])
        spreads = np.concatenate([np.eye(len(self.mean))[None], factors])
        center = np.mean(centers, axis=0)
        parts = np.concatenate([spreads, (centers - center)[:, :, None]], axis=2)
        whole = np.einsum("kis,kjs->ij", parts, parts) / len(parts)
        return self.mean + self.factor @ center, self.factor @ np.linalg.cholesky(whole)

    def unseen(self, weighted: Weighted) -> Doubt:
        """Where draws have far less mass near one of the modes than its ELBO proves."""
        draws = np.linalg.solve(self.factor, (np.asarray(weighted.draws) - self.mean).T)
        weights = np.exp(np.asarray(weighted.log_weights))
        shares = np.exp(self.modes[2]) / (1 + np.sum(np.exp(self.modes[2])))
        for mode, factor, share in zip(*self.modes[:2], shares, strict=True):
            away = np.linalg.solve(factor, draws - mode[:, None])
            near = np.linalg.norm(away, axis=0) < _NEAR + len(mode) ** 0.5
            if np.sum(weights[near]) < _LEAST_SEEN * share:
                sds = np.abs(self.factor @ mode) / self.sds
                return Doubt(float(np.max(sds)), 0.0, int(np.argmax(sds)))
        return NO_DOUBT

    def affordable(self, work: float) -> int:
        """How often a stage can do what takes so many operations."""
        return int(self.budget / work)


class TooDear(NamedTuple):
    """What a stage would take that its budget does not allow, in elementary operations."""

    work: float


class Drawn(NamedTuple):
    """The draws of a stage, what measures them, and how far it disagrees with itself."""

    weighted: Weighted
    found: Diagnostics
    doubt: Doubt
