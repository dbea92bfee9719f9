"""Variational Newton steps for a normal with any covariance, on fixed balanced points."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, Scalar
from equipoise.vi._fit_start import affine, normal_elbo

SHRINK, GROW = 0.3, 2.0
MAX_RATIO = 8.0  # one step changes no variance by more than this factor


class Points(NamedTuple):
    """Points and weights for expectations under N(0, I)."""

    noise: Array
    weights: Array


class NormalState(NamedTuple):
    """Everything a fit of a normal continues from.

    In coordinates where q is N(0, I): ``slope`` is E ∇log p and ``curvature`` is E ∇²log p.
    """

    step: Array
    mean: Array
    factor: Array
    elbo: Scalar
    slope: Array
    curvature: Array
    rate: Scalar
    decrement: Scalar
    history: Array
    failed: Array


def decrement(slope: Array, curvature: Array, *, diagonal: bool) -> Scalar:
    """ELBO that one natural-gradient step is expected to gain, in nats; 0 at the optimum."""
    excess = curvature + jnp.eye(slope.shape[0], dtype=slope.dtype)
    if diagonal:
        values, axes = positive_axes(curvature)
        gain = jnp.sum((axes.T @ slope) ** 2 / values)
        return 0.5 * gain + 0.25 * jnp.sum(jnp.diagonal(excess) ** 2)
    return 0.5 * jnp.sum(slope**2) + 0.25 * jnp.sum(excess**2)


def positive_axes(curvature: Array) -> tuple[Array, Array]:
    """Eigenvalues of −E ∇²log p, kept positive, and its axes."""
    values, axes = jnp.linalg.eigh(-curvature)
    floor = 100 * np.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return jnp.maximum(jnp.abs(values), floor), axes


def measure(
    log_p: Callable[[Array], Scalar], mean: Array, factor: Array, points: Points
) -> tuple[Scalar, Array, Array]:
    """ELBO, slope and curvature of N(mean, factor factorᵀ) over the points.

    Stein's identity gives the curvature from gradients alone, and makes it the exact derivative
    of the same average that the ELBO is, along symmetric changes of the factor.
    """
    positions = affine(mean, factor, points.noise)
    values, gradients = jax.vmap(jax.value_and_grad(log_p))(positions)
    pulled = gradients @ factor
    curvature = pulled.T @ (points.weights[:, None] * points.noise)
    return (
        normal_elbo(points.weights @ values, factor),
        points.weights @ pulled,
        0.5 * (curvature + curvature.T),
    )


@functools.partial(jax.jit, static_argnames="num_steps")
def begin(mean: Array, factor: Array, num_steps: int) -> NormalState:
    """The state before the first step."""
    d, dtype = mean.shape[0], mean.dtype
    return NormalState(
        step=jnp.zeros((), jnp.int32),
        mean=mean,
        factor=factor,
        elbo=jnp.full((), -jnp.inf, dtype),
        slope=jnp.zeros(d, dtype),
        curvature=-jnp.eye(d, dtype=dtype),
        rate=jnp.ones((), dtype),
        decrement=jnp.full((), jnp.inf, dtype),
        history=jnp.full(num_steps, jnp.nan, dtype),
        failed=jnp.zeros((), bool),
    )


def diagonal_proposal(state: NormalState) -> tuple[Array, Array]:
    """The same for independent coordinates.

    The precisions follow the diagonal of the curvature, but the mean takes a full Newton step:
    what a diagonal covariance leaves out, it must not leave out of the direction.
    """
    rate = state.rate
    values, axes = positive_axes(state.curvature)
    move = rate * (axes @ ((axes.T @ state.slope) / values))
    wanted = jnp.clip(-jnp.diagonal(state.curvature), 1 / MAX_RATIO, MAX_RATIO)
    scale = jnp.diagonal(state.factor)
    mean = state.mean + scale * move
    return mean, jnp.diag(scale * (1 + rate * (wanted - 1)) ** -0.5)


def proposal(state: NormalState) -> tuple[Array, Array]:
    """Mean and factor after a natural-gradient step of size ``rate``.

    In whitened coordinates the precision moves to (1 − ρ) I − ρ E ∇²log p, with its eigenvalues
    kept positive, and the mean by ρ times slope over the new precision.
    """
    rate = state.rate
    values, axes = jnp.linalg.eigh(-state.curvature)
    precision = 1 + rate * (jnp.clip(values, 1 / MAX_RATIO, MAX_RATIO) - 1)
    move = rate * (axes.T @ state.slope) / precision
    d = move.shape[0]
    longest = 3.0 * d**0.5
    move = move * jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(move), 1e-30))
    symmetric = (axes * precision[None] ** -0.5) @ axes.T
    return state.mean + state.factor @ (axes @ move), state.factor @ symmetric


def ascend(
    log_p: Callable[[Array], Scalar],
    state: NormalState,
    points: Points,
    *,
    limit: Array,
    tolerance: float,
    diagonal: bool,
) -> NormalState:
    """Steps until the expected gain is below the tolerance, or ``limit`` of them in all.

    A step that lowers the ELBO, or where anything is not finite, is undone and shortened.
    """
    eps = np.finfo(points.noise.dtype).eps

    def step(state: NormalState) -> NormalState:
        first = state.step == 0
        mean, factor = (diagonal_proposal if diagonal else proposal)(state)
        elbo, slope, curvature = measure(log_p, mean, factor, points)
        finite = (
            jnp.isfinite(elbo) & jnp.all(jnp.isfinite(curvature)) & jnp.all(jnp.isfinite(slope))
        )
        slack = 8 * eps * jnp.abs(elbo)
        accept = finite & (elbo >= state.elbo - slack)
        taken = state._replace(
            mean=mean,
            factor=factor,
            elbo=elbo,
            slope=slope,
            curvature=curvature,
            rate=jnp.minimum(GROW * state.rate, 1.0),
            decrement=decrement(slope, curvature, diagonal=diagonal),
        )
        undone = state._replace(rate=SHRINK * state.rate)
        new = jax.tree.map(lambda a, b: jnp.where(accept, a, b), taken, undone)
        new = NormalState(*new)
        return new._replace(
            step=state.step + 1,
            history=state.history.at[state.step].set(new.elbo),
            failed=~finite & (first | (new.rate < eps)),
        )

    def more(state: NormalState) -> Array:
        busy: Array = (state.decrement > tolerance) & (state.rate > eps) & ~state.failed
        return busy & (state.step < limit)

    final: NormalState = jax.lax.while_loop(more, step, state)
    return final
