"""The second moment as a linear map of symmetric matrices, M -> E[Φ M Φᵀ], and its resolvent."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array, Float
from equipoise.games._noise.batches import batch_moments
from equipoise.games._noise.moments import Moments, Noisy, centered, linearized, root
from equipoise.games._rules.numerics import rounding

# Up to this many coordinates of the state the map is formed as a matrix.
_DENSE = 32
# 2 to this power steps of the mean dynamics are _summed.
_DOUBLINGS = 40


class _Step(NamedTuple):
    """A step on a batch: s -> Φ s + u, by E[Φ M Φᵀ] = Σ w F M Fᵀ and likewise for what F moves."""

    factors: Float[Array, "k n n"]
    moves: Float[Array, "k n"]
    weights: Float[Array, " k"]
    mean: Float[Array, "n n"]
    mean_move: Float[Array, " n"]

    def second(self, m: Array) -> Array:
        """E[Φ M Φᵀ]."""
        return jnp.einsum("k,kab,bc,kdc->ad", self.weights, self.factors, m, self.factors)

    def adjoint(self) -> "_Step":
        """The step whose second moment is M -> E[Φᵀ M Φ]."""
        return self._replace(factors=jnp.swapaxes(self.factors, 1, 2), mean=self.mean.T)


def step_on(moments: Moments, flat: "_Flat") -> _Step:
    """The step on the coordinates beside the flat ones."""
    factors, moves = moments.factors[:, :-1, :-1], moments.factors[:, :-1, -1]
    counts = moments.weights * moments.factors[:, -1, -1]
    factors, moves = flat.kept @ factors @ flat.kept, moves @ flat.kept
    mean, move = jnp.einsum("k,kab->ab", counts, factors), counts @ moves
    return _Step(factors, moves, moments.weights, mean, move)


def resolvent(step: _Step, source: Array) -> Array:
    """M with M − E[Φ M Φᵀ] = source; its solution without meaning where none is positive."""
    n = len(source)
    if n <= _DENSE:
        weighted = step.factors * step.weights[:, None, None]
        matrix = jnp.einsum("kab,kcd->acbd", weighted, step.factors).reshape(n * n, n * n)
        eye = jnp.eye(n * n, dtype=matrix.dtype)
        return jnp.linalg.solve(eye - matrix, source.ravel()).reshape(n, n)

    # (1 − S N) M = S source, where N is what noise adds to the mean dynamics and S sums those up:
    # N is small at small steps, where the map itself is nearly the identity.
    def noise_gain(m: Array) -> Array:
        return _summed(step.mean, step.second(m) - step.mean @ m @ step.mean.T)

    def solve(matvec: Callable[[Array], Array], b: Array) -> Array:
        return jax.scipy.sparse.linalg.gmres(  # type: ignore[no-untyped-call]
            matvec,
            b,
            tol=rounding(b.dtype, 0.75),
            restart=30,
            maxiter=4,
            solve_method="incremental",
        )[0]

    right = _summed(step.mean, source)
    return jax.lax.custom_linear_solve(lambda m: m - noise_gain(m), right, solve, solve)


def _summed(a: Array, source: Array) -> Array:
    """Σ_t Aᵗ M Aᵗᵀ by doubling; infinite or NaN where it diverges."""

    def double(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        power, total = carry
        return (power @ power, total + power @ total @ power.T), None

    return jax.lax.scan(double, (a, source), None, length=_DOUBLINGS)[0][1]


def settles(step: _Step) -> tuple[Array, Array]:
    """Whether the second moment of play decays, and the sum of its decay from 1, Σ_t E[Φᵗ Φᵗᵀ].

    It decays where a positive definite M has M − E[Φ M Φᵀ] positive definite, and the resolvent of
    the identity is that M.
    """
    eye = jnp.eye(len(step.mean), dtype=step.mean.dtype)
    total = resolvent(step, eye)
    total = (total + total.T) / 2
    error = jnp.max(jnp.abs(total - step.second(total) - eye))
    exact = error <= rounding(total.dtype, 0.4) * jnp.max(jnp.abs(total))
    known = jnp.where(jnp.isfinite(total), total, 0)
    return exact & (jnp.linalg.eigvalsh(known)[0] > 0), total


class _Flat(NamedTuple):
    """Directions in which no batch has curvature and play stays, and the natural step beside them.

    Attributes:
        kept: The projector of the state onto all others.
        num: How many flat ones there are.
        scale: One over the largest curvature.
    """

    kept: Float[Array, "n n"]
    num: Array
    scale: Array


def flat_directions(problem: Noisy, rows: Array) -> _Flat:
    """From the quadratic models of the rows."""
    n, size, replacement = problem.plan
    rows, local = jax.lax.stop_gradient(rows), problem.example()
    c2 = batch_moments(n, size, replacement=replacement).c2
    mean, deviations = centered(rows)
    seen = jnp.concatenate([mean[None], root(deviations * (c2 / n) ** 0.5)])
    hessians = jax.vmap(lambda q: local.like(q).hessians)(seen)
    stacked = hessians.reshape(-1, hessians.shape[-1])
    _, sizes, directions = jnp.linalg.svd(jnp.linalg.qr(stacked, mode="r"))
    is_flat = sizes <= 10 * len(directions) * rounding(rows.dtype) * sizes[0]
    flats = jnp.where(is_flat[None], directions.T, 0) @ directions
    # What a rule moves by itself, as weight decay does, is not flat.
    scale = 1 / sizes[0]
    matrix, _ = linearized(problem, mean, mean, (scale,) * len(problem.players))
    inside = jnp.zeros_like(matrix).at[: len(flats), : len(flats)].set(flats)
    stays = jnp.max(jnp.abs(matrix @ inside - inside)) <= rounding(rows.dtype, 0.6)
    kept = jnp.eye(len(matrix), dtype=rows.dtype) - jnp.where(stays, inside, 0)
    return _Flat(kept, jnp.where(stays, jnp.sum(is_flat), 0), scale)
