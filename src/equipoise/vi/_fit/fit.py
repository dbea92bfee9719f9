"""The fit that needs no tuning."""

from collections.abc import Callable

import optax

from equipoise._check import at, random_key, value_error
from equipoise._types import PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.family import Family
from equipoise.vi._fit.judge import judge
from equipoise.vi._fit.judging import judging
from equipoise.vi._fit.options import check_choices, check_numbers, check_state, resolve
from equipoise.vi._fit.result import Fit
from equipoise.vi._stages.beginning import fewer
from equipoise.vi._stages.escalate import stages_until
from equipoise.vi._starts.begun import Begun, starting_point
from equipoise.vi._starts.newton import find_starts
from equipoise.vi._steps.batched import begin_on_batches
from equipoise.vi._steps.gradient import (
    BATCHED_STEPS,
    GRADIENT_STEPS,
    choose_optimizer,
    first_params,
    fit_gradient,
    plan,
)
from equipoise.vi._steps.loop import Progress, shown
from equipoise.vi._steps.natural import NORMAL_STEPS, fit_normal
from equipoise.vi._supports.support import Support
from equipoise.vi._target.batches import batches_of
from equipoise.vi._target.points import balanced, chance
from equipoise.vi._target.target import MAX_CURVED, num_points, trace
from equipoise.vi._weights.effort import counted

_FEW_POINTS, _FEW_EACH = 64, 8  # of the ELBO where the density is dear, and for each coordinate


