"""Local normals: what is kept of points of paths, and which of them one normal leaves out."""

import functools
from typing import NamedTuple

import numpy as np

from equipoise.vi._families.mean_field import LOG_2PI

DISTINCT = 5.0  # sds between modes that one normal does not cover
_NEGLIGIBLE = 7.0  # nats of ELBO: a mode with less than a thousandth of the mass


class Local(NamedTuple):
    """Normals around points of paths: means, factors W of the covariances W Wᵀ, and ELBOs."""

    mean: np.ndarray
    factor: np.ndarray
    elbo: np.ndarray


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
        if elbo <= best - _NEGLIGIBLE:  # and may be too narrow to be inverted
            continue
        z, root = whiten(center - mean), whiten(spread)
        near = [np.linalg.norm(np.linalg.solve(m.factor, z - m.mean)) < distinct for m in modes]
        far = min(np.linalg.norm(z), np.linalg.norm(np.linalg.solve(root, z)))
        if far > distance and not any(near):
            modes.append(Local(z, np.linalg.cholesky(root @ root.T), elbo - best))
    if not modes:
        return no_modes(d)
    return Local(*map(np.stack, zip(*modes, strict=True)))


def no_modes(d: int) -> Local:
    """No local normals beside the one at hand."""
    return Local(np.zeros((0, d)), np.zeros((0, d, d)), np.zeros(0))
