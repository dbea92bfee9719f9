"""Rules made of the optimizers of optax."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from equipoise._check import at, value_error
from equipoise._types import Array, PyTree
from equipoise.games._optimizers.anatomy import Anatomy, anatomy
from equipoise.games._optimizers.held import Held, hold
from equipoise.games._optimizers.optimizer import (
    Optimizer,
    check_optimizer,
    checked_state,
    traced_optimizer,
)
from equipoise.games._rules.game import (
    Game,
    Players,
    TracedGame,
    field,
    partial_gradient,
    traced_game,
)
from equipoise.games._rules.gradient_play import checked_order, order_of_play, replaced
from equipoise.games._rules.rule import (
    Memory,
    Projections,
    Projector,
    Rule,
    Steps,
    axpy,
    make_rule,
    projector,
)

# From one player's gradient, memory and position to its update and its next memory.
_Update: TypeAlias = Callable[[int, PyTree[Array], Any, PyTree[Array]], tuple[PyTree[Array], Any]]


@at("games.from_optax")
def from_optax(
    *optimizers: optax.GradientTransformation,
    order: Sequence[int] | None = None,
    extrapolate: bool = False,
    projections: Projections = None,
    state: PyTree | None = None,
    frozen: PyTree | None = None,
) -> Rule:
    r"""Play with optax optimizers, at once, in an order or by extragradient.

    .. math::

        (u_i, m_i) \leftarrow \mathrm{update}_i(\nabla_{x_i} f_i, m_i, x_i), \qquad
        x_i \leftarrow \Pi_i(x_i + \eta_i u_i)

    The step size multiplies what the optimizer returns. Give optimizers a learning rate of 1, as in
    ``optax.adam(1.0)``, and it is the learning rate; a schedule inside them multiplies it too.

    With ``extrapolate`` the gradients are those of the half-point
    :math:`z + \eta\,\mathrm{update}(F(z), m)`, whose moments are thrown away: the optimizer's state
    advances once a step, by the gradient at the half-point.

    The spectrum of such a rule is that of its players and of the memory that moves with them, as
    momentum does. Slow memory is held: second moments, step counts, hyperparameters. Which memory
    is slow is found by trial, with small pushes of the optimizer. With ``state`` it is held at that
    state; by default it is held where a constant gradient, the one at the equilibrium, leads it:
    Adam's second moment is its square, step counts are at their limit. An optimizer whose step
    counts turn in a circle, as those of ``optax.MultiSteps``, is linearized over the whole circle:
    a step is then that many updates.

    Args:
        *optimizers: One ``optax.GradientTransformation`` per player, or one for all.
        order: The players in their order of play, each at least once; None moves all at once.
        extrapolate: Whether to take gradients at the half-point. Not with an order.
        projections: Πᵢ, as in ``simultaneous``; the half-point is projected too.
        state: Where play begins and where the spectrum is taken: the optimizer's state of one
            player, or a tuple of one per player. Step counts of 0 stand for their limit in the
            spectrum. Default: what the optimizers' ``init`` makes.
        frozen: What is held, where the rule is not to find out: booleans in the structure of
            ``state``, or of the upper part of it.

    Returns:
        The rule; it remembers the optimizers' states.

    Raises:
        TypeError: If an optimizer is not an ``optax.GradientTransformation``, ``order`` is not a
            sequence of Python integers, or ``projections`` is no tuple of functions or None. From
            the spectrum: if an optimizer closes over traced values.
        ValueError: If there are no optimizers, their number is neither one nor the game's, the
            order does not name every player, or it comes together with ``extrapolate``; if
            ``state`` or ``frozen`` does not fit. From the spectrum: if an optimizer answers a small
            push of the gradient out of proportion, as Lion and others that go by signs do.

    Cost: one vector field per step, two with ``extrapolate``, and the optimizers' own.

    Examples:
        >>> import optax
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.from_optax(optax.sgd(1.0))
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [ 1.    0.5  -0.25] [1.   1.5  1.75]

    References:
        :cite:t:`deepmind2020jax`
    """
    if not optimizers:
        raise value_error("optimizers", "must hold one optimizer at least", "none")
    for optimizer in optimizers:
        check_optimizer("optimizers", optimizer)
    project = projector(projections)
    order = checked_order(order)
    if extrapolate and order is not None:
        raise value_error(
            "order",
            "must be None with `extrapolate`",
            str(order),
            "Extragradient moves everybody at once.",
        )

    def of_players(z: Players) -> tuple[optax.GradientTransformation, ...]:
        chosen = optimizers * len(z) if len(optimizers) == 1 else optimizers
        if len(chosen) != len(z):
            raise value_error(
                "optimizers",
                f"must be one for all or one for each of the {len(z)} players",
                f"{len(optimizers)} optimizers",
            )
        return chosen

    def given(name: str, value: PyTree, z: Players) -> tuple[PyTree, ...]:
        """One entry per player, also where a single player's stands alone."""
        if value is None:
            return (None,) * len(z)
        if len(z) == 1 and not (isinstance(value, tuple | list) and len(value) == 1):
            return (value,)
        if len(z) == 1 and name == "state":
            only = jax.eval_shape(of_players(z)[0].init, z[0])
            if jax.tree.structure(value) == jax.tree.structure(only):  # type: ignore[operator]
                return (value,)
        if not isinstance(value, tuple | list) or len(value) != len(z):
            raise value_error(name, f"must have one entry for each of the {len(z)} players", value)
        return tuple(value)

    def remember(game: Game, z: Players, eta: Steps) -> Memory:
        begun = []
        for optimizer, x, begin in zip(of_players(z), z, given("state", state, z), strict=True):
            like = jax.eval_shape(optimizer.init, x)
            begun.append(
                optimizer.init(x) if begin is None else checked_state("state", begin, like)
            )
        return tuple(begun)

    def advance(
        update: _Update, game: Game, z: Players, m: Memory, eta: Steps
    ) -> tuple[Players, Memory]:
        def move(i: int, gradient: PyTree[Array], z: Players, m: Memory) -> tuple[PyTree, PyTree]:
            u, m_i = update(i, gradient, m[i], z[i])
            return project.one(i, axpy(eta[i], u, z[i])), m_i

        def together(gradient: Players) -> tuple[Players, Memory]:
            moved = [move(i, g, z, m) for i, g in enumerate(gradient)]
            return tuple(x for x, _ in moved), tuple(m_i for _, m_i in moved)

        if order is not None:
            for i in order_of_play(order, len(z)):
                x, m_i = move(i, partial_gradient(game, i, z), z, m)
                z, m = replaced(z, i, x), replaced(m, i, m_i)
            return z, m
        half = together(field(game, z))[0] if extrapolate else z
        return together(field(game, half))

    def plain(game: Game, z: Players, m: Memory, eta: Steps) -> tuple[Players, Memory]:
        def update(i: int, g: PyTree[Array], m_i: Any, x: PyTree[Array]) -> tuple[PyTree, PyTree]:
            return of_players(z)[i].update(g, m_i, x)

        return advance(update, game, z, m, eta)

    def held(game: Game, z: Players) -> Rule:
        pieces = []
        options = zip(given("state", state, z), given("frozen", frozen, z), strict=True)
        for optimizer, x, (begin, kept) in zip(of_players(z), z, options, strict=True):
            data, shapes = traced_optimizer("optimizers", optimizer, x)
            begun = None if begin is None else checked_state("state", begin, shapes.state)
            pieces.append((data, anatomy("optimizers", data, shapes, kept), begun))
        there, held, drift = _hold(traced_game(game, z), z, *zip(*pieces, strict=True))
        return _held_rule(advance, project, there, held, drift)

    return make_rule("from_optax", plain, remember, project=project, held=held)


