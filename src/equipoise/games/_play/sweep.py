"""What play does at each of many step sizes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, floating_array, is_traced, positive_integer
from equipoise._types import Array, PRNGKeyArray, record, static_field
from equipoise.games._play.lanes import NUM_PARTS, play_lanes
from equipoise.games._play.sweep_result import Sweep
from equipoise.games._rules.dynamics import (
    Dynamics,
    Factors,
    checked_ratios,
    common_dtype,
    each_player,
)
from equipoise.games._rules.game import Game, Players, checked_players, field
from equipoise.games._rules.rule import Ratios, Rule, State, check_not_negative, check_rule
from equipoise.games._rules.verdict import UNDEFINED
from equipoise.games._sampled.drawn import drawn_dynamics, twin_players, twins

# States of so many bytes are swept at once, so that what a step reads and writes stays in a cache.
_BLOCK_BYTES = 2**21
# More steps in all take longer than to compile the payoff's and the rule's numbers in.
LONG = 10**8


@at("games.sweep")
def sweep(
    game: Game,
    rule: Rule,
    players: Players,
    *,
    step_sizes: Array,
    num_steps: int,
    step_ratios: Ratios | None = None,
    equilibrium: Players | None = None,
    tolerance: float = 0.05,
    max_period: int = 24,
    key: PRNGKeyArray | None = None,
) -> Sweep:
    r"""Whether play converges, stays or diverges at many step sizes, and how fast.

    .. math::

        r_t = \lVert z_t - z^* \rVert, \qquad
        \text{rate} = \Bigl(\max_{t \in \text{last half}} r_t \Bigm/
        \max_{t \in \text{quarter before}} r_t\Bigr)^{1/\Delta t}

    with Δt the time between the starts of the two spans where r shrinks and between their ends
    where it grows. Without an equilibrium, :math:`r_t = \lVert z_t - z_{t-1} \rVert`: a run is then
    said to converge where it comes to rest, wherever that is. Its ``gradient`` tells whether that
    place is an equilibrium.

    In a sampled game with a key, z* or z_{t−1} is the place of a twin run under the same batches,
    which begins at the equilibrium or one step ahead. The noise that both share drops out of the
    distance, so that a run that settles to its noise floor, however high, is said to converge: it
    has forgotten where it began. ``noise_floor`` says how high that is.

    Args:
        game: The game.
        rule: The update rule.
        players: The start z₀, a tuple of one pytree per player.
        step_sizes: η, an array of any shape. A concrete array that is sharded over a device mesh
            is swept where it lies, each device with its own loop.
        num_steps: T, the steps of a run at most, ≥ 16 and static.
        step_ratios: Factors rᵢ of the common step, one per player. Default: 1 for all.
        equilibrium: z*, where the distance is measured from. Default: none.
        tolerance: The relative change between the two spans that counts as none. The verdict then
            resolves rates that differ from 1 by about 4·tolerance/T.
        max_period: The longest cycle that is recognized, ≥ 1.
        key: Draws the batches of a sampled game, the same for all step sizes. Without one it is
            played on all of its data. One run shows what is typical: above
            ``mean_square_critical_step_size`` it may converge while the variance of many grows.

    Returns:
        A verdict and what it rests on for each step size; see ``Sweep``. A run ends early, at a
        sixteenth of T, as converged where r has fallen to ε^¾ of its first value or to the
        rounding of z, and as diverged where it is beyond 10⁸·max(1, first value) or no longer
        finite. Overflow is a divergence with distance ∞. NaN that comes before any distance beyond
        that bound is ``UNDEFINED``, with rate and distance NaN; otherwise no field is NaN. Cycles
        count as exact to √ε of their extent.

    Raises:
        TypeError: If a player is not real and floating-point, ``rule`` is no rule, ``num_steps`` no
            Python integer, or ``key`` not one key.
        ValueError: If the players do not fit the game or the rule, a step size is negative or NaN,
            ``num_steps`` < 16, ``max_period`` < 1, or there is a key and the game is not sampled.

    Cost: T + 2·``max_period`` steps for each step size at most, in blocks of 2 MiB of states that
    end as soon as all their lanes are judged; memory of a few states per step size of a block and
    of the results, no trajectories. From 10⁸ steps in all, Python numbers that game and rule close
    over are compiled in: the steps are quicker, and other numbers compile anew.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> swept = games.sweep(game, games.alternating(), (1.0, 1.0),
        ...     step_sizes=jnp.array([0.5, 1.0, 2.5]), num_steps=1000)
        >>> print(swept.verdict, swept.period)
        [0 0 1] [0 6 0]

    References:
        :cite:t:`bailey2020`
    """
    check_rule(rule)
    players = checked_players(game, players)
    step_sizes = floating_array("step_sizes", step_sizes).astype(common_dtype(players))
    check_not_negative("step_sizes", step_sizes)
    num_steps = positive_integer("num_steps", num_steps, minimum=NUM_PARTS)
    max_period = positive_integer("max_period", max_period)
    is_long = step_sizes.size * num_steps > LONG
    runs = runs_of(
        game, rule, players, step_ratios, equilibrium, tolerance, is_long=is_long, key=key
    )
    return _sweep(runs, step_sizes, num_steps, max_period, _mesh_of(step_sizes))


@record
class Runs:
    """What the runs of a sweep have in common."""

    dynamics: Dynamics
    players: Players
    factors: Factors
    equilibrium: Players | None
    tolerance: float | Array
    has_twins: bool = static_field()

    def origin(self) -> Callable[[State], Players] | None:
        """Where the distance of a state is measured from; None is the state before."""
        if self.has_twins:
            return twin_players
        equilibrium = self.equilibrium
        return None if equilibrium is None else lambda state: equilibrium


def runs_of(
    game: Game,
    rule: Rule,
    players: Players,
    step_ratios: Ratios | None,
    equilibrium: Players | None,
    tolerance: float | Array,
    *,
    is_long: bool,
    key: PRNGKeyArray | None = None,
) -> Runs:
    """Checked players under a rule, with what else a sweep needs."""
    factors = checked_ratios(step_ratios, players)
    if equilibrium is not None:
        equilibrium = checked_players(game, equilibrium, "equilibrium")
    has_twins = key is not None
    rule = twins(rule, equilibrium) if has_twins else rule
    known = drawn_dynamics(game, rule, players, key, is_long=is_long)
    return Runs(known, players, factors, equilibrium, tolerance, has_twins)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _sweep(
    runs: Runs,
    step_sizes: Array,
    num_steps: int,
    max_period: int,
    sharding: jax.sharding.NamedSharding | None,
) -> Sweep:
    """The sweep, on the mesh that the step sizes are sharded over."""

    def local(runs: Runs, etas: Array) -> Sweep:
        return swept(runs, etas, num_steps, max_period)

    if sharding is not None:
        local = jax.shard_map(
            local,
            mesh=sharding.mesh,
            in_specs=(jax.P(), sharding.spec),  # type: ignore[no-untyped-call]
            out_specs=sharding.spec,
            check_vma=False,
        )
    return local(runs, step_sizes)


def swept(runs: Runs, etas: Array, num_steps: int, max_period: int) -> Sweep:
    """The sweep in blocks of runs that a cache holds."""

    def begin(eta: Array) -> State:
        return runs.dynamics.begin(runs.players, each_player(eta, runs.factors))

    def gradient(players: Players) -> Array:
        left = jax.tree.leaves(field(runs.dynamics.game.again(), players))
        return jnp.stack([jnp.max(jnp.abs(leaf)).astype(etas.dtype) for leaf in left]).max()

    def block(etas: Array) -> tuple[Array, ...]:
        return play_lanes(
            runs.dynamics.step,
            jax.vmap(begin)(etas),
            each_player(etas, runs.factors),
            runs.origin(),
            gradient,
            num_steps=num_steps,
            tolerance=runs.tolerance,
            max_period=max_period,
        )

    flat = etas.reshape(-1)
    leaves = jax.tree.leaves(jax.eval_shape(begin, jnp.zeros((), etas.dtype)))
    most = max(_BLOCK_BYTES // sum(x.size * x.dtype.itemsize for x in leaves), 1)
    num_blocks = max(-(-flat.size // most), 1)
    size = -(-flat.size // num_blocks)
    # Equal blocks, the last one filled up: blocks of two sizes would be two programs.
    filled = jnp.pad(flat, (0, num_blocks * size - flat.size), mode="edge")
    found = jax.lax.map(block, filled.reshape(num_blocks, size))
    verdict, *numbers, gradients = (x.reshape(-1)[: flat.size].reshape(etas.shape) for x in found)
    rate, period, distance, used = numbers
    gradients = jnp.where(jnp.isfinite(gradients), gradients, jnp.inf)
    gradients = jnp.where(verdict == UNDEFINED, jnp.nan, gradients)
    is_movement = runs.equilibrium is None
    return Sweep(
        etas, verdict, rate, period, distance, used, gradients, is_movement, runs.has_twins
    )


def _mesh_of(step_sizes: Array) -> jax.sharding.NamedSharding | None:
    """How concrete step sizes are spread over a mesh, if they are."""
    sharding = None if is_traced(step_sizes) else step_sizes.sharding
    if isinstance(sharding, jax.sharding.NamedSharding) and not sharding.is_fully_replicated:
        return sharding
    return None
