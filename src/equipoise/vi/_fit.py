"""The fit that needs no tuning."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from equipoise._check_old import positive_integer, type_error, value_error
from equipoise._types import PRNGKeyArray, PyTree, Scalar
from equipoise.vi._family import Family
from equipoise.vi._fit_judge import judge
from equipoise.vi._fit_result import Fit
from equipoise.vi._fit_run import (
    NORMALS,
    begin_at,
    begin_descent,
    find_starts,
    fit_gradient,
    fit_normal,
    plan,
    points,
)
from equipoise.vi._fit_stages import MAX_FULL_RANK
from equipoise.vi._fit_target import trace
from equipoise.vi._full_rank import full_rank
from equipoise.vi._mean_field import mean_field
from equipoise.vi._support import Support

WHERE = "vi.fit"


def fit(
    log_density: Callable[[PyTree], Scalar],
    example: PyTree,
    key: PRNGKeyArray,
    *,
    family: Family | Callable[[PyTree], Family] | None = None,
    support: PyTree | Support | None = None,
    optimizer: optax.GradientTransformation | None = None,
    start: PyTree = None,
    num_steps: int | None = None,
    num_samples: int | None = None,
    num_restarts: int = 4,
    gradient: str | None = None,
    draws: str | None = None,
    progress: Callable[[int, float], object] | None = None,
    state: Any = None,
) -> Fit:
    r"""Approximation of a log density without tuning, and whether to trust it.

    .. math::

        \Sigma^{-1} \leftarrow (1 - \rho)\,\Sigma^{-1} - \rho\,\mathbb{E}_q \nabla^2 \log p,
        \qquad m \leftarrow m + \rho\,\Sigma\,\mathbb{E}_q \nabla \log p

    Newton paths from several points find the local normal with the largest ELBO. A full-rank or
    mean-field normal then takes the natural-gradient steps above on fixed points that integrate
    quadratics exactly; any other family, or any with an ``optimizer``, starts at that normal and
    follows gradients of the ELBO. Last, importance weights judge q; where they are uneven, an
    adapted mixture of Student t gives better draws, and the verdict is about those.

    Args:
        log_density: log p, a function of one position that returns one number. Arrays that it
            closes over keep their sharding, so sharded data makes a data-parallel fit.
        example: A pytree of floating-point arrays with the shapes of one position.
        key: All randomness of the fit.
        family: A :class:`Family`, or a function of the example that makes one, such as
            ``vi.mean_field``. Default: :func:`full_rank` up to 200 coordinates, then
            :func:`mean_field`.
        support: Where each leaf lives, for the default family.
        optimizer: An optax optimizer, to take its steps instead of natural-gradient ones.
            Default for families that need one: Adam with a cosine schedule.
        start: The position to start from. Default: where the flat vector is 0.
        num_steps: Largest number of steps in all. Default: 100 natural-gradient steps, or 2000.
        num_samples: Points of the ELBO that is maximized. Default: 512 at least, or 16 a step.
        num_restarts: Number of Newton paths.
        gradient: Estimator that an optimizer follows, as in :func:`elbo`. Default: of
            closed-form entropy and sticking the landing the one with the smaller variance,
            measured every 100 steps.
        draws: ``"iid"``, ``"antithetic"`` or ``"quasi_random"`` draws of an optimizer's steps.
            Default: antithetic for an even number.
        progress: Called as ``progress(step, elbo)`` about twenty times, as in ``progress=print``.
        state: ``state`` of an earlier fit to go on from. With the same other arguments the steps
            are those of one longer fit, bit for bit.

    Returns:
        A :class:`Fit`. It has converged when a natural-gradient step is expected to gain less
        than √ε nats; with an optimizer, when the mean ELBO of the last tenth of the steps exceeds
        that of the tenth before by less than two standard errors or 0.01. Where something is not
        finite the last good params are returned, and ``reason`` names the term and the step.

    Raises:
        ValueError: If ``log_density`` does not return one number or is not finite at the start,
            a number is below 1, ``support`` or ``start`` does not fit the example, or ``gradient``
            needs a pathwise derivative that the family does not have.
        TypeError: If a leaf of the example is not floating-point, ``family`` makes none, or
            ``optimizer`` is none of optax.

    Cost: a few dozen gradients and Newton paths for each of ``num_samples`` points, then 8192
        evaluations of ``log_density``, or up to 17 times as many where q is poor.

    Examples:
        >>> fit = vi.fit(lambda z: -0.5 * (z - 8) ** 2 / 0.04, jnp.zeros(()), jax.random.key(0))
        >>> print(f"{fit.params['mean'][0]:.3f} {fit.trusted}")
        8.000 True

    References:
        :cite:t:`khan2023`, :cite:t:`zhang2022`, :cite:t:`vehtari2024`, :cite:t:`cappe2008`.
    """
    for name, number in (("num_steps", num_steps), ("num_samples", num_samples)):
        if number is not None:
            positive_integer(WHERE, name, number)
    positive_integer(WHERE, "num_restarts", num_restarts)
    family = resolve(example, family, support)
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise type_error(
            WHERE, "optimizer", "must be an optax optimizer", optimizer, "Try optax.adam(0.01)."
        )
    target = trace(WHERE, log_density, family)
    keys = jax.random.split(key, 5)
    center = begin_at(target, family, start)
    newton = optimizer is None and family.name in NORMALS and family.dimension <= MAX_FULL_RANK
    if newton:
        noise = points(keys[0], center, num_samples or 512)
        starts = find_starts(target, family, center, keys[1], noise[0], num_restarts)
        steps = num_steps or 100
        found = fit_normal(target, family, starts, noise[1], state, steps, progress)
    else:
        starts, steps = None, num_steps or 2000
        if state is None:
            if family.dimension <= MAX_FULL_RANK:
                noise = points(keys[0], center, 2)
                starts = find_starts(target, family, center, keys[1], noise[0], num_restarts)
            state = begin_descent(family, center, starts, optimizer, keys[2], steps)
        settings = plan(family, optimizer, num_samples, gradient, draws)
        found = fit_gradient(target, family, optimizer, state, keys[2], settings, steps, progress)
    return judge(target, family, found, starts, keys[3], keys[4])


def resolve(example: PyTree, family: Any, support: Any) -> Family:
    """The family that was asked for, of positions like the example."""
    default = full_rank(example, support=support)
    if family is None:
        large = default.dimension > MAX_FULL_RANK
        return mean_field(example, support=support) if large else default
    if support is not None:
        raise value_error(
            WHERE, "support", "goes with the default family", support, "Give it to the family."
        )
    made = family(example) if callable(family) else family
    if not isinstance(made, Family):
        raise type_error(
            WHERE, "family", "must be a Family or make one", family, "Try vi.full_rank(example)."
        )
    theirs = made.positions
    if theirs is None or theirs[:2] != default.positions[:2]:
        raise value_error(
            WHERE,
            "family",
            f"must have positions like `example`, {default.positions[:2]}",
            str(None if theirs is None else theirs[:2]),
            "Make it from the same example.",
        )
    return made
