from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import floating_array, positive_integer
from equipoise._types import Array, Float, Int, aligned, result
from equipoise.games._game import Game, Players, checked_players
from equipoise.games._newton import rounding
from equipoise.games._rule import Rule, State, check_not_negative, common_step
from equipoise.games._simulate import check_rule
from equipoise.games._stability import CONVERGES, DIVERGES, NEUTRAL, VERDICTS

# A run is judged after each of so many parts; a block of lanes ends when all its lanes are judged.
NUM_PARTS = 16
BLOCK = 2**15
BLOW_UP = 1e8


@result
class Sweep:
    """What play does at each of many step sizes, one entry a step size.

    Attributes:
        step_sizes: η.
        verdict: ``CONVERGES``, ``NEUTRAL`` or ``DIVERGES`` (−1, 0, 1).
        rate: The factor per step by which the distance changes at the end of the run; after an
            overflow a lower bound of it, and 0 from a start without distance.
        period: Length of the cycle that play ends in: 1 for a fixed point, 0 for none up to
            ``max_period``.
        final_distance: The distance at the last step that was used; infinity after overflow.
        steps_used: Steps until the verdict.
    """

    step_sizes: Float[Array, "*shape"]
    verdict: Int[Array, "*shape"]
    rate: Float[Array, "*shape"]
    period: Int[Array, "*shape"]
    final_distance: Float[Array, "*shape"]
    steps_used: Int[Array, "*shape"]

    def __str__(self) -> str:
        """The intervals of step sizes with the same verdict, in the order given."""
        if isinstance(self.verdict, jax.core.Tracer) or np.ndim(self.verdict) != 1:
            return f"Sweep of shape {np.shape(self.verdict)}"
        verdict, eta = np.asarray(self.verdict), np.asarray(self.step_sizes)
        rate, period = np.asarray(self.rate), np.asarray(self.period)
        starts: Any = np.flatnonzero(np.diff(verdict, prepend=verdict[0] + 1)) if eta.size else []
        rows = []
        for i, j in zip(starts, [*starts[1:], eta.size], strict=True):
            cycles = sorted({int(p) for p in period[i:j] if p > 1})
            rows.append(
                [
                    f"{eta[i]:.6g} to {eta[j - 1]:.6g}",
                    VERDICTS[int(verdict[i])],
                    f"{rate[i:j].min():.4g} to {rate[i:j].max():.4g}",
                    ", ".join(map(str, cycles[:6])) or "none",
                ]
            )
        kept = rows if len(rows) <= 30 else [*rows[:29], [f"{len(rows) - 29} more", "", "", ""]]
        header = ["step sizes", "verdict", "rate", "cycles"]
        return f"Sweep of {eta.size} step sizes\n{aligned(kept, header=header)}"


class _Lane(NamedTuple):
    """What a run remembers besides the state of play; distances are squared."""

    state: State
    first: Array
    past: Array
    recent: Array
    last: Array
    is_open: Array
    verdict: Array
    rate: Array
    distance: Array
    used: Array


