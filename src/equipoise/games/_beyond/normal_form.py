"""What play does once stability is lost: the normal form of the update at a critical step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, type_error
from equipoise._types import Array
from equipoise.games._beyond.outcome import NormalForm, Outcome
from equipoise.games._critical.critical_step import (
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    NOT_LOST,
    CriticalStep,
)
from equipoise.games._critical.derivative import log_modulus
from equipoise.games._critical.directions import moving
from equipoise.games._rules.dynamics import each_player
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.numerics import dense_matrix, rounding
from equipoise.games._rules.rule import Ratios, Rule
from equipoise.games._spectrum.spectrum import Family, family_of
from equipoise.games._spectrum.update_map import flat_step, layout, settled


@at("games.normal_form")
def normal_form(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    critical: CriticalStep,
    *,
    step_ratios: Ratios | None = None,
) -> NormalForm:
    r"""Whether stability is lost softly or hard, and how large a cycle appears.

    .. math::

        c = \tfrac16 \langle p, C(q, q, q) \rangle
            - \tfrac12 \langle p, B(q, (A - I)^{-1} B(q, q)) \rangle, \qquad r^2 = \varepsilon / c

    at a flip, and at a Neimark–Sacker bifurcation with :math:`\lambda = e^{i \theta}`

    .. math::

        a = \tfrac12 \operatorname{Re} \bar\lambda \bigl[ \langle p, C(q, q, \bar q) \rangle
            + 2 \langle p, B(q, (I - A)^{-1} B(q, \bar q)) \rangle
            + \langle p, B(\bar q, (\lambda^2 I - A)^{-1} B(q, q)) \rangle \bigr]

    with A, B, C the first three derivatives of the update on the full state, q and p the right and
    left eigenvectors of A that are lost, ⟨p, q⟩ = 1. q is scaled so that r is the distance of the
    players from the equilibrium, as a root mean square over a cycle. At a fold b is ½⟨p, B(q, q)⟩.

    Along flat directions A − I has no inverse. Their part of B(q, q) is the ``drift``: where there
    is none up to √ε, they are left out; elsewhere they decide, and the coefficient is NaN.

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree per player.
        critical: From ``critical_step_size`` of this game, rule and equilibrium.
        step_ratios: As in ``critical_step_size``.

    Returns:
        The ``NormalForm``, constants of differentiation. Its coefficient is NaN where no direction
        is lost, where the eigenvalue is not simple, at the strong resonances q = 1, 3 and 4 of a
        pair of eigenvalues, and where flat directions decide.

    Raises:
        TypeError: If a player is not real and floating-point, ``rule`` is no rule, or ``critical``
            no ``CriticalStep``.
        ValueError: If the players do not fit the game or the rule.

    Cost: an N×N matrix and its eigenvectors, N the size of the full state, and a dozen directional
    derivatives of third order at most; no array of N² or N³ higher derivatives.

    Examples:
        Descent on x³/3 − x²/2 is the logistic map: beyond η = 2 a cycle of two appears softly.

        >>> game, rule = games.general_sum(lambda x: x**3 / 3 - x**2 / 2), games.simultaneous()
        >>> lost = games.critical_step_size(game, rule, (1.0,), max_step_size=3.0)
        >>> form = games.normal_form(game, rule, (1.0,), lost)
        >>> bool(form.supercritical), round(float(form.coefficient), 4)
        (True, 4.0)
        >>> round(float(form.amplitude(2.04)), 4)
        0.1

    References:
        :cite:t:`kuznetsov2004`, section 5.4; :cite:t:`damian2023`
    """
    if not isinstance(critical, CriticalStep):
        raise type_error(
            "critical", "must be a CriticalStep", critical, "Take it from critical_step_size."
        )
    family = family_of(game, rule, equilibrium, step_ratios)
    return _form(*jax.lax.stop_gradient((family, critical)))


@jax.jit
def _form(family: Family, critical: CriticalStep) -> NormalForm:
    step = critical.step_size
    step = jnp.where(step == 0, critical.attracted_step_size, step)
    eta = jnp.where(step == 0, critical.neutral_step_size, step)
    is_lost = (critical.kind != NOT_LOST) & jnp.isfinite(eta)
    eta, eps = jnp.where(is_lost, eta, 1), rounding(eta.dtype, 0.5)
    steps = each_player(eta, family.factors)
    state = settled(family.dynamics, family.players, steps)
    ravel, unravel = layout(state)
    z = ravel(state)

    def step_from(flat: Array) -> Array:
        return flat_step(family.dynamics, steps, state, flat)

    a = dense_matrix(jax.linearize(step_from, z)[1], z.size, z.dtype)
    values, vectors = jnp.linalg.eig(a)
    left = jnp.linalg.inv(vectors)
    k = jnp.argmin(jnp.abs(values - critical.eigenvalue))
    is_pair, is_fold = critical.kind == NEIMARK_SACKER, critical.kind == FOLD
    q, p, value = *_scaled(vectors[:, k], left[k], family.players, is_pair), values[k]
    is_flat = moving(values, jnp.abs(values - 1), critical.num_flat) < 0
    along_flat = jnp.where(is_flat[None], vectors, 0) @ left
    # What the resolvent at 1 leaves out: flat directions, and at a fold the one that is lost.
    apart = along_flat + jnp.where(is_fold, 1, 0).astype(q.dtype) * jnp.outer(q, p)

    b_qq, b_qc = _second(step_from, z, q, jnp.stack([q, q.conj()]))
    c_qqc = _third(step_from, z, q)
    identity, a = jnp.eye(z.size, dtype=q.dtype), a.astype(q.dtype)
    h_qc = jnp.linalg.solve(identity - a + apart, b_qc - apart @ b_qc)
    aside = jnp.where(is_pair, 0, apart)
    h_qq = jnp.linalg.solve(value**2 * identity - a + aside, b_qq - aside @ b_qq)
    (b_h,) = _second(step_from, z, q, h_qc[None])
    (b_hc,) = _second(step_from, z, q.conj(), h_qq[None])
    terms = jnp.stack([p @ c_qqc, 2 * (p @ b_h), p @ b_hc])
    cubic = jnp.where(is_pair, jnp.real(value.conj() * terms.sum()) / 2, terms.sum().real / 6)

    # 1/r and 1/r² are the units of B and C.
    unit = jnp.sqrt(jnp.linalg.norm(b_qc) ** 2 + jnp.linalg.norm(c_qqc))
    drift, square = jnp.linalg.norm(along_flat @ b_qc), jnp.real(p @ b_qq) / 2
    one_sided = is_fold & (jnp.abs(square) > eps * unit)
    vanishes = jnp.abs(cubic) <= eps * jnp.abs(terms).sum()
    soft = jnp.where(critical.kind == FLIP, cubic > 0, cubic < 0)
    order = critical.resonance[1]
    outcome = jnp.select(
        [
            ~is_lost,
            ~critical.simple,
            is_pair & (order >= 1) & (order <= 4),
            drift > eps * unit,
            one_sided,
            vanishes,
            soft,
        ],
        [
            *(Outcome.NOTHING, Outcome.REPEATED, Outcome.RESONANT, Outcome.DRIFTS),
            *(Outcome.ONE_SIDED, Outcome.VANISHES, Outcome.SOFT),
        ],
        Outcome.HARD,
    ).astype(jnp.int32)
    coefficient = jnp.where(one_sided, square, cubic)
    log_speed = jax.jvp(
        lambda s: log_modulus(family, critical.eigenvalue, s), (eta,), (jnp.ones_like(eta),)
    )[1]
    longest = jnp.real(q * jnp.sqrt(_phase(jnp.sum(q**2))).conj())
    length = jnp.linalg.norm(longest[: _num_players(family.players)])
    return NormalForm(
        coefficient=jnp.where(outcome < Outcome.RESONANT, coefficient, jnp.nan),
        supercritical=outcome == Outcome.SOFT,
        kind=critical.kind,
        outcome=outcome,
        step_size=jnp.where(is_lost, eta, jnp.nan),
        speed=jnp.where(is_lost, log_speed, jnp.nan),
        drift=drift,
        direction=unravel(longest / length).players,
    )


def _num_players(players: Players) -> int:
    """How many of the flat state's coordinates, which come first, are the players'."""
    return sum(leaf.size for leaf in jax.tree.leaves(players))


def _scaled(q: Array, p: Array, players: Players, is_pair: Array) -> tuple[Array, Array]:
    """Eigenvectors with ⟨p, q⟩ = 1, by which wq + w̄q̄ (or wq) is at distance |w| in the mean."""
    length = jnp.linalg.norm(q[: _num_players(players)]) * jnp.where(is_pair, jnp.sqrt(2), 1)
    # A real vector may come with any phase.
    phase = jnp.where(is_pair, 1, _phase(q[jnp.argmax(jnp.abs(q))]).conj())
    q = q * phase / length.astype(q.dtype)
    return q, p / (p @ q)


def _phase(number: Array) -> Array:
    """The complex number without its modulus, 1 for 0."""
    size = jnp.abs(number).astype(number.dtype)
    return jnp.where(size == 0, 1, number / jnp.where(size == 0, 1, size))


def _second(f: Callable[[Array], Array], z: Array, u: Array, vs: Array) -> Array:
    """B(u, v) for complex u and each v, from derivatives along real vectors."""

    def real(v: Array, w: Array) -> Array:
        return jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (z,), (w,))[1]

    def both(v: Array) -> Array:
        # In one batch, so that the program holds f once.
        parts = jax.vmap(real)(
            jnp.stack([u.real, u.imag, u.real, u.imag]), jnp.stack([v.real, v.imag, v.imag, v.real])
        )
        return jax.lax.complex(parts[0] - parts[1], parts[2] + parts[3])

    return jax.vmap(both)(vs)


def _third(f: Callable[[Array], Array], z: Array, q: Array) -> Array:
    """C(q, q, q̄) = C(r, r, r) + C(r, s, s) + i C(s, r, r) + i C(s, s, s), where q = r + is."""

    def real(u: Array, v: Array) -> Array:
        def second(x: Array) -> Array:
            return jax.jvp(lambda y: jax.jvp(f, (y,), (v,))[1], (x,), (v,))[1]

        return jax.jvp(second, (z,), (u,))[1]

    r, s = q.real, q.imag
    rrr, rss, srr, sss = jax.vmap(real)(jnp.stack([r, r, s, s]), jnp.stack([r, s, r, s]))
    return jax.lax.complex(rrr + rss, srr + sss)
