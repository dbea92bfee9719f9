"""Rules that correct the gradient by second derivatives."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array, PyTree
from equipoise.games._rules.game import Game, Players, field
from equipoise.games._rules.rule import (
    Memory,
    Projections,
    Rule,
    Steps,
    axpy,
    descend,
    make_rule,
    projector,
)

_Field: TypeAlias = Callable[[Players], Players]


@at("games.consensus")
def consensus(gamma: float | jax.Array, *, projections: Projections = None) -> Rule:
    r"""Gradient play that also goes down the squared length of the vector field.

    .. math::

        z_{t+1} = \Pi\bigl(z_t - \eta\,[F + \gamma\, J^\top F](z_t)\bigr), \qquad
        J^\top F = \nabla \tfrac12 \lVert F \rVert^2

    On a bilinear game it converges exactly for η < 2γ/(1 + γ²σ²).

    Args:
        gamma: γ, the weight of the consensus term. A number.
        projections: Π, as in ``simultaneous``.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.

    Cost: one vector field and one vector–Jacobian product of it per step.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.consensus(1.0)
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [ 1.   0.  -0.5] [1.  1.  0.5]

    References:
        :cite:t:`mescheder2017`
    """
    return _corrected("consensus", gamma, lambda own, z, f, pull: pull, projections)


@at("games.symplectic_adjustment")
def symplectic_adjustment(lambda_: float | jax.Array, *, projections: Projections = None) -> Rule:
    r"""Gradient play corrected by the rotational part of the game.

    .. math::

        z_{t+1} = \Pi\bigl(z_t - \eta\,[F + \lambda\, A^\top F](z_t)\bigr), \qquad
        A = \tfrac12 (J - J^\top)

    On a bilinear game it is ``consensus`` with γ = λ; on a potential game it is plain gradient
    play. The sign of λ is not aligned: it is the caller's.

    Args:
        lambda_: λ, the weight of the adjustment. A number.
        projections: Π, as in ``simultaneous``.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.

    Cost: one vector field, one Jacobian–vector and one vector–Jacobian product of it per step.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.symplectic_adjustment(1.0)
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [ 1.   0.  -0.5] [1.  1.  0.5]

    References:
        :cite:t:`balduzzi2018`
    """

    def twist(own: _Field, z: Players, f: Players, pull: Players) -> Players:
        _, push = jax.jvp(own, (z,), (f,))
        return jax.tree.map(lambda a, b: (a - b) / 2, pull, push)

    return _corrected("symplectic_adjustment", lambda_, twist, projections)


def _corrected(
    name: str,
    weight: float | Array,
    correction: Callable[[_Field, Players, Players, Players], Players],
    projections: Projections,
) -> Rule:
    """Gradient play along F + w c(z ↦ F, z, F, JᵀF)."""
    project = projector(projections)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        def own(u: Players) -> Players:
            return field(game, u)

        f, transposed = jax.vjp(own, z)
        (pull,) = transposed(f)
        return project(descend(z, eta, axpy(weight, correction(own, z, f, pull), f))), memory

    return make_rule(name, advance, project=project)


@at("games.lola")
def lola(lookahead: float | jax.Array, *, projections: Projections = None) -> Rule:
    r"""Gradient play of players who anticipate the next step of their opponents.

    .. math::

        x_i \leftarrow \Pi_i\Bigl(x_i - \eta_i \nabla_{x_i}
        f_i\bigl(x_i,\; x_{-i} - \alpha \nabla_{x_{-i}} f_{-i}(x)\bigr)\Bigr)

    all at once. The gradient goes through the opponents' imagined steps, each down its own loss
    from the present point. This is the loss itself, not its first-order expansion in α.

    Args:
        lookahead: α, the step that each player imagines for the others. A number.
        projections: Π, as in ``simultaneous``; imagined steps are not projected.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.

    Cost: for each of n players one reverse pass through n − 1 gradients.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.lola(0.5)
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [ 1. 0. -0.5] [1. 1. 0.5]

    References:
        :cite:t:`foerster2018`; :cite:t:`letcher2019`
    """
    project = projector(projections)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        def foreseen(i: int, own: PyTree[Array]) -> Array:
            here = (*z[:i], own, *z[i + 1 :])
            moved = descend(here, tuple(jnp.asarray(lookahead) for _ in z), field(game, here))
            return game.losses[i](*moved[:i], own, *moved[i + 1 :])

        gradient = tuple(jax.grad(lambda own, i=i: foreseen(i, own))(x) for i, x in enumerate(z))
        return project(descend(z, eta, gradient)), memory

    return make_rule("lola", advance, project=project)
