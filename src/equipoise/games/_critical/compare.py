"""Critical step sizes of several rules on one game, as a table."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from equipoise._check import at, type_error, value_error
from equipoise._types import Array, Float, aligned, field_by_field, result, static_field
from equipoise.games._critical.critical import critical_step_size
from equipoise.games._critical.critical_step import CriticalStep, Kind
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.rule import Ratios, Rule

_COLUMNS = tuple(field.name for field in dataclasses.fields(CriticalStep))


@result
class Comparison(CriticalStep):
    """Critical step sizes of several rules, one row per name; printed as a table.

    The columns are the fields of ``CriticalStep``, with one entry per row; ``comparison[name]`` is
    the ``CriticalStep`` of one rule.

    Attributes:
        names: What each rule is called.
        step_size: The equilibrium attracts on (0, ``step_size``).
        neutral_step_size: ρ ≤ 1 on (0, ``neutral_step_size``).
        attracted_step_size: What small steps attract is attracted on (0, ``attracted_step_size``).
        num_flat: How many directions small steps leave where they are.
        num_repelling: How many directions small steps repel.
        eigenvalue: The eigenvalue that reaches the unit circle.
        angle: Its angle, in [0, π] radians.
        kind: How the equilibrium is lost, a ``Kind`` each.
        resonance: (p, q) where the angle is 2πp/q with q ≤ 12, otherwise (0, 0).
        simple: Whether the eigenvalue and its conjugate are alone on the circle, and simple.
        residual: How far one step moves a player's coordinate, per unit of step size.
        max_step_size: Where the search for each ended.
    """

    names: tuple[str, ...] = static_field()
    max_step_size: Float[Array, ""]

    def __getitem__(self, name: str) -> CriticalStep:
        """The row of a rule."""
        if name not in self.names:
            raise KeyError(name)
        i = self.names.index(name)
        return CriticalStep(**{column: getattr(self, column)[i] for column in _COLUMNS})

    def __str__(self) -> str:
        """The table, the largest step size first."""
        if isinstance(self.step_size, jax.core.Tracer) or jnp.ndim(self.step_size) != 1:
            return field_by_field(self)
        steps = {name: self[name] for name in self.names}
        order = sorted(
            self.names,
            key=lambda name: (-float(steps[name].step_size), -float(steps[name].neutral_step_size)),
        )
        rows = [[f"  {name}", *_row(steps[name], self.max_step_size)] for name in order]
        header = ["  rule", "converges below", "bounded up to", "lost by", "angle", "resonance"]
        partly = (self.step_size == 0) & (self.attracted_step_size > 0)
        if jnp.any(partly):
            # Where flat or repelling directions keep play from converging as a whole.
            header.insert(2, "attracts below")
            for name, row in zip(order, rows, strict=True):
                row.insert(2, _end(steps[name].attracted_step_size, self.max_step_size))
        return f"Comparison\n{aligned(rows, header=header)}"


def _end(size: Array, limit: Array) -> str:
    if jnp.isinf(size):
        return f"beyond {float(limit):.4g}"
    return "never" if size == 0 else f"{float(size):.4g}"


def _row(step: CriticalStep, limit: Array) -> list[str]:
    kind = Kind(int(step.kind))
    p, q = (int(number) for number in step.resonance)
    return [
        _end(step.step_size, limit),
        _end(step.neutral_step_size, limit),
        kind.word if kind else "-",
        f"{float(jnp.rad2deg(step.angle)):.4g}°" if kind else "-",
        f"{p}:{q}" if q else "-",
    ]


@at("games.compare")
def compare(
    rules: Mapping[str, Rule],
    /,
    game: Game,
    equilibrium: Players,
    *,
    max_step_size: float | Array,
    step_ratios: Ratios | None = None,
) -> Comparison:
    r"""Critical step sizes of several rules at one equilibrium.

    .. math::

        \eta^*_r = \sup\{\eta : \rho_r(s) < 1 \text{ for all } 0 < s < \eta\}
        \quad \text{for each rule } r

    Args:
        rules: The name of each row to its update rule r.
        game: The game.
        equilibrium: z*, a tuple of one pytree per player.
        max_step_size: Where the search ends.
        step_ratios: Factors of the common step, one per player, as in :func:`critical_step_size`.

    Returns:
        :class:`Comparison`, with the names in the order given. Its ``str`` says "never" for a step
        size of 0, and "beyond" where the equilibrium still attracts at ``max_step_size``. It has a
        column for ``attracted_step_size`` where that is not ``step_size``.

    Raises:
        TypeError: If ``rules`` is no mapping, or one of its values is no rule.
        ValueError: If ``rules`` is empty.

    Cost: one :func:`critical_step_size` for each rule.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> rules = {"at once": games.simultaneous(), "with a look ahead": games.extragradient()}
        >>> print(games.compare(rules, game, (0.0, 0.0), max_step_size=9.0))
        Comparison
          rule               converges below  bounded up to  lost by         angle  resonance
          with a look ahead  1                1              Neimark-Sacker  90°    1:4
          at once            never            never          -               -      -

    References:
        :cite:t:`mokhtari2020`
    """
    if not isinstance(rules, Mapping):
        raise type_error("rules", "must map names to rules", rules, 'Example: {"plain": rule}.')
    if not rules:
        raise value_error("rules", "must hold at least one rule", "none")
    for name, rule in rules.items():
        if not isinstance(rule, Rule):
            raise type_error(f"rules[{name!r}]", "must be a Rule", rule)
    steps = [
        critical_step_size(
            game, rule, equilibrium, max_step_size=max_step_size, step_ratios=step_ratios
        )
        for rule in rules.values()
    ]
    return Comparison(names=tuple(rules), **_columns(steps, max_step_size))


@jax.jit
def _columns(steps: list[CriticalStep], limit: float | Array) -> dict[str, Array]:
    rows = jax.tree.map(lambda *column: jnp.stack(column), *steps)
    columns = {column: getattr(rows, column) for column in _COLUMNS}
    return {**columns, "max_step_size": jnp.asarray(limit)}
