"""Gradient play: at once, in turn, with extrapolation, with momentum."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from equipoise._check import at, type_error, value_error
from equipoise._types import PyTree
from equipoise.games._rules.game import Game, Players, field, partial_gradient
from equipoise.games._rules.rule import (
    Memory,
    Projections,
    Rule,
    Steps,
    axpy,
    descend,
    descend_one,
    make_rule,
    projector,
)


@at("games.simultaneous")
def simultaneous(*, projections: Projections = None) -> Rule:
    r"""All players move at once, each down the gradient of its own loss.

    .. math::

        z_{t+1} = \Pi\bigl(z_t - \eta F(z_t)\bigr)

    On a bilinear game it converges for no step size; on one player it is gradient descent, which
    converges exactly for η < 2/λ_max.

    Args:
        projections: Π, one function per player (None for a player without constraint) that maps its
            position back into its set, such as those of ``optax.projections``. Default: none.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.

    Cost: one vector field per step.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.simultaneous()
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=1.0, num_steps=3)
        >>> print(p, q)
        [ 1.  0. -2. -4.] [1. 2. 2. 0.]

    References:
        :cite:t:`arrow1958`
    """
    project = projector(projections)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        return project(descend(z, eta, field(game, z))), memory

    return make_rule("simultaneous", advance, project=project)


@at("games.alternating")
def alternating(order: Sequence[int] | None = None, *, projections: Projections = None) -> Rule:
    r"""One player after the other, each seeing the moves before its own.

    .. math::

        x_i \leftarrow \Pi_i\bigl(x_i - \eta_i \nabla_{x_i} f_i(x_1, \dots, x_n)\bigr),
        \qquad i = o_1, o_2, \dots

    One pass through the order is one step. On a bilinear game it converges for no step size either,
    but it stays bounded for ησ < 2: it cycles on an ellipse.

    Args:
        order: o, the players in their order of play, each at least once; one named k times moves k
            times per step. Default: first to last, so that the minimizer of a zero-sum game begins.
        projections: Πᵢ, as in ``simultaneous``.

    Returns:
        The rule; it remembers nothing.

    Raises:
        ValueError: If ``order`` does not name every player of the game, or one that is not there.
        TypeError: If ``order`` is not a sequence of Python integers, or ``projections`` is no tuple
            of functions or None.

    Cost: one partial gradient for each entry of ``order``.

    Examples:
        Six steps lead back to the start, with the maximizer first and step size 1.

        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.alternating(order=(1, 0))
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=1.0, num_steps=6)
        >>> print(p, q)
        [ 1. -1. -2. -1.  1.  2.  1.] [ 1.  2.  1. -1. -2. -1.  1.]

    References:
        :cite:t:`zhang2022alternating`; :cite:t:`bailey2020`
    """
    project = projector(projections)
    order = checked_order(order)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        for i in order_of_play(order, len(z)):
            moved = descend_one(z[i], eta[i], partial_gradient(game, i, z))
            z = replaced(z, i, project.one(i, moved))
        return z, memory

    return make_rule("alternating", advance, project=project)


@at("games.extragradient")
def extragradient(*, projections: Projections = None) -> Rule:
    r"""A look ahead along the gradient, then the step with the gradient found there.

    .. math::

        z_{t+1/2} = \Pi\bigl(z_t - \eta F(z_t)\bigr), \qquad
        z_{t+1} = \Pi\bigl(z_t - \eta F(z_{t+1/2})\bigr)

    On a bilinear game it converges exactly for ησ < 1. For optimizers with a state inside an
    extragradient step see ``from_optax(..., extrapolate=True)``.

    Args:
        projections: Π, as in ``simultaneous``; both half-steps are projected.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.

    Cost: two vector fields per step.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.extragradient()
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [ 1.      0.25   -0.4375] [1.     1.25   1.0625]

    References:
        :cite:t:`korpelevich1976`
    """
    project = projector(projections)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        half = project(descend(z, eta, field(game, z)))
        return project(descend(z, eta, field(game, half))), memory

    return make_rule("extragradient", advance, project=project)


@at("games.optimistic")
def optimistic(
    alpha: float | jax.Array = 1.0,
    beta: float | jax.Array = 1.0,
    *,
    projections: Projections = None,
) -> Rule:
    r"""Gradient play along the gradient extrapolated from the one before.

    .. math::

        z_{t+1} = \Pi\bigl(z_t - \eta\,[(\alpha + \beta) F(z_t) - \beta F(z_{t-1})]\bigr),
        \qquad F(z_{-1}) := F(z_0)

    The first step is therefore a plain one with α, as in optax. The other convention, F(z₋₁) = 0,
    has another orbit and the same stability. Without projections the iterates are the half-points
    of past extragradient. With α = β = 1 a bilinear game converges exactly for ησ < 1/√3.

    Args:
        alpha: α, the weight of the gradient. A number.
        beta: β, the weight of its last change. A number.
        projections: Π, as in ``simultaneous``.

    Returns:
        The rule; it remembers the last vector field.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.

    Cost: one vector field per step.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> p, q = games.simulate(game, games.optimistic(), (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [ 1.   0.5 -0.5] [1.   1.5  1.5]

    References:
        :cite:t:`popov1980`; :cite:t:`daskalakis2018`; :cite:t:`mokhtari2020`
    """
    project = projector(projections)

    def advance(game: Game, z: Players, past: Players, eta: Steps) -> tuple[Players, Players]:
        now = field(game, z)
        direction = jax.tree.map(lambda g, p: _as(alpha, g) * g + _as(beta, g) * (g - p), now, past)
        return project(descend(z, eta, direction)), now

    return make_rule("optimistic", advance, lambda game, z, eta: field(game, z), project=project)


@at("games.momentum")
def momentum(
    beta: float | jax.Array,
    *,
    order: Sequence[int] | None = None,
    projections: Projections = None,
) -> Rule:
    r"""Heavy-ball momentum of either sign, at once or in an order of play.

    .. math::

        v_{t+1} = \beta v_t - \eta F(z_t), \qquad z_{t+1} = \Pi(z_t + v_{t+1}), \qquad v_0 = 0

    With an order, player i's gradient is taken where the players before it have already moved. On a
    bilinear game negative momentum converges when alternating, for ησ < 2(1 + β), and never when
    simultaneous.

    Args:
        beta: β, the momentum of every player, or a tuple of one per player. Negative is allowed.
        order: The players in their order of play, each once; None moves all at once.
        projections: Π, as in ``simultaneous``; the velocity is not projected.

    Returns:
        The rule; it remembers the velocity v.

    Raises:
        ValueError: If ``order`` does not name each player of the game once.
        TypeError: If ``order`` is not a sequence of Python integers, or ``projections`` is no tuple
            of functions or None.

    Cost: one vector field per step (one partial gradient per player with an order).

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.momentum(-0.5, order=(0, 1))
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=1.0, num_steps=2)
        >>> print(p, q)
        [ 1.   0.  -0.5] [1.   1.   0.5]

    References:
        :cite:t:`polyak1964`; :cite:t:`gidel2019`
    """
    project = projector(projections)
    order = checked_order(order, repeats=False)

    def advance(game: Game, z: Players, v: Players, eta: Steps) -> tuple[Players, Players]:
        betas = tuple(beta) if isinstance(beta, tuple | list) else (beta,) * len(z)
        if order is None:
            v = _velocity(v, betas, eta, field(game, z))
            return project(tuple(axpy(1.0, w, x) for x, w in zip(z, v, strict=True))), v
        for i in order_of_play(order, len(z)):
            gradient = partial_gradient(game, i, z)
            (w,) = _velocity((v[i],), (betas[i],), (eta[i],), (gradient,))
            v = replaced(v, i, w)
            z = replaced(z, i, project.one(i, axpy(1.0, w, z[i])))
        return z, v

    return make_rule(
        "momentum", advance, lambda game, z, eta: jax.tree.map(jnp.zeros_like, z), project=project
    )


def _velocity(
    v: Players, beta: Sequence[float | jax.Array], eta: Steps, gradient: Players
) -> Players:
    damped = tuple(
        jax.tree.map(lambda w, b=b: _as(b, w) * w, v_i) for b, v_i in zip(beta, v, strict=True)
    )
    return descend(damped, eta, gradient)


def _as(number: float | jax.Array, like: jax.Array) -> jax.Array:
    """A rule's parameter in the dtype of the array it multiplies."""
    return jnp.asarray(number).astype(like.dtype)


def replaced(players: Players, i: int, player: PyTree[jax.Array]) -> Players:
    """The players with player i's position exchanged."""
    return (*players[:i], player, *players[i + 1 :])


def checked_order(order: Sequence[int] | None, *, repeats: bool = True) -> tuple[int, ...] | None:
    """The order of play as integers; only with ``repeats`` may it name a player twice."""
    if order is None:
        return None
    if not isinstance(order, tuple | list) or not all(type(i) is int for i in order):
        raise type_error("order", "must be a tuple of player numbers", order, "Example: (1, 0).")
    if set(order) != set(range(max(order, default=-1) + 1)) or not (
        repeats or len(set(order)) == len(order)
    ):
        raise value_error(
            "order",
            "must name every player, from 0," + ("" if repeats else " once"),
            str(tuple(order)),
        )
    return tuple(order)


def order_of_play(order: tuple[int, ...] | None, num_players: int) -> tuple[int, ...]:
    """The order for this number of players; first to last by default."""
    if order is None:
        return tuple(range(num_players))
    if len(set(order)) != num_players:
        raise value_error(
            "order", f"must name each of the game's {num_players} players", str(order)
        )
    return order
