"""Many runs at once, each judged by how its distance changes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.games._play.passes import repeated
from equipoise.games._rules.game import Players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import State, Steps
from equipoise.games._rules.verdict import CONVERGES, DIVERGES, NEUTRAL, UNDEFINED

# A run is judged after each of so many parts; a block of lanes ends when all its lanes are judged.
NUM_PARTS = 16
_BLOW_UP = 1e8


class _Evidence(NamedTuple):
    """What the verdict on a lane rests on; distances are squared, and closed lanes keep theirs.

    ``past`` and ``recent`` are the largest distances of the last two spans, ``peak`` the largest of
    all, and ``part`` the last part. A lane is open while its verdict is neutral.
    """

    past: Array
    recent: Array
    peak: Array
    last: Array
    part: Array
    verdict: Array
    gradient: Array


def play_lanes(
    advance: Callable[[State, Steps], State],
    start: State,
    etas: Steps,
    origin: Callable[[State], Players] | None,
    gradient: Callable[[Players], Array],
    *,
    num_steps: int,
    tolerance: float | Array,
    max_period: int,
) -> tuple[Array, ...]:
    """Verdict, rate, period, distance, steps and gradient of a block of lanes, its axis first."""
    # What is left over comes first, so that all parts are equally long: a length that differed
    # between lanes would cost a selection in every step under `vmap`.
    length, rest = divmod(num_steps, NUM_PARTS)

    def one(state: State) -> tuple[State, Array]:
        def lane(state: State, eta: Steps) -> tuple[State, Array]:
            after = advance(state, eta)
            before = origin(after) if origin else state.players
            return after, _square_distance(after.players, before)

        return jax.vmap(lane)(state, etas)

    def step(inner: tuple[State, Array]) -> tuple[State, Array]:
        state, square = one(inner[0])
        # A comparison costs less than a maximum that keeps NaN, and NaN shows in the size.
        return state, _larger(inner[1], square)

    def play_part(carry: tuple[Array, State, _Evidence]) -> tuple[Array, State, _Evidence]:
        c, state, lane = carry
        # A span of parts begins at 1, 2, 4 and 8, so that each is as long as all before it.
        begins = (c > 0) & ((c & (c - 1)) == 0)
        past = jnp.where(begins, lane.recent, lane.past)
        recent = jnp.where(begins, 0, lane.recent)
        # The last distance, carried through the loop, would cost a pass over memory a step.
        if origin:
            state, recent = repeated(step, length, (state, recent))
            last = distance(state.players, jax.vmap(origin)(state))
        else:
            state, recent = repeated(step, length - 1, (state, recent))
            state, last = one(state)
            recent = _larger(recent, last)
        peak = _larger(lane.peak, recent)
        left = jax.vmap(gradient)(state.players)
        new = _Evidence(past, recent, peak, last, jnp.full_like(lane.part, c), lane.verdict, left)
        return c + 1, state, _judged(lane, new, first, state.players)

    def unfinished(carry: tuple[Array, State, _Evidence]) -> Array:
        c, _, lane = carry
        return (c < NUM_PARTS) & jnp.any(lane.verdict == NEUTRAL)

    distance = jax.vmap(_square_distance)
    first = distance(start.players, jax.vmap(origin)(start) if origin else one(start)[0].players)
    zero = jnp.zeros(first.shape, jnp.int32)
    none = jnp.zeros_like(first)
    state, peak = repeated(step, rest, (start, none)) if rest else (start, none)
    evidence = _Evidence(first, none, _larger(peak, first), first, zero, zero + NEUTRAL, none)
    carry = (jnp.asarray(0, jnp.int32), state, evidence)
    _, state, lane = jax.lax.while_loop(unfinished, play_part, carry)

    verdict, rate = _concluded(lane, first, length, rest, tolerance)
    cycle = jax.lax.cond(
        jnp.any(verdict == NEUTRAL),
        lambda: _cycle(lambda s: one(s)[0], state, max_period),
        lambda: zero,
    )
    period = jnp.where(verdict == NEUTRAL, cycle, (verdict == CONVERGES).astype(jnp.int32))
    used = rest + (lane.part + 1) * length
    return verdict, rate, period, jnp.sqrt(lane.last), used, lane.gradient


def _judged(old: _Evidence, new: _Evidence, first: Array, players: Players) -> _Evidence:
    """The lanes after one more part: those that have gone or arrived are closed."""
    eps = rounding(first.dtype)
    size = jax.vmap(_square_distance)(players)
    finite = jnp.isfinite(new.recent) & jnp.isfinite(size) & jnp.isfinite(new.last)
    far = _BLOW_UP**2 * jnp.maximum(1, first)
    # NaN after an overflow is an overflow; where all was well before, nothing can be said.
    overflowed = jnp.isinf(new.peak) | (new.peak > far)
    undefined = (jnp.isnan(size) | jnp.isnan(new.last)) & ~overflowed
    gone = ~finite | (new.last > far)
    arrived = finite & (new.last <= jnp.maximum(eps**1.5 * first, (4 * eps) ** 2 * size))
    closing = jnp.where(gone, DIVERGES, jnp.where(arrived, CONVERGES, NEUTRAL))
    closing = jnp.where(undefined, UNDEFINED, closing)
    last = jnp.where(undefined, jnp.nan, jnp.where(finite, new.last, jnp.inf))
    new = new._replace(last=last, verdict=closing.astype(jnp.int32))
    is_open = old.verdict == NEUTRAL
    return _Evidence(*(jnp.where(is_open, n, o) for n, o in zip(new, old, strict=True)))


def _concluded(
    lane: _Evidence, first: Array, length: int, rest: int, tolerance: float | Array
) -> tuple[Array, Array]:
    """Verdict and rate; lanes that are still open are judged by their trend."""
    dtype = lane.last.dtype
    limits = jnp.finfo(dtype)  # type: ignore[no-untyped-call]

    def log(square: Array) -> Array:
        known = jnp.where(jnp.isnan(square), limits.max, square)
        return jnp.log(jnp.clip(known, limits.tiny, limits.max)) / 2

    # The present span began at part b, the one before it at b/2; part 0 has only its two ends.
    c, is_first = lane.part.astype(dtype), lane.part == 0
    b = jnp.exp2(jnp.floor(jnp.log2(jnp.maximum(c, 1))))
    shrink_time = jnp.where(is_first, rest + length, jnp.maximum(b / 2, 1) * length)
    grow_time = jnp.where(is_first, rest, (c - b) * length) + length
    change = log(jnp.where(is_first, lane.last, lane.recent)) - log(lane.past)
    rate = jnp.exp(change / jnp.where(change < 0, shrink_time, grow_time))

    trend = jnp.where(jnp.abs(change) <= tolerance, NEUTRAL, jnp.sign(change)).astype(jnp.int32)
    verdict = jnp.where(lane.verdict == NEUTRAL, trend, lane.verdict)
    rate = jnp.where(first > 0, rate, 0)
    return verdict, jnp.where(verdict == UNDEFINED, jnp.nan, rate)


class _Return(NamedTuple):
    """Lanes on their way back: how far they went, and minus the steps so far until they are."""

    later: State
    extent: Array
    back: Array


def _cycle(advance: Callable[[State], State], state: State, max_period: int) -> Array:
    """The steps after which each lane is back where it is now, 0 if none up to the longest."""

    def round_trip(_: Array, lane: _Return) -> _Return:
        # The first finds how far the lane goes, the second what counts as a return.
        near = rounding(lane.extent.dtype) * lane.extent

        def step(lane: _Return) -> _Return:
            later = advance(lane.later)
            square = jax.vmap(_square_distance)(later.players, state.players)
            steps = jnp.where(square <= near, 1 - lane.back, lane.back - 1)
            back = jnp.where(lane.back > 0, lane.back, steps)
            return _Return(later, jnp.maximum(lane.extent, square), back)

        return repeated(step, max_period, _Return(state, lane.extent, jnp.zeros_like(lane.back)))

    still = jnp.zeros_like(jax.vmap(_square_distance)(state.players))
    start = _Return(state, still, jnp.zeros(still.shape, jnp.int32))
    return jnp.maximum(jax.lax.fori_loop(0, 2, round_trip, start).back, 0)


def _larger(largest: Array, square: Array) -> Array:
    """The larger of the two, leaving out NaN in the second."""
    return jnp.where(square > largest, square, largest)


def _square_distance(players: Players, origin: Players | None = None) -> Array:
    """The squared Euclidean distance over all players' coordinates."""
    if origin is not None:
        players = jax.tree.map(lambda a, b: a - b, players, origin)
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(players)]
    return sum(squares[1:], squares[0])
