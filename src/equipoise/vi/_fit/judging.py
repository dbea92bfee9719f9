"""What a verdict is made with: rounds of draws of q, as many as a budget allows."""

import functools
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from equipoise._types import Array
from equipoise.vi._bounds.density import dtype_of
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._families.family import Family, Params
from equipoise.vi._stages.beginning import Beginning, budget_of, fewer
from equipoise.vi._starts.normals import Local, lower_factor
from equipoise.vi._target.points import Chance
from equipoise.vi._target.target import Target
from equipoise.vi._weights.adapt import MAX_ADAPTED
from equipoise.vi._weights.diagnose import MIN_DRAWS, flat_draws
from equipoise.vi._weights.growth import Draws

COMPONENTS = 6
_NUM_DRAWS, _FEW_DRAWS = 8192, 1024  # of a round, and where the density is dear
_LEAST_ROUNDS = 8
_MAX_NUMBERS = 2**25  # of the draws that are held


@functools.partial(jax.jit, static_argnames=("family", "num_draws"))
def _drawn(
    family: Family, params: Params, variates: Array, num_draws: int
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Draws of q with their log densities, and its mean and factor where it is normal."""
    draws, log_q = flat_draws(family, params, variates, num_draws)
    return draws, log_q, None if family.moments is None else family.moments(params)


Normal: TypeAlias = tuple[np.ndarray, np.ndarray]  # mean and Cholesky factor


class Judging(NamedTuple):
    """What a verdict is made with: draws from ``chance``, so many at a time, and rounds of them."""

    target: Target
    family: Family
    chance: Chance
    num_draws: int
    num_rounds: int
    max_evaluations: int | None
    stages: tuple[str, ...]

    @property
    def budget(self) -> int:
        """Evaluations that all rounds together are."""
        return self.num_draws * self.num_rounds

    def draw(self, params: Params) -> tuple[Draws, Normal | None]:
        """Draws of q, and a normal like it."""
        target, family, chance, number, *_ = self
        variates: AnyArray
        if family.transform_flat is None:
            variates = chance.draw_key()
        else:
            shape = number, family.noise_size
            variates = chance.draws.standard_normal(shape, np.float32).astype(dtype_of(params))
        on_device, log_q, normal = _drawn(family, params, variates, number)
        draws = np.asarray(on_device, target.dtype)
        found = draws, target.values(draws), np.asarray(log_q, float)
        if normal is None:
            return found, _normal_of(draws)
        mean, factor = (np.asarray(x, float) for x in normal)
        return found, (mean, np.diag(factor) if factor.ndim == 1 else lower_factor(factor))

    def beginning(self, normal: Normal, modes: Local) -> Beginning:
        """What stages begin from."""
        target = self.target
        return Beginning(
            target.log_density,
            target.positions,
            target.dtype,
            *normal,
            modes,
            target.values,
            target.gradients,
            self.chance.draws,
            target.log_density.work,
            budget_of(target.log_density.work, self.max_evaluations),
        )


def judging(
    target: Target,
    family: Family,
    chance: Chance,
    max_evaluations: int | None,
    stages: tuple[str, ...],
) -> Judging:
    """The rounds of draws that a budget of evaluations allows, or some seconds of work."""
    size, number = family.dimension, _NUM_DRAWS
    limit = max_evaluations
    if max_evaluations is None:
        of_mixture = COMPONENTS * size**2 if size <= MAX_ADAPTED else size
        work = target.log_density.work
        affordable = budget_of(work, None) / (work + of_mixture)
        number = fewer(number, _FEW_DRAWS, work)
        least = _LEAST_ROUNDS * number if size <= MAX_ADAPTED else number
        max_evaluations = max(int(min(affordable, _MAX_NUMBERS // size)), least)
    elif size <= MAX_ADAPTED:  # some rounds of a small budget are left to find better draws
        number = min(max(max_evaluations // _LEAST_ROUNDS, MIN_DRAWS), number)
    number = min(max_evaluations, number)
    return Judging(target, family, chance, number, max_evaluations // number, limit, stages)


def _normal_of(draws: np.ndarray) -> Normal | None:
    """The normal with the moments of the draws; None where they do not fill the space."""
    try:
        factor = np.linalg.cholesky(np.atleast_2d(np.cov(draws, rowvar=False)))
    except np.linalg.LinAlgError:
        return None
    return np.mean(draws, axis=0), factor
