"""The best local normals along Newton paths from several points."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from equipoise.vi._starts.normals import Local, conditional_scales, normal_elbo
from equipoise.vi._target.points import balanced
from equipoise.vi._target.target import Target
from equipoise.vi._weights.products import transported

_NUM_STEPS = 80
_NUM_POINTS = 64  # of the ELBO of a local normal
_RESOLVED = 4  # roundings of its mean that a local normal is wide


def find_starts(
    target: Target,
    center: np.ndarray,
    rng: np.random.Generator,
    num_restarts: int,
    factor: np.ndarray | None = None,
    num_steps: int = _NUM_STEPS,
) -> Local:
    """The best local normals from the center and ``num_restarts`` − 1 points around it.

    They are around it as ``factor`` says, or by 1.
    """
    around = rng.standard_normal((num_restarts - 1, len(center)))
    around = around if factor is None else around @ factor.T
    return climbed(target, np.concatenate([center[None], center + around]), rng, num_steps)


@np.errstate(all="ignore")  # a path ends where something is not finite
def climbed(
    target: Target,
    starts: np.ndarray,
    rng: np.random.Generator,
    num_steps: int = _NUM_STEPS,
    last: int | None = None,
) -> Local:
    """The best local normals along Newton paths from given points.

    Newton ascent from each of them keeps the point whose local normal has the largest ELBO. Where
    a mode exists the path ends there, and the normal is Laplace's. Where none does (a funnel
    climbs for ever) an earlier point wins, as in :cite:t:`zhang2022`; of the ``last`` ones alone
    where nothing but modes is looked for.
    """
    number, d = starts.shape
    noise = balanced(rng, _NUM_POINTS, d).astype(target.dtype)
    best = Local(starts, np.tile(np.eye(d), (number, 1, 1)), np.full(number, -np.inf))
    places = [*_newton_paths(target, starts, num_steps)]
    path, mean, factor = map(np.concatenate, zip(*places, strict=True))
    if not len(path):
        return best
    if last is not None:
        kept = np.sort(np.concatenate([np.flatnonzero(path == k)[-last:] for k in range(number)]))
        path, mean, factor = path[kept], mean[kept], factor[kept]
    narrow = mean.astype(target.dtype), factor.astype(target.dtype)
    points = np.concatenate([transported(m, w, noise) for m, w in zip(*narrow, strict=True)])
    log_p = target.values(points).reshape(len(path), -1)
    elbo = normal_elbo(np.mean(log_p, axis=1, dtype=float), factor)
    for row in np.flatnonzero(np.isfinite(elbo)):
        if elbo[row] > best.elbo[path[row]] and _is_resolved(narrow[0][row], factor[row]):
            for field, found in zip(best, (mean, factor, elbo), strict=True):
                field[path[row]] = found[row]
    return best


def _is_resolved(mean: np.ndarray, factor: np.ndarray) -> bool:
    """Whether the normal is wider than numbers are apart, as a density of rounded ones may rise.

    In a funnel it rises for ever where, rounded, effects are the same.
    """
    return bool(np.all(conditional_scales(factor) > _RESOLVED * np.spacing(np.abs(mean))))


class _Known(NamedTuple):
    """What is known at a point: the log density, and its bend and slope along directions.

    The columns of ``basis`` are directions in which the curvature is diagonal.
    """

    value: np.ndarray
    basis: np.ndarray
    bend: np.ndarray
    slope: np.ndarray

    @property
    def factor(self) -> np.ndarray:
        """Of the covariance that the curvature gives."""
        return self.basis * self.bend[:, None] ** -0.5

    @property
    def frame(self) -> np.ndarray:
        """Directions along which to tell curvatures, as long as an sd or as a Newton step.

        Where the density is flat neither is known, and may be far too long.
        """
        bend = np.maximum(self.bend, float(np.finfo(self.value.dtype).eps) ** 0.5)
        length = np.maximum(1, np.sum(self.slope**2 / bend, axis=1) ** 0.5)
        return self.basis * (length[:, None] * bend**-0.5)[:, None]


class _Paths(NamedTuple):
    """Newton paths, one per row: which they are, how damped, where, and what is known there."""

    path: np.ndarray
    damping: np.ndarray
    point: np.ndarray
    known: _Known

    def rows(self, chosen: np.ndarray) -> "_Paths":
        """Some of the paths."""
        paths: _Paths = jax.tree.map(lambda field: field[chosen], self)
        return paths


def _newton_paths(
    target: Target, starts: np.ndarray, num_steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Which paths moved, where to, and factors of the covariances of the curvature there.

    A step that lowers the density is undone, and the next one is damped.
    """
    eps = float(np.finfo(target.dtype).eps)
    n = len(starts)
    # Twice, as it takes curvatures to know how far to look for them.
    first, _ = _arrive(target, np.arange(n), np.zeros(n), starts, np.eye(starts.shape[1]))
    arrived, sound = _arrive(target, *first[:3], first.known.frame)
    here = arrived.rows(sound)
    yield here.path, here.point, here.known.factor
    for _ in range(num_steps):
        if not len(here.path):
            return
        now = here.known
        step = np.einsum("pij,pj->pi", now.basis, now.slope / (now.bend + here.damping[:, None]))
        relaxed = np.where(here.damping > 1e-3, here.damping / 5, 0.0)
        there, sound = _arrive(target, here.path, relaxed, here.point + step, now.frame)
        value = there.known.value
        accept = np.isfinite(value) & (value >= now.value - 4 * eps * abs(now.value))
        gain = np.sum(now.slope**2 / now.bend, axis=1)
        going = (gain >= eps**0.5) & (here.damping <= 1 / eps)
        moved, stays = there.rows(going & accept & sound), here.rows(going & ~accept)
        yield moved.path, moved.point, moved.known.factor
        damped = stays._replace(damping=np.maximum(stays.damping * 6, 1e-2))
        here = jax.tree.map(lambda *fields: np.concatenate(fields), damped, moved)


def _arrive(
    target: Target, path: np.ndarray, damping: np.ndarray, point: np.ndarray, frames: np.ndarray
) -> tuple[_Paths, np.ndarray]:
    """Paths at new points, and whether everything is finite there."""
    value, gradient, curvature = target.curvatures(point, frames)
    sound = np.all(np.isfinite(gradient), axis=1) & np.all(np.isfinite(curvature), axis=(1, 2))
    curvature = np.where(sound[:, None, None], curvature, np.eye(point.shape[1]))
    # Unit curvature along every axis: the units of the coordinates do not matter.
    size = np.sqrt(np.abs(np.diagonal(curvature, axis1=1, axis2=2)).astype(float))
    size = np.where(size > 0, size, 1.0)
    eigenvalues, axes = np.linalg.eigh(-curvature / size[:, :, None] / size[:, None, :])
    basis = axes / size[:, :, None]
    bend = np.maximum(np.abs(eigenvalues), point.shape[1] * float(np.finfo(target.dtype).eps))
    slope = np.einsum("pji,pj->pi", basis, gradient)
    return _Paths(path, damping, point, _Known(value, basis, bend, slope)), sound
