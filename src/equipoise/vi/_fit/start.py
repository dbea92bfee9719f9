"""Where a fit begins: the best local normal along Newton paths from several points."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import same_structure, value_error
from equipoise._types import Array, PyTree
from equipoise.vi._families.family import Family
from equipoise.vi._families.layout import Layout
from equipoise.vi._families.mean_field import LOG_2PI
from equipoise.vi._target.points import balanced
from equipoise.vi._target.target import Target
from equipoise.vi._weights.products import transported

_NUM_STEPS = 80
_NUM_FIRST_DRAWS = 64
_NUM_POINTS = 64  # of the ELBO of a local normal
DISTINCT = 5.0  # sds between modes that one normal does not cover
_NEGLIGIBLE = 7.0  # nats of ELBO: a mode with less than a thousandth of the mass


class Local(NamedTuple):
    """Normals around points of paths: means, factors W of the covariances W Wᵀ, and ELBOs."""

    mean: np.ndarray
    factor: np.ndarray
    elbo: np.ndarray


class Begun(NamedTuple):
    """Where a fit begins, and the density that its steps follow: that of all data, or near it.

    ``at_rest`` is whether nothing changes where it follows that of other rows.
    """

    center: np.ndarray
    starts: Local | None
    target: Target
    at_rest: bool


def starting_point(target: Target, family: Family, start: PyTree) -> np.ndarray:
    """The flat vector to begin at, where the log density and its gradient are finite."""
    if start is not None:
        same_structure("start", start, family.positions.abstract, "example")
        center = _flat_vector(family.positions, start)
    elif family.placed:
        center = np.zeros(family.dimension)
    else:  # the family knows where it begins
        center = _mean_of_first_draws(family)
    center = np.asarray(center, target.dtype)
    for term, number in zip(("value", "gradient"), target.gradients(center[None]), strict=True):
        if not np.all(np.isfinite(number)):
            raise value_error(
                "log_density",
                f"must have a finite {term} at the start",
                str(number[0]),
                "Give a `start` inside its domain, or a `support` that keeps positions there.",
            )
    return center


@functools.partial(jax.jit, static_argnums=0)
def _flat_vector(positions: Layout, start: PyTree) -> Array:
    return positions.ravel(start)


@functools.partial(jax.jit, static_argnums=0)
def _mean_of_first_draws(family: Family) -> Array:
    key = jax.random.key(0)
    drawn = family.sample(family.init(key), key, _NUM_FIRST_DRAWS)
    return jnp.mean(jax.vmap(family.ravel)(drawn), axis=0)


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
    target: Target, starts: np.ndarray, rng: np.random.Generator, num_steps: int = _NUM_STEPS
) -> Local:
    """The best local normals along Newton paths from given points.

    Newton ascent from each of them keeps the point whose local normal has the largest ELBO. Where
    a mode exists the path ends there, and the normal is Laplace's. Where none does (a funnel
    climbs for ever) an earlier point wins, as in :cite:t:`zhang2022`.
    """
    number, d = starts.shape
    noise = balanced(rng, _NUM_POINTS, d).astype(target.dtype)
    best = Local(starts, np.tile(np.eye(d), (number, 1, 1)), np.full(number, -np.inf))
    places = [*_newton_paths(target, starts, num_steps)]
    path, mean, factor = map(np.concatenate, zip(*places, strict=True))
    if not len(path):
        return best
    narrow = mean.astype(target.dtype), factor.astype(target.dtype)
    points = np.concatenate([transported(m, w, noise) for m, w in zip(*narrow, strict=True)])
    log_p = target.values(points).reshape(len(path), -1)
    elbo = normal_elbo(np.mean(log_p, axis=1, dtype=float), factor)
    for row in np.flatnonzero(np.isfinite(elbo)):
        if elbo[row] > best.elbo[path[row]]:
            for field, found in zip(best, (mean, factor, elbo), strict=True):
                field[path[row]] = found[row]
    return best


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
    arrived, sound = _arrive(target, np.arange(n), np.zeros(n), starts)
    here = arrived.rows(sound)
    yield here.path, here.point, here.known.factor
    for _ in range(num_steps):
        if not len(here.path):
            return
        now = here.known
        step = np.einsum("pij,pj->pi", now.basis, now.slope / (now.bend + here.damping[:, None]))
        relaxed = np.where(here.damping > 1e-3, here.damping / 5, 0.0)
        there, sound = _arrive(target, here.path, relaxed, here.point + step)
        value = there.known.value
        accept = np.isfinite(value) & (value >= now.value - 4 * eps * abs(now.value))
        gain = np.sum(now.slope**2 / now.bend, axis=1)
        going = (gain >= eps**0.5) & (here.damping <= 1 / eps)
        moved, stays = there.rows(going & accept & sound), here.rows(going & ~accept)
        yield moved.path, moved.point, moved.known.factor
        damped = stays._replace(damping=np.maximum(stays.damping * 6, 1e-2))
        here = jax.tree.map(lambda *fields: np.concatenate(fields), damped, moved)


def _arrive(
    target: Target, path: np.ndarray, damping: np.ndarray, point: np.ndarray
) -> tuple[_Paths, np.ndarray]:
    """Paths at new points, and whether everything is finite there."""
    value, gradient, curvature = target.curvatures(point)
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


def normal_elbo(mean_log_p: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Mean of the log density plus the entropy of N(m, W Wᵀ)."""
    d = factor.shape[-1]
    return mean_log_p + np.linalg.slogdet(factor)[1] + 0.5 * d * (1 + LOG_2PI)


