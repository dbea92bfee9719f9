"""One natural-gradient step of a normal: where it leads, and what it is expected to gain."""

from typing import NamedTuple

import numpy as np

_MAX_RATIO = 8.0  # one step changes no variance by more than this factor


class NormalState(NamedTuple):
    """Everything a fit of a normal continues from, on the host in float64.

    In coordinates where q is N(0, I): ``slope`` is E ∇log p and ``curvature`` is E ∇²log p.
    ``difference`` is how far off the ELBO is by the last column of weights.
    """

    step: int
    mean: np.ndarray
    factor: np.ndarray
    elbo: float
    slope: np.ndarray
    curvature: np.ndarray
    rate: float
    decrement: float
    history: np.ndarray
    failed: bool
    difference: float


def state_at(mean: np.ndarray, factor: np.ndarray) -> NormalState:
    """The state before the first step."""
    d = len(mean)
    return NormalState(
        step=0,
        mean=mean,
        factor=factor,
        elbo=-np.inf,
        slope=np.zeros(d),
        curvature=-np.eye(d),
        rate=1.0,
        decrement=np.inf,
        history=np.zeros(0),
        failed=False,
        difference=0.0,
    )


def decrement(slope: np.ndarray, curvature: np.ndarray, *, diagonal: bool) -> float:
    """ELBO that one natural-gradient step is expected to gain, in nats; 0 at the optimum."""
    excess = curvature + np.eye(len(slope))
    if diagonal:
        values, axes = _positive_axes(curvature)
        gain = np.sum((axes.T @ slope) ** 2 / values)
        return float(0.5 * gain + 0.25 * np.sum(np.diagonal(excess) ** 2))
    return float(0.5 * np.sum(slope**2) + 0.25 * np.sum(excess**2))


def _positive_axes(curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of −E ∇²log p, kept positive, and its axes."""
    values, axes = np.linalg.eigh(-curvature)
    floor = 100 * np.finfo(values.dtype).eps * np.max(np.abs(values))
    return np.maximum(np.abs(values), floor), axes


def diagonal_proposal(state: NormalState) -> tuple[np.ndarray, np.ndarray]:
    """The step for independent coordinates.

    The precisions follow the diagonal of the curvature, but the mean takes a full Newton step:
    what a diagonal covariance leaves out, it must not leave out of the direction.
    """
    rate = state.rate
    values, axes = _positive_axes(state.curvature)
    move = rate * (axes @ ((axes.T @ state.slope) / values))
    wanted = np.clip(-np.diagonal(state.curvature), 1 / _MAX_RATIO, _MAX_RATIO)
    scale = np.diagonal(state.factor)
    return state.mean + scale * move, np.diag(scale * (1 + rate * (wanted - 1)) ** -0.5)


def proposal(state: NormalState) -> tuple[np.ndarray, np.ndarray]:
    """Mean and factor after a natural-gradient step of size ``rate``.

    In whitened coordinates the precision moves to (1 − ρ) I − ρ E ∇²log p, with its eigenvalues
    kept positive, and the mean by ρ times slope over the new precision.
    """
    rate = state.rate
    values, axes = np.linalg.eigh(-state.curvature)
    precision = 1 + rate * (np.clip(values, 1 / _MAX_RATIO, _MAX_RATIO) - 1)
    move = rate * (axes.T @ state.slope) / precision
    longest = 3.0 * len(move) ** 0.5
    move = move * min(1.0, longest / max(float(np.linalg.norm(move)), 1e-30))
    symmetric = (axes * precision**-0.5) @ axes.T
    return state.mean + state.factor @ (axes @ move), state.factor @ symmetric
