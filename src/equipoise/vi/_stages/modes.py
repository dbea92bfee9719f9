"""The normals of some coordinates given the others: modes by Newton's method, many at a time."""

import numpy as np

from equipoise.vi._stages.beginning import Beginning

_MAX_NUMBERS = 2**21  # of the curvatures that are held together
_NUM_STEPS = 16
_TOLERANCE = 1e-3  # nats to the mode: a hundredth of an sd off, which weights make good
_DAMPED = 1e-4  # relative, below which a step is Newton's


def local_normals(
    start: Beginning, free: np.ndarray, points: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of the normal of the free coordinates near each point, their log p, and log volumes.

    A draw is m + L⁻ᵀ ε, for the mode m and the Cholesky factor L of minus the curvature there;
    the log volume is log |L|.
    """
    size = max(_MAX_NUMBERS // points.shape[1] ** 2, 1)
    drawn, volumes = points.copy(), []
    for first in range(0, len(points), size):
        rows = slice(first, first + size)
        modes, roots = _modes(start, free, points[rows])
        away = np.linalg.solve(np.swapaxes(roots, 1, 2), noise[rows, :, None])[..., 0]
        drawn[rows, free] = modes + away
        volumes.append(np.sum(np.log(np.diagonal(roots, axis1=1, axis2=2)), axis=1))
    return drawn, start.values(drawn), np.concatenate(volumes)


def _modes(start: Beginning, free: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Modes of the free coordinates, and Cholesky factors of minus the curvature there.

    A step that lowers the density is undone, and the next one is damped.
    """
    n, k = len(points), int(np.sum(free))
    at, inside = points.copy(), np.flatnonzero(free)
    value, slope, precision = np.full(n, -np.inf), np.zeros((n, k)), np.zeros((n, k, k))
    damping, step, going = np.zeros(n), np.zeros((n, k)), np.arange(n)
    for _ in range(_NUM_STEPS):
        there = at[going]
        there[:, inside] += step[going]
        new_value, gradient, curvature = start.curvatures(there)
        bent = -curvature[:, inside[:, None], inside]
        sound = np.isfinite(new_value) & np.all(np.isfinite(bent), axis=(1, 2))
        better = sound & (new_value >= value[going])
        up, down = going[better], going[~better]
        at[up], value[up], slope[up], precision[up] = (
            x[better] for x in (there, new_value, gradient[:, inside], bent)
        )
        damping[up] = np.where(damping[up] > _DAMPED, damping[up] / 8, 0)
        damping[down] = np.maximum(8 * damping[down], 10 * _DAMPED)
        root = _roots(_damped(precision, damping, start.sds[inside])[going])
        half = np.linalg.solve(root, slope[going, :, None])
        step[going] = np.linalg.solve(np.swapaxes(root, 1, 2), half)[..., 0]
        far = np.sum(half**2, axis=(1, 2)) * (1 + damping[going]) >= _TOLERANCE
        going = going[far | np.isnan(half[:, 0, 0])]
        if not len(going):
            break
    # Without damping where that is possible, with it where not, and in the worst case by axes.
    roots = _roots(precision)
    for extra in (damping, np.full(n, np.inf)):
        lost = np.isnan(roots[:, 0, 0])
        roots[lost] = _roots(_damped(precision, extra, start.sds[inside])[lost])
    return at[:, inside], roots


def _damped(precision: np.ndarray, damping: np.ndarray, sds: np.ndarray) -> np.ndarray:
    """The matrices with so much more on their diagonals; alone what is added, where it is ∞."""
    size = np.abs(np.diagonal(precision, axis1=1, axis2=2)) + sds**-2
    alone = np.isinf(damping)[:, None]
    added = np.where(alone, 1.0, damping[:, None]) * size
    return np.where(alone[..., None], 0.0, precision) + added[:, None] * np.eye(len(sds))


def _roots(matrices: np.ndarray) -> np.ndarray:
    """Cholesky factors; nan for those that are not positive definite."""
    try:
        return np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full_like(matrices, np.nan)
        half = len(matrices) // 2
        return np.concatenate([_roots(matrices[:half]), _roots(matrices[half:])])
