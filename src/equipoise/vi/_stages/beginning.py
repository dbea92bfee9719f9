"""What every stage begins from: a density, a normal like the last q, and how much it may do."""

from typing import NamedTuple

import numpy as np

from equipoise._jax.traced import Traced
from equipoise.vi._families.layout import Layout

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
        rng: Randomness of the stage.
        max_evaluations: Largest number of draws, where the user said one.
    """

    density: Traced
    positions: Layout
    dtype: np.dtype
    mean: np.ndarray
    factor: np.ndarray
    modes: tuple[np.ndarray, np.ndarray, np.ndarray]
    rng: np.random.Generator
    max_evaluations: int | None

    @property
    def sds(self) -> np.ndarray:
        """Of the coordinates."""
        return np.linalg.norm(self.factor, axis=1)

    def affordable(self, most: int) -> int:
        """Draws that a stage may make."""
        return most if self.max_evaluations is None else min(most, self.max_evaluations)
