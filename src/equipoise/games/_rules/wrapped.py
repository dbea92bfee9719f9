"""A rule made of another one."""

import jax

from equipoise._check import at, positive_integer
from equipoise._types import Array
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.rule import (
    Memory,
    Rule,
    State,
    Steps,
    axpy,
    check_rule,
    make_rule,
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

    Cost: k steps of the inner rule per step.

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