def conditional_scales(factor: np.ndarray) -> np.ndarray:
    """Standard deviation of each coordinate of N(m, W Wᵀ) given all the others."""
    return np.sum(np.linalg.inv(factor) ** 2, axis=0) ** -0.5


def best_of(starts: Local) -> Local:
    """The local normal with the largest ELBO."""
    best = np.argmax(starts.elbo)
    return Local(*(leaf[best] for leaf in starts))


def lower_factor(factor: np.ndarray) -> np.ndarray:
    """The Cholesky factor with the same product W Wᵀ."""
    upper = np.linalg.qr(factor.T, mode="r")
    return (upper * np.sign(np.diagonal(upper))[:, None]).T


def joined(one: Local, other: Local) -> Local:
    """All of both."""
    return Local(*map(np.concatenate, zip(one, other, strict=True)))


def other_modes(
    starts: Local,
    mean: np.ndarray,
    factor: np.ndarray,
    distinct: float = DISTINCT,
    behind: Local | None = None,
) -> Local:
    """Local normals that q does not cover, each mode once.

    It covers none ``behind`` a valley that is ``distinct`` sds away, and none so much farther away
    than its own draws. They are in coordinates where q is N(0, I), with Cholesky factors, and ELBOs
    relative to the best one.
    """
    d, everywhere = len(mean), starts if behind is None else joined(starts, behind)
    least = np.full(len(everywhere.elbo), distinct)
    least[: len(starts.elbo)] += d**0.5
    best = np.max(everywhere.elbo)
    modes: list[Local] = []
    whiten = functools.partial(np.linalg.solve, factor)
    for center, spread, elbo, distance in zip(*everywhere, least, strict=True):
        z, root = whiten(center - mean), whiten(spread)
        near = [np.linalg.norm(np.linalg.solve(m.factor, z - m.mean)) < distinct for m in modes]
        far = min(np.linalg.norm(z), np.linalg.norm(np.linalg.solve(root, z)))
        if elbo > best - _NEGLIGIBLE and far > distance and not any(near):
            modes.append(Local(z, np.linalg.cholesky(root @ root.T), elbo - best))
    if not modes:
        return no_modes(d)
    return Local(*map(np.stack, zip(*modes, strict=True)))


def no_modes(d: int) -> Local:
    """No local normals beside the one at hand."""
    return Local(np.zeros((0, d)), np.zeros((0, d, d)), np.zeros(0))
