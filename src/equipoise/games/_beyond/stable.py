"""All step sizes at which an equilibrium attracts."""

from collections.abc import Callable
from itertools import pairwise

import jax
import numpy as np

from equipoise._check import at, is_traced, positive_integer, type_error
from equipoise._types import Array, Float, Int, PyTree, Scalar, aligned, field_by_field, result
from equipoise.games._beyond.pieces import Piece, Spans, pieces, proven, without
from equipoise.games._critical.critical import measured
from equipoise.games._critical.crossing import BATCH
from equipoise.games._rules.dynamics import common_dtype, typed
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import Ratios, Rule, checked_step_size
from equipoise.games._spectrum.algebra import eigenvalues
from equipoise.games._spectrum.spectrum import Family, family_of, not_at_rest

# Spans of one piece that are looked at together, and what their eigenvalues may cost.
_MOST_SPANS, _MOST_WORK = 512, 5 * 10**6


@result
class StableStepSizes:
    """The intervals of step sizes at which an equilibrium attracts.

    Attributes:
        intervals: Ends of each interval in the rows, in order; empty where there is none.
        num_flat: How many directions no step moves; they are left out.
        resolution: Windows of another verdict that are wider than this are not missed, where the
            update is as smooth between the samples as it is at them.
        max_step_size: Where the search ended.
        residual: As in ``CriticalStep``.
    """

    intervals: Float[Array, "num 2"]
    num_flat: Int[Array, ""]
    resolution: Scalar
    max_step_size: Scalar
    residual: Scalar

    def __str__(self) -> str:
        """The intervals, one a line."""
        if isinstance(self.intervals, jax.core.Tracer) or np.ndim(self.intervals) != 2:
            return field_by_field(self)
        limit, flat = float(self.max_step_size), int(self.num_flat)
        ends = np.asarray(self.intervals)
        rows = [
            [f"  {low:.6g} to {high:.6g}", "" if high < limit else "(the end of the search)"]
            for low, high in ends
        ]
        table = aligned(rows) if rows else f"  none up to {limit:.6g}"
        aside = f"\n  {flat} flat directions are left out: no step moves them." if flat else ""
        return f"StableStepSizes\n{table}{aside}{not_at_rest(self.residual)}"


@at("games.stable_step_sizes")
def stable_step_sizes(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    max_step_size: float | Array,
    num_evaluations: int = 512,
    step_ratios: Ratios | None = None,
) -> StableStepSizes:
    r"""All step sizes at which an equilibrium attracts, beyond the first interval.

    .. math::

        \{0 < \eta \le \eta_{\max} : \rho(\eta) < 1\}

    with ρ the spectral radius of the update map's Jacobian M(η) on the full state, but for
    directions that no step moves: M(η)v = v for all η, up to √ε.

    M(η) is a polynomial in η for most rules, and piecewise close to one for others: pieces are
    halved until a polynomial of degree 15 has their values and derivatives at 16 points. On a
    piece Gershgorin's discs, in the basis that is diagonal in the middle of a span, either prove
    that no eigenvalue crosses the circle on that span, or the span is halved. So a window is missed
    only if M itself has a feature between the ``num_evaluations`` samples that shows at none of
    them, or if it is narrower than ``resolution``. The ends are then found to rounding.

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree per player.
        max_step_size: η_max, where the search ends. A positive number.
        num_evaluations: How many matrices are taken at first, rounded up to a multiple of 16.
        step_ratios: As in ``critical_step_size``.

    Returns:
        The :class:`StableStepSizes`, constants of differentiation. A step at which M has no
        finite value, as at a pole of an implicit rule, is in no interval.

    Raises:
        TypeError: If a player is not real and floating-point, ``rule`` is no rule, or one of the
            arguments is traced: how many intervals there are is no shape that a program knows.
        ValueError: If the players do not fit the game or the rule, a step size or ratio is negative
            or NaN, or ``num_evaluations`` < 1.

    Cost: ``num_evaluations`` N×N matrices (N tangents of a step each) by one program, N the size of
    the full state; some hundred eigenvalue problems of that size on the host for each interval.

    Examples:
        Implicit steps on −x²/2 go the other way, and overshoot it from η = 2 on.

        >>> game = games.general_sum(lambda x: -(x**2) / 2)
        >>> print(games.stable_step_sizes(
        ...     game, games.proximal_point(), (0.0,), max_step_size=10.0))
        StableStepSizes
          2 to 10  (the end of the search)

    References:
        :cite:t:`mescheder2017`
    """
    num = positive_integer("num_evaluations", num_evaluations)
    family = family_of(game, rule, equilibrium, step_ratios)
    limit = checked_step_size("max_step_size", max_step_size)
    if any(map(is_traced, jax.tree.leaves((family, limit)))):
        raise type_error(
            "game",
            "must be known, with all other arguments",
            "a traced value",
            "Call it outside jit, vmap and grad.",
        )
    with np.errstate(all="ignore"):
        return _found(family, typed(limit, common_dtype(family.players)), num)