def sweep(
    game: Game,
    rule: Rule,
    players: Players,
    *,
    step_sizes: Array,
    num_steps: int,
    step_ratios: Sequence[float | Array] | Array | None = None,
    equilibrium: Players | None = None,
    tolerance: float = 0.05,
    max_period: int = 24,
) -> Sweep:
    r"""Whether play converges, stays or diverges at many step sizes, and how fast.

    .. math::

        r_t = \lVert z_t - z^* \rVert, \qquad
        \text{rate} = \Bigl(\max_{t \in \text{last half}} r_t \Bigm/
        \max_{t \in \text{quarter before}} r_t\Bigr)^{1/\Delta t}

    with Δt the time between the starts of the two spans where r shrinks and between their ends
    where it grows. Without an equilibrium, :math:`r_t = \lVert z_t - z_{t-1} \rVert`.

    Args:
        game: The game.
        rule: The update rule.
        players: The start z₀, a tuple of one pytree a player.
        step_sizes: η, an array of any shape. A concrete array that is sharded over a device mesh
            is swept where it lies, each device with its own loop.
        num_steps: T, the steps of a run at most, ≥ 16 and static.
        step_ratios: Factors rᵢ of the common step, one a player. Default: 1 for everybody.
        equilibrium: z*, where the distance is measured from. Default: none.
        tolerance: The relative change between the two spans that counts as none. The verdict then
            resolves rates that differ from 1 by about 4·tolerance/T.
        max_period: The longest cycle that is recognized, ≥ 1.

    Returns:
        A verdict and what it rests on for each step size; see ``Sweep``. A run ends early, at a
        sixteenth of T, as converged where r has fallen to ε^¾ of its first value or to the
        rounding of z, and as diverged where it is beyond 10⁸·max(1, first value) or no longer
        finite. Overflow is a divergence with distance ∞; no field is ever NaN. Cycles count as
        exact to √ε of their extent.

    Raises:
        TypeError: If a player is not real and floating-point, ``rule`` is no rule, or ``num_steps``
            no Python integer.
        ValueError: If the players do not fit the game or the rule, a step size is negative or NaN,
            ``num_steps`` < 16 or ``max_period`` < 1.

    Cost: T + ``max_period`` steps for each step size at most, in blocks of 2¹⁵ that end as soon as
    all their lanes are judged; memory of a few states a step size, no trajectories.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> swept = games.sweep(game, games.alternating(), (1.0, 1.0),
        ...     step_sizes=jnp.array([0.5, 1.0, 2.5]), num_steps=1000)
        >>> print(swept.verdict, swept.period)
        [0 0 1] [0 6 0]

    References:
        :cite:t:`bailey2020`
    """
    where = "games.sweep"
    check_rule(where, rule)
    players = checked_players(where, game, players)
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(players)))
    step_sizes = floating_array(where, "step_sizes", step_sizes).astype(dtype)
    check_not_negative(where, "step_sizes", step_sizes)
    num_steps = positive_integer(where, "num_steps", num_steps, minimum=NUM_PARTS)
    max_period = positive_integer(where, "max_period", max_period)
    steps = common_step(where, step_ratios, len(players), dtype)
    if equilibrium is not None:
        equilibrium = checked_players(where, game, equilibrium, "equilibrium")

    def lanes(etas: Array) -> Sweep:
        def lane_block(eta: Array) -> Any:
            return _run(
                game, rule, players, steps, eta, num_steps, equilibrium, tolerance, max_period
            )

        flat = etas.reshape(-1)
        whole = flat.size // BLOCK * BLOCK
        parts = []
        if whole:
            blocks = jax.lax.map(lane_block, flat[:whole].reshape(-1, BLOCK))
            parts.append(jax.tree.map(lambda x: x.reshape(-1), blocks))
        if flat.size > whole or not whole:
            parts.append(lane_block(flat[whole:]))
        joined = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
        return Sweep(etas, *jax.tree.map(lambda x: x.reshape(etas.shape), joined))

    swept: Sweep = jax.jit(_spread(lanes, step_sizes))(step_sizes)
    return swept


def _spread(lanes: Callable[[Array], Sweep], step_sizes: Array) -> Callable[[Array], Sweep]:
    """The same function on the mesh that concrete step sizes are sharded over."""
    sharding = None if isinstance(step_sizes, jax.core.Tracer) else step_sizes.sharding
    if isinstance(sharding, jax.sharding.NamedSharding) and not sharding.is_fully_replicated:
        spread: Callable[[Array], Sweep] = jax.shard_map(
            lanes,
            mesh=sharding.mesh,
            in_specs=sharding.spec,
            out_specs=sharding.spec,
            check_vma=False,
        )
        return spread
    return lanes


def _run(
    game: Game,
    rule: Rule,
    players: Players,
    steps: Callable[[Array], tuple[Array, ...]],
    etas: Array,
    num_steps: int,
    equilibrium: Players | None,
    tolerance: float,
    max_period: int,
) -> tuple[Array, ...]:
    """Verdict, rate, period, distance and steps of a block of lanes."""
    dtype = etas.dtype
    # What is left over comes first, so that all parts are equally long: a length that differed
    # between lanes would cost a selection in every step under `vmap`.
    part, rest = divmod(num_steps, NUM_PARTS)

    def advance(state: State, eta: Array) -> tuple[State, Array]:
        after = rule.step(game, state, steps(eta))
        origin = state.players if equilibrium is None else equilibrium
        return after, square_distance(after.players, origin)

    def one(_: Array, inner: tuple[State, Array]) -> tuple[State, Array]:
        state, recent = inner
        state, square = jax.vmap(advance)(state, etas)
        return state, jnp.maximum(recent, square)

    def begin(eta: Array) -> _Lane:
        state = rule.init(game, players, steps(eta))
        origin = advance(state, eta)[0].players if equilibrium is None else equilibrium
        first = square_distance(players, origin)
        zero = jnp.zeros((), dtype)
        return _Lane(
            state=state,
            first=first,
            past=first,
            recent=zero,
            last=first,
            is_open=jnp.ones((), bool),
            verdict=jnp.asarray(NEUTRAL, jnp.int32),
            rate=zero,
            distance=zero,
            used=jnp.zeros((), jnp.int32),
        )

    def play_part(carry: tuple[Array, _Lane]) -> tuple[Array, _Lane]:
        c, lane = carry
        # A span of parts begins at 1, 2, 4 and 8, so that each is as long as all before it.
        begins = (c > 0) & ((c & (c - 1)) == 0)
        past = jnp.where(begins, lane.recent, lane.past)
        recent = jnp.where(begins, 0, lane.recent)

        # The last distance, carried through the loop, would cost a pass over memory a step.
        state, recent = jax.lax.fori_loop(0, part - 1, one, (lane.state, recent))
        state, last = jax.vmap(advance)(state, etas)
        recent = jnp.maximum(recent, last)
        lane = lane._replace(state=state, past=past, recent=recent, last=last)
        return c + 1, _judged(lane, c, part, rest, tolerance)

    def unfinished(carry: tuple[Array, _Lane]) -> Array:
        c, lane = carry
        return (c < NUM_PARTS) & jnp.any(lane.is_open)

    lane = jax.vmap(begin)(etas)
    state, _ = jax.lax.fori_loop(0, rest, one, (lane.state, lane.recent))
    start = (jnp.asarray(0, jnp.int32), lane._replace(state=state))
    _, lane = jax.lax.while_loop(unfinished, play_part, start)
    cycle = _cycle(lambda s, e: advance(s, e)[0], lane.state, etas, max_period)
    fixed = (lane.verdict == CONVERGES).astype(jnp.int32)
    period = jnp.where(lane.verdict == NEUTRAL, cycle, fixed)
    return lane.verdict, lane.rate, period, lane.distance, lane.used