@at("vi.fit")
@counted()
def fit(
    log_density: Callable[..., Scalar],
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
    max_evaluations: int | None = None,
    escalate: bool | str = True,
    gradient: str | None = None,
    draws: str | None = None,
    data: PyTree = None,
    batch_size: int | None = None,
    progress: Progress = None,
    state: PyTree = None,
) -> Fit:
    r"""Approximation of a log density without tuning, and whether to trust it.

    .. math::

        \Sigma^{-1} \leftarrow (1 - \rho)\,\Sigma^{-1} - \rho\,\mathbb{E}_q \nabla^2 \log p,
        \qquad m \leftarrow m + \rho\,\Sigma\,\mathbb{E}_q \nabla \log p

    Newton paths from several points find the local normal with the largest ELBO. A full-rank or
    mean-field normal then takes the natural-gradient steps above on fixed points that integrate
    quadratics exactly; any other family, or any with an ``optimizer``, starts at that normal and
    follows gradients of the ELBO. Last, the density is asked at points of all distances, and at
    images of the mean with other signs and labels, for mass that no path reached, and importance
    weights judge q; where they are uneven, or there are other modes, an adapted mixture of Student
    t gives better draws, and the verdict is about those. Where standard errors alone are too large,
    more draws are made. Where they are not trusted, three more expensive stages follow, each judged
    alike. ``"conditional"`` finds the few coordinates that bend the density, draws them from a
    mixture, and all others from the normal that they leave. ``"annealed"`` moves particles from q
    to p and compares islands of them. ``"flow"`` bends a normal like those particles towards p, by
    its ELBO and their likelihood. Where a fit is not trusted, ``reason`` names the coordinate by
    its path in the example, and what would help.

    The log density is compiled once for its equations and shapes, and once more within the steps of
    an optimizer; two or three small programs depend on the family alone. Nothing is compiled again
    for a density, family or optimizer that is made anew, for other captured arrays, or for other
    floating-point numbers in the density's own lines. A number inside of a loop, or an integer, is
    part of the equations.

    Args:
        log_density: log p, a function of one position that returns one number. Arrays that it
            closes over keep their sharding, so sharded data makes a data-parallel fit.
        example: A pytree of floating-point arrays with the shapes of one position.
        key: All randomness of the fit.
        family: A :class:`Family`, one of your own too, or a function of the example that makes
            one, such as ``vi.mean_field``. Default: :func:`full_rank` up to 200 coordinates, then
            :func:`mean_field`.
        support: Where leaves live: one support for all, or a pytree like the example in which
            leaves that are left out, or None, are real, and one support stands for all below it. A
            function that makes the family is given it as ``support=``; a family that is made
            already must have it.
        optimizer: An optax optimizer, to take its steps instead of natural-gradient ones.
            Default for families that need one: Adam with a cosine schedule. One with a line
            search, such as L-BFGS, compares values and needs a ``num_samples`` of hundreds; make
            it once, as it is compiled for each that is made.
        start: The position to start from. Default: where the flat vector is 0; for a family of
            your own whose ``init`` takes no position, the mean of its first draws.
        num_steps: Largest number of steps in all. Default: 100 natural-gradient steps, or 2000
            of an optimizer, 6000 on batches.
        num_samples: Points of the ELBO that is maximized. Default: 512 at least, fewer where the
            density is dear, or 16 per step; 64 where draws have no path.
        num_restarts: Number of Newton paths.
        max_evaluations: Largest number of draws at which the log density is evaluated to judge q
            and to find better ones, at least 100. They end at 8192 where q is good, and go on while
            standard errors alone forbid to trust them; above 50 coordinates only where k̂ ≤ ½, as
            standard errors prove nothing where weights have no variance. Default: ten seconds of
            work for one core, at 10¹⁰ elementary operations a second as the density's equations
            count them, and no more draws than have 2²⁵ numbers. Where these are fewer than 163 840,
            rounds of draws, the search for other modes and the points of the ELBO shrink in
            proportion, down to 1024, 256 and 64; eight rounds may be made in any case. Each later
            stage may take the work of as many evaluations, gradients and matrices counted; one that
            could not begin with it is left out, and ``reason`` says what it takes. Neither steps
            nor the search for other modes are part of it: ``evaluations`` of the fit counts all.
        escalate: How far to go where draws are not trusted: the name of the last stage, all of them
            by default, or none. Nothing follows a fit on ``data``, nor one that has not converged
            in a ``num_steps`` of yours.
        gradient: Estimator that an optimizer follows, as in :func:`elbo`. Default:
            whichever of closed-form entropy and sticking the landing has the smaller variance,
            measured every 100 steps.
        data: A pytree of arrays with rows in front, some of which are then an argument of
            ``log_density(position, batch, scale)``: the prior, and ``scale`` times the sum of their
            terms. ``scale`` is all rows over those of the batch. Devices may share the rows.
        batch_size: Rows that are evaluated together. Natural-gradient steps follow a few batches,
            corrected to second order by a pass over all data, again and on more of them until
            other ones promise no gain; each step of an optimizer follows one, corrected to first
            order every 100 steps. The verdict is on all data, a batch at a time.
        draws: ``"iid"``, ``"antithetic"`` or ``"quasi_random"`` draws of an optimizer's steps.
            Default: antithetic for an even number.
        progress: True shows a bar, that of tqdm where it is installed (``equipoise[progress]``) and
            plain lines otherwise. A function is called as ``progress(step, elbo)``, about twenty
            times, as in ``progress=print``.
        state: ``state`` of an earlier fit to go on from, arrays on the host. With the same other
            arguments the steps are those of one longer fit, bit for bit.

    Returns:
        A :class:`Fit`. It has converged when a natural-gradient step is expected to gain less
        than √ε nats, and on other batches less than 0.001; with an optimizer, when the mean ELBO of
        the last tenth of the steps exceeds that of the tenth before by less than two standard
        errors or 0.01. Where something is not finite the last good params are returned, and
        ``reason`` names the term and the step.

    Raises:
        ValueError: If ``log_density`` does not return one number or is not finite at the start,
            a number is below 1 (100 for ``max_evaluations``), ``support``, ``start`` or ``state``
            does not fit the example and family, ``gradient`` or ``draws`` is none of the names,
            ``gradient`` needs a pathwise derivative that the family does not have, leaves of
            ``data`` differ in rows, or ``batch_size`` exceeds them or is given without the other.
        TypeError: If a leaf of the example is not floating-point, ``key`` is no key, ``family``
            makes none, ``log_density`` does not take three arguments where ``data`` is given,
            ``optimizer`` is none of optax, or ``progress`` is neither a boolean
            nor a function.

    The search asks the density where q has no draws. In one or two dimensions it finds nearly every
    mode within ten sds; in more dimensions it finds most that are as wide as q, those along axes,
    at corners and at images of the mean, and others by chance. Among modes with sds from 0.1 to 0.5
    that lie 4 to 10 sds away in any direction it finds about every second in five dimensions, and
    hardly any in ten. Tails of coordinates are looked for six sds away. No test of draws can reveal
    what both miss.

    Verdicts are on moments of the flat coordinates: logarithms of positive numbers, log-odds of an
    interval. A positive number with a heavy tail may have a far less certain sd, which
    :func:`summary` tells.

    Cost: a few dozen gradients and Newton paths for each of ``num_samples`` points, then 8192
        evaluations of ``log_density``, 4544 to look for other modes, 1472 above 50 coordinates,
        and 8 gradients a coordinate to look for tails where draws would be trusted;
        where q is poor or its draws are too few, up to ``max_evaluations``. Where the fit is not
        trusted, its reason takes a few thousand more. A draw of the conditional stage takes about
        one Hessian and its factor; the annealed stage takes up to a million gradients, the flow
        up to two. With ``data``, three to ten passes for derivatives at one point, and one for
        every 512 evaluations of the verdict; memory of 512 times ``batch_size`` terms beside the
        data.

    Examples:
        >>> fit = vi.fit(lambda z: -0.5 * (z - 8) ** 2 / 0.04, jnp.zeros(()), jax.random.key(0))
        >>> print(f"{fit.params['mean'][0]:.3f} {fit.trusted}")
        8.000 True

    References:
        :cite:t:`khan2023`, :cite:t:`zhang2022`, :cite:t:`vehtari2024`, :cite:t:`cappe2008`,
        :cite:t:`rue2009`, :cite:t:`delmoral2006`, :cite:t:`agrawal2024`.
    """
    random_key("key", key)
    check_numbers(num_steps, num_samples, num_restarts, max_evaluations)
    check_choices(optimizer, gradient, draws, progress)
    stages = stages_until(escalate)
    family = resolve(example, family, support)
    size = family.dimension
    small = size <= MAX_CURVED
    natural = optimizer is None and family.natural is not None and small
    check_state(state, family, natural=natural)
    batches = None
    if data is not None:
        batches = batches_of(log_density, family, data, batch_size)
    elif batch_size is not None:
        raise value_error("batch_size", "must be None without `data`", batch_size)
    density = log_density if batches is None else batches.on(*batches.all_rows())
    target, random = trace(density, family), chance(key)
    looks = small and (natural or state is None)
    if batches is None:
        center = starting_point(target, family, start)
        starts = find_starts(target, center, random.starts, num_restarts) if looks else None
        begun = Begun(center, starts, target, at_rest=True)
    else:
        begun = begin_on_batches(batches, family, start, random, num_restarts if looks else 0)
    if natural and begun.starts is not None:
        number = num_points(size, num_samples)
        if num_samples is None:
            least = max(_FEW_POINTS, _FEW_EACH * size)
            number = fewer(number, least, begun.target.log_density.work)
        noise = balanced(random.points, number, size)
        steps = num_steps or NORMAL_STEPS
        with shown(progress, steps) as report:
            found = fit_normal(begun.target, family, begun.starts, noise, state, steps, report)
    else:
        sampled = batches is not None
        steps = num_steps or (BATCHED_STEPS if sampled else GRADIENT_STEPS)
        settings = plan(family, optimizer, num_samples, gradient, draws, sampled=sampled)
        optimizer = choose_optimizer(family, optimizer, steps, sampled=sampled)
        if state is None:
            state = first_params(family, begun.center, begun.starts, random.init_key)
        on, key = batches or target, random.step_key
        with shown(progress, steps) as report:
            found = fit_gradient(on, family, optimizer, settings, key, state, steps, report)
    if batches is not None:  # an ELBO on some rows is no ELBO, and stages hold all rows at once
        found = found._replace(elbo=None, converged=found.converged and begun.at_rest)
        stages = ()
    if num_steps is not None and not found.converged:  # it is to end after your number of steps
        stages = ()
    judges = judging(target, family, random, max_evaluations, stages)
    return judge(judges, found, begun.starts, begun.center)
