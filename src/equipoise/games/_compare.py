"""Critical step sizes of several rules on one game, as a table."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from equipoise._check_old import type_error, value_error
from equipoise._types import Array, aligned, result, static_field
from equipoise.games._critical import KINDS, CriticalStep, critical_step_size
from equipoise.games._game import Game, Players
from equipoise.games._rule import Rule


@result
class Comparison:
    """Critical step sizes of several rules, printed as a table.

    Attributes:
        names: What each rule is called.
        steps: The ``CriticalStep`` of each rule.
        max_step_size: Where the search for each ended.
    """

    names: tuple[str, ...] = static_field()
    steps: tuple[CriticalStep, ...]
    max_step_size: Array

    def __str__(self) -> str:
        """The table."""
        if any(
            isinstance(leaf, jax.core.Tracer) or leaf.ndim > 1 for leaf in jax.tree.leaves(self)
        ):
            return repr(self)
        order = sorted(
            range(len(self.names)),
            key=lambda i: (
                -float(self.steps[i].step_size),
                -float(self.steps[i].neutral_step_size),
            ),
        )
        rows = [[f"  {self.names[i]}", *_row(self.steps[i], self.max_step_size)] for i in order]
        header = ["  rule", "converges below", "bounded up to", "lost by", "angle", "resonance"]
        return f"Comparison\n{aligned(rows, header=header)}"


def _row(step: CriticalStep, limit: Array) -> list[str]:
    def end(size: Array, nothing: str) -> str:
        if jnp.isinf(size):
            return f"beyond {float(limit):.4g}"
        return nothing if size == 0 else f"{float(size):.4g}"

    kind = int(step.kind)
    p, q = (int(number) for number in step.resonance)
    return [
        end(step.step_size, "never"),
        end(step.neutral_step_size, "never"),
        KINDS[kind] if kind else "-",
        f"{float(jnp.rad2deg(step.angle)):.4g}°" if kind else "-",
        f"{p}:{q}" if q else "-",
    ]


def compare(
    game: Game,
    rules: Sequence[Rule],
    equilibrium: Players,
    *,
    max_step_size: float | Array,
    names: Sequence[str] | None = None,
    step_ratios: Sequence[float | Array] | None = None,
) -> Comparison:
    r"""Critical step sizes of several rules at one equilibrium.

    .. math::

        \eta^*_r = \sup\{\eta : \rho_r(s) < 1 \text{ for all } 0 < s < \eta\}
        \quad \text{for each rule } r

    Args:
        game: The game.
        rules: The update rules r.
        equilibrium: z*, a tuple of one pytree a player.
        max_step_size: Where the search ends.
        names: What the rules are called in the table. Default: each rule's own name.
        step_ratios: Factors of the common step, one a player, as in :func:`critical_step_size`.

    Returns:
        :class:`Comparison`. Its ``str`` says "never" for a step size of 0, and "beyond" where the
        equilibrium still attracts at ``max_step_size``.

    Raises:
        TypeError: If an entry of ``rules`` is no rule.
        ValueError: If ``rules`` is empty, or ``names`` has another length.

    Cost: one :func:`critical_step_size` for each rule.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> rules = [games.simultaneous(), games.extragradient()]
        >>> print(games.compare(game, rules, (0.0, 0.0), max_step_size=9.0))
        Comparison
          rule           converges below  bounded up to  lost by         angle  resonance
          extragradient  1                1              Neimark-Sacker  90°    1:4
          simultaneous   never            never          -               -      -

    References:
        :cite:t:`mokhtari2020`
    """
    where = "games.compare"
    if len(rules) == 0:
        raise value_error(where, "rules", "must hold at least one rule", "none")
    for i, rule in enumerate(rules):
        if not isinstance(rule, Rule):
            raise type_error(where, f"rules[{i}]", "must be a Rule", rule)
    names = [rule.name for rule in rules] if names is None else names
    if len(names) != len(rules):
        raise value_error(
            where, "names", f"must have one entry for each of {len(rules)} rules", f"{len(names)}"
        )
    steps = tuple(
        critical_step_size(
            game, rule, equilibrium, max_step_size=max_step_size, step_ratios=step_ratios
        )
        for rule in rules
    )
    return Comparison(tuple(names), steps, jnp.asarray(max_step_size))