@functools.partial(jax.jit, static_argnums=3)
def _hold(
    game: TracedGame,
    z: Players,
    optimizers: tuple[Optimizer, ...],
    parts: tuple[Anatomy, ...],
    states: tuple[Any, ...],
) -> tuple[Players, tuple[Held, ...], Players]:
    """The gradients, the optimizers held there, and how far those move players for a step of 1."""
    there = field(game.again(), z)
    held = tuple(map(hold, optimizers, parts, z, there, states))

    def drift(held: Held, x: PyTree[Array], gradient: PyTree[Array]) -> PyTree[Array]:
        none = jax.tree.map(jnp.zeros_like, gradient)
        moved, rest = (held.update(g, held.still(), held.counts(), x)[0] for g in (gradient, none))
        return jax.tree.map(lambda a, b: a - b, moved, rest)

    return there, held, tuple(map(drift, held, z, there))


def _held_rule(
    advance: Callable[..., Any],
    project: Projector,
    there: Players,
    held: tuple[Held, ...],
    drift: Players,
) -> Rule:
    """The rule of held optimizers; its memory is what moves, a step is a period of updates."""
    length = math.lcm(*(piece.parts.period for piece in held))

    def update(i: int, g: PyTree[Array], m_i: Any, x: PyTree[Array]) -> tuple[PyTree, Any]:
        # Gradients count from those at the players, so that nothing slow is fed.
        change = jax.tree.map(lambda a, b: a - b, g, there[i])
        moving, counts = m_i
        u, moving, counts = held[i].update(change, moving, counts, x)
        return jax.tree.map(lambda a, b: a + b, u, drift[i]), (moving, counts)

    def once(game: Game, eta: Steps, now: tuple[Players, Memory]) -> tuple[Players, Memory]:
        return advance(update, game, *now, eta)

    def step(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        now = z, tuple((m, piece.counts()) for m, piece in zip(memory, held, strict=True))
        if length == 1:
            z, later = once(game, eta, now)
        else:
            z, later = jax.lax.scan(
                lambda carry, _: (once(game, eta, carry), None), now, None, length=length
            )[0]
        return z, tuple(moving for moving, _ in later)

    def remember(game: Game, z: Players, eta: Steps) -> Memory:
        return tuple(piece.still() for piece in held)

    return make_rule("from_optax", step, remember, project=project)