def _judged(lane: _Lane, c: Array, part: int, rest: int, tolerance: float) -> _Lane:
    """The lanes with what part c says of those that were still open when it began."""
    dtype = lane.last.dtype
    eps, limits = rounding(dtype), jnp.finfo(dtype)  # type: ignore[no-untyped-call]

    def log(square: Array) -> Array:
        known = jnp.where(jnp.isnan(square), limits.max, square)
        return jnp.log(jnp.clip(known, limits.tiny, limits.max)) / 2

    # The present span began at part b, the one before it at b/2; part 0 has only its two ends.
    is_first = c == 0
    b = jnp.exp2(jnp.floor(jnp.log2(jnp.maximum(c, 1).astype(dtype))))
    shrink_time = jnp.where(is_first, rest + part, jnp.maximum(b / 2, 1) * part)
    grow_time = jnp.where(is_first, rest, (c.astype(dtype) - b) * part) + part
    change = log(jnp.where(is_first, lane.last, lane.recent)) - log(lane.past)
    rate = jnp.exp(change / jnp.where(change < 0, shrink_time, grow_time))

    r, first = jnp.sqrt(lane.last), jnp.sqrt(lane.first)
    size = jnp.sqrt(jax.vmap(square_distance)(lane.state.players))
    finite = jnp.isfinite(lane.recent) & jnp.isfinite(size)
    gone = ~finite | (r > BLOW_UP * jnp.maximum(1, first))
    arrived = finite & (r <= jnp.maximum(eps**0.75 * first, 4 * eps * size))
    trend = jnp.where(jnp.abs(change) <= tolerance, NEUTRAL, jnp.sign(change))
    verdict = jnp.where(gone, DIVERGES, jnp.where(arrived, CONVERGES, trend)).astype(jnp.int32)

    def kept(new: Array, old: Array) -> Array:
        return jnp.where(lane.is_open, new, old)

    return lane._replace(
        is_open=lane.is_open & ~gone & ~arrived,
        verdict=kept(verdict, lane.verdict),
        rate=kept(jnp.where(first > 0, rate, 0), lane.rate),
        distance=kept(jnp.where(finite, r, jnp.inf), lane.distance),
        used=kept(rest + (c + 1) * part, lane.used),
    )


def _cycle(
    advance: Callable[[State, Array], State], state: State, etas: Array, max_period: int
) -> Array:
    """The steps after which each lane is back where it is now, 0 if none up to the longest."""

    def one(later: State, _: None) -> tuple[State, Array]:
        later = jax.vmap(advance)(later, etas)
        return later, jax.vmap(square_distance)(later.players, state.players)

    _, squares = jax.lax.scan(one, state, None, length=max_period)
    back = squares <= rounding(etas.dtype) * jnp.max(squares, axis=0)[None]
    return jnp.where(jnp.any(back, axis=0), jnp.argmax(back, axis=0) + 1, 0).astype(jnp.int32)


def square_distance(players: Players, origin: Players | None = None) -> Array:
    """The squared Euclidean distance over all players' coordinates."""
    if origin is not None:
        players = jax.tree.map(lambda a, b: a - b, players, origin)
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(players)]
    return sum(squares[1:], squares[0])
