"""Rules made of other rules, and of the optimizers of optax."""

from collections.abc import Sequence

import jax
import optax

from equipoise._check import at, positive_integer, type_error, value_error
from equipoise._types import Array, PyTree
from equipoise.games._rules.game import Game, Players, field, partial_gradient
from equipoise.games._rules.gradient_play import checked_order, order_of_play, replaced
from equipoise.games._rules.rule import (
    Memory,
    Projections,
    Rule,
    State,
    Steps,
    axpy,
    check_rule,
    make_rule,
    projector,
)


@at("games.lookahead")
def lookahead(rule: Rule, num_steps: int = 5, alpha: float | Array = 0.5) -> Rule:
    r"""Several steps of a rule, then back part of the way to where they began.

    .. math::

        z_{t+1} = z_t + \alpha\,(\Phi_\eta^k(z_t) - z_t)

    The inner rule's memory is kept from one round to the next, not reset.

    Args:
        rule: Φ, the inner rule.
        num_steps: k, the inner steps of one step, ≥ 1 and static.
        alpha: α, the part of the way that is kept. A number; 1 is the inner rule itself.

    Returns:
        The rule; it remembers what the inner one does. One step of it is k steps of play.

    Raises:
        TypeError: If ``rule`` is no rule or ``num_steps`` no Python integer.
        ValueError: If ``num_steps`` < 1.

    Cost: k steps of the inner rule a step.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.simultaneous()
        >>> p, q = games.simulate(
        ...     game, games.lookahead(rule, 2, 0.5), (1.0, 1.0), step_size=1.0, num_steps=2)
        >>> print(p, q)
        [ 1.   -0.5  -1.75] [1.   1.5  0.25]

    References:
        :cite:t:`zhang2019`; :cite:t:`chavdarova2021`
    """
    check_rule(rule)
    num_steps = positive_integer("num_steps", num_steps)

    def remember(game: Game, z: Players, eta: Steps) -> Memory:
        return rule.init(game, z, eta).memory

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        def inner(state: State, _: None) -> tuple[State, None]:
            return rule.step(game, state, eta), None

        end, _ = jax.lax.scan(inner, State(z, memory), None, length=num_steps)
        way = jax.tree.map(lambda a, b: a - b, end.players, z)
        return axpy(alpha, way, z), end.memory

    return make_rule("lookahead", advance, remember, project=rule.project)


@at("games.from_optax")
def from_optax(
    *optimizers: optax.GradientTransformation,
    order: Sequence[int] | None = None,
    extrapolate: bool = False,
    projections: Projections = None,
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

    Adam and its kin at an equilibrium: the second moment is 0 there, where its square root has no
    derivative, so their linearization is NaN unless the optimizer has ``eps_root`` > 0.

    Args:
        *optimizers: One ``optax.GradientTransformation`` a player, or one for all.
        order: The players in their order of play, each at least once; None moves all at once.
        extrapolate: Whether to take gradients at the half-point. Not with an order.
        projections: Πᵢ, as in ``simultaneous``; the half-point is projected too.

    Returns:
        The rule; it remembers the optimizers' states.

    Raises:
        TypeError: If an optimizer is not an ``optax.GradientTransformation``, ``order`` is not a
            sequence of Python integers, or ``projections`` is no tuple of functions or None.
        ValueError: If there are no optimizers, their number is neither one nor the game's, the
            order does not name every player, or it comes together with ``extrapolate``.

    Cost: one vector field a step, two with ``extrapolate``, and the optimizers' own.

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
        if not isinstance(optimizer, optax.GradientTransformation):
            raise type_error(
                "optimizers",
                "must be optax.GradientTransformations",
                optimizer,
                "Example: optax.adam(1.0).",
            )
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

    def remember(game: Game, z: Players, eta: Steps) -> Memory:
        return tuple(o.init(x) for o, x in zip(of_players(z), z, strict=True))

    def move(
        i: int, gradient: PyTree[Array], m: optax.OptState, z: Players, eta: Steps
    ) -> tuple[PyTree[Array], optax.OptState]:
        update, m = of_players(z)[i].update(gradient, m, z[i])
        return project.one(i, axpy(eta[i], update, z[i])), m

    def together(gradient: Players, m: Memory, z: Players, eta: Steps) -> tuple[Players, Memory]:
        moved = [move(i, g, m[i], z, eta) for i, g in enumerate(gradient)]
        return tuple(x for x, _ in moved), tuple(state for _, state in moved)

    def advance(game: Game, z: Players, m: Memory, eta: Steps) -> tuple[Players, Memory]:
        if order is not None:
            for i in order_of_play(order, len(z)):
                x, m_i = move(i, partial_gradient(game, i, z), m[i], z, eta)
                z, m = replaced(z, i, x), replaced(m, i, m_i)
            return z, m
        half = together(field(game, z), m, z, eta)[0] if extrapolate else z
        return together(field(game, half), m, z, eta)

    return make_rule("from_optax", advance, remember, project=project)