def _found(family: Family, limit: Array, num: int) -> StableStepSizes:
    eps = rounding(limit.dtype)
    end, least = float(limit), float(limit) * eps**0.5
    taken, residuals = [], []

    def sampled(etas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrices, slopes, residual = measured(family, etas.astype(limit.dtype))
        taken.append(np.asarray(matrices, float))
        residuals.append(np.asarray(residual)[-1])
        return taken[-1], np.asarray(slopes, float)

    edges = np.linspace(0, end, -(-num // BATCH) + 1)
    split = [
        piece
        for low, high in pairwise(edges)
        for piece in pieces(sampled, low, high, least, eps**0.6)
    ]
    kept = _moved(np.concatenate(taken), eps)
    num_flat, size = taken[0].shape[-1] - kept.shape[-1], kept.shape[-1]

    def radius(etas: np.ndarray) -> np.ndarray:
        matrices = kept.T @ sampled(etas)[0] @ kept
        return np.abs(eigenvalues(matrices)).max(-1)

    spans = [_spans(without(piece, kept), radius, least, size) for piece in split if size]
    found = _intervals(spans, radius, end, least, eps) if size else (np.zeros((0, 2)), end)
    intervals, resolution = (np.asarray(x, limit.dtype) for x in found)
    numbers: PyTree = intervals, np.asarray(num_flat, np.int32), resolution, limit, residuals[-1]
    return StableStepSizes(*jax.device_put(numbers))


def _moved(matrices: np.ndarray, eps: float) -> np.ndarray:
    """An orthonormal basis of what some step moves, in columns; M(η)v = v on the others."""
    n = matrices.shape[-1]
    moves = matrices[np.isfinite(matrices).all((-2, -1))] - np.eye(n)
    size = np.linalg.norm(moves, axis=(-2, -1), keepdims=True)
    unit = (moves / np.where(size > 0, size, 1)).reshape(-1, n)
    # The triangle has the singular values of all matrices below each other.
    _, values, basis = np.linalg.svd(np.linalg.qr(unit, mode="r"))
    kept: PyTree = basis[: (values > eps**0.5 * values[0]).sum()].T
    return kept


def _spans(
    piece: Piece, radius: Callable[[np.ndarray], np.ndarray], least: float, size: int
) -> Spans:
    if piece.coefficients is None:
        low, high = np.array([piece.low]), np.array([piece.high])
        rho = radius(np.full(BATCH, (piece.low + piece.high) / 2))[:1]
        return Spans(low, high, rho, np.array([False]))
    return proven(piece, least, max(8, min(_MOST_SPANS, _MOST_WORK // size**3)))


def _intervals(
    spans: list[Spans],
    radius: Callable[[np.ndarray], np.ndarray],
    end: float,
    least: float,
    eps: float,
) -> tuple[np.ndarray, float]:
    """The stable intervals, and the width of the widest span that nothing is proven of."""
    low, high, rho, is_proven = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    order = np.argsort(low)
    low, high, rho, is_proven = low[order], high[order], rho[order], is_proven[order]
    widest = np.where(is_proven, 0, high - low).max()
    # Where a narrow span is on the circle up to rounding its neighbors decide.
    told = (np.abs(rho - 1) > eps**0.75) | (high - low > 2 * least)
    low, high, rho = low[told], high[told], rho[told]
    stable, middle = rho < 1 - 1e-3 * eps**0.75, (low + high) / 2
    ends = [0.0] if stable[0] else []
    for k in np.flatnonzero(stable[1:] != stable[:-1]):
        ends.append(_edge(radius, middle[k], middle[k + 1]))
    if stable[-1]:
        ends.append(end)
    return np.reshape(ends, (-1, 2)), widest


def _edge(radius: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> float:
    """Where the verdict changes between two step sizes of which one is stable."""
    was = (radius(np.full(BATCH, low)) < 1)[0]
    while high - low > 4e-16 * high:
        etas = np.linspace(low, high, BATCH + 1)[1:]
        k = np.argmax((radius(etas) < 1) != was)
        ends = (low if k == 0 else etas[k - 1]), etas[k]
        if ends == (low, high):
            break
        low, high = ends
    return (low + high) / 2
