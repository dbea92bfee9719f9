"""The fit that needs no tuning."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import positive_integer, type_error, value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._adapt import adapt, first_mixture
from equipoise.vi._diagnose import summarize, verdict, weigh_family
from equipoise.vi._estimate import Estimate, standard_error
from equipoise.vi._family import Family
from equipoise.vi._fit_noise import balanced
from equipoise.vi._fit_normal import NormalState, ascend, begin
from equipoise.vi._fit_result import Fit
from equipoise.vi._fit_start import Local, affine, local_normals
from equipoise.vi._fit_target import flat_log_density
from equipoise.vi._full_rank import from_scale_tril, full_rank
from equipoise.vi._weighted import Weighted

WHERE = "vi.fit"
MAX_FULL_RANK = 200  # coordinates above which a covariance matrix is no default
START_STEPS = 80
START_POINTS = 64
NUM_DRAWS = 8192
COMPONENTS = 6
ROUNDS = 12


def fit(
    log_density: Callable[[PyTree], Scalar],
    example: PyTree,
    key: PRNGKeyArray,
    *,
    family: Family | Callable[[PyTree], Family] | None = None,
    start: PyTree = None,
    num_steps: int = 100,
    num_samples: int = 512,
    num_restarts: int = 4,
    state: Any = None,
) -> Fit:
    r"""Fits an approximation to a log density without tuning, and says if it can be trusted.

    .. math::

        \Sigma^{-1} \leftarrow (1 - \rho)\,\Sigma^{-1} - \rho\,\mathbb{E}_q \nabla^2 \log p,
        \qquad m \leftarrow m + \rho\,\Sigma\,\mathbb{E}_q \nabla \log p

    Newton paths from several points give the best local normal; natural-gradient steps on fixed
    balanced points then maximize the ELBO. The fit is converged when a step is expected to gain
    less than √ε nats. Importance weights decide whether it is trusted, and repair its moments
    where an adapted mixture can.

    Args:
        log_density: log p, a function of one position that returns one number.
        example: A pytree of arrays with the shapes of one position.
        key: All randomness of the fit.
        family: A :class:`Family`, or a function of the example that makes one, such as
            ``vi.full_rank``. Default: ``vi.full_rank``.
        start: The position to start from. Default: where the flat vector is 0.
        num_steps: Largest number of steps in all.
        num_samples: Points of the ELBO that is maximized.
        num_restarts: Number of places to start from.
        state: ``state`` of an earlier fit to go on from, with the same other arguments.

    Returns:
        A :class:`Fit`.

    Raises:
        ValueError: If ``log_density`` does not return one number or is not finite at the start,
            or a number is below 1.
        TypeError: If a leaf of the example is not floating-point.

    Cost: a few hundred gradients for each of ``num_samples`` points.

    Examples:
        >>> fit = vi.fit(lambda z: -0.5 * (z - 8) ** 2 / 0.04, jnp.zeros(()), jax.random.key(0))
        >>> print(f"{fit.params['mean'][0]:.3f} {fit.trusted}")
        8.000 True

    References:
        :cite:t:`khan2023`, :cite:t:`zhang2022`, :cite:t:`vehtari2024`, :cite:t:`cappe2008`.
    """
    positive_integer(WHERE, "num_steps", num_steps)
    positive_integer(WHERE, "num_samples", num_samples)
    positive_integer(WHERE, "num_restarts", num_restarts)
    family = resolve(example, family)
    key_start, key_fit, key_draws, key_adapt = jax.random.split(key, 4)
    if state is None:
        center = family.init(position=start)["mean"]
        check_start(log_density, family, center)
        locals_ = find_starts(log_density, family, center, key_start, num_restarts)
        state = begin(jax.tree.map(lambda x: x[jnp.argmax(locals_.elbo)], locals_), num_steps)
    tolerance = float(np.finfo(state.mean.dtype).eps) ** 0.5
    state, params, weighted = approximate(
        log_density, family, state, key_fit, key_draws, num_steps, num_samples, tolerance
    )
    ratios = weighted.log_ratios
    estimate = Estimate(jnp.mean(ratios), standard_error(ratios))
    found = summarize(weighted)
    source = "variational"
    best = found
    if not is_close(found):
        source = "importance resampled"
        if not is_good(found):
            weighted = refine(log_density, family, state, key_adapt)
            best = summarize(weighted)
    trusted, reason = verdict(best)
    converged = state.decrement <= tolerance
    if not bool(converged):
        trusted, reason = False, f"Not trusted: not converged after {state.step} steps."
    if not bool(best.khat <= best.threshold):
        source = "variational"
    return Fit(
        family=family,
        params=params,
        elbo=estimate,
        diagnostics=found,
        draw_diagnostics=best,
        converged=converged,
        trusted=jnp.asarray(trusted),
        history=state.history,
        state=state,
        weighted=weighted,
        linear_response=None,
        reason=reason,
        source=source,
    )


def resolve(example: PyTree, family: Any) -> Family:
    """The family that was asked for."""
    if family is None:
        return full_rank(example)
    if isinstance(family, Family):
        return family
    if callable(family):
        made = family(example)
        if isinstance(made, Family):
            return made
    raise type_error(
        WHERE, "family", "must be a Family or make one of the example", family, "Try vi.full_rank."
    )


def check_start(log_density: Callable[..., Any], family: Family, center: Array) -> None:
    """The log density and its gradient are finite where the fit begins."""
    log_p = flat_log_density(WHERE, log_density, family)
    value, gradient = jax.value_and_grad(log_p)(center)
    for term, number in (("value", value), ("gradient", gradient)):
        if not bool(jnp.all(jnp.isfinite(number))):
            raise value_error(
                WHERE,
                "log_density",
                f"must have a finite {term} at the start",
                str(number),
                "Give a `start` inside its domain, or a `support` that keeps positions there.",
            )


@functools.partial(jax.jit, static_argnames=("log_density", "family", "num_restarts"))
def find_starts(
    log_density: Callable[..., Any],
    family: Family,
    center: Array,
    key: PRNGKeyArray,
    num_restarts: int,
) -> Local:
    """The best local normals from the start and from points scattered around it."""
    log_p = flat_log_density(WHERE, log_density, family)
    key_noise, key_scatter = jax.random.split(key)
    d = center.shape[0]
    scatter = jax.random.normal(key_scatter, (num_restarts, d), center.dtype).at[0].set(0.0)
    noise = balanced(key_noise, START_POINTS, d, center.dtype)
    return local_normals(log_p, center[None] + scatter, noise, num_steps=START_STEPS)


@functools.partial(
    jax.jit,
    static_argnames=("log_density", "family", "num_steps", "num_samples", "tolerance"),
)
def approximate(
    log_density: Callable[..., Any],
    family: Family,
    state: NormalState,
    key: PRNGKeyArray,
    key_draws: PRNGKeyArray,
    num_steps: int,
    num_samples: int,
    tolerance: float,
) -> tuple[NormalState, Any, Weighted]:
    """The fitted normal, its params and its weighted draws."""
    log_p = flat_log_density(WHERE, log_density, family)
    d = state.mean.shape[0]
    noise = balanced(key, max(num_samples, 16 * d), d, state.mean.dtype)
    state = ascend(log_p, state, noise, num_steps=num_steps, tolerance=tolerance)
    params = from_scale_tril(state.mean, lower_factor(state.factor))
    return state, params, weigh_family(log_p, family, params, key_draws, NUM_DRAWS)


@functools.partial(jax.jit, static_argnames=("log_density", "family"))
def refine(
    log_density: Callable[..., Any], family: Family, state: NormalState, key: PRNGKeyArray
) -> Weighted:
    """Weighted draws of a mixture that starts at q and learns from its own draws."""
    log_p = flat_log_density(WHERE, log_density, family)
    d, dtype = state.mean.shape[0], state.mean.dtype
    key_first, key_adapt = jax.random.split(key)
    factor = lower_factor(state.factor)
    none = jnp.zeros((0, d), dtype), jnp.zeros((0, d, d), dtype), jnp.zeros(0, dtype)
    mixture = first_mixture(key_first, d, COMPONENTS, *none)
    found = adapt(
        lambda z: log_p(state.mean + factor @ z),
        mixture,
        key_adapt,
        num_samples=NUM_DRAWS,
        num_rounds=ROUNDS,
    )
    volume = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return Weighted(
        affine(state.mean, factor, found.draws),
        found.log_weights,
        found.log_ratios + volume,
        found.khat,
        found.effective_sample_size,
    )


def lower_factor(factor: Array) -> Array:
    """The Cholesky factor with the same product W Wᵀ."""
    upper = jnp.linalg.qr(factor.T, mode="r")
    return (upper * jnp.sign(jnp.diagonal(upper))[:, None]).T


def is_close(found: Any) -> bool:
    """Whether reweighting changes nothing that matters, so q itself may be drawn from."""
    return bool(is_good(found) and found.mean_shift < 0.05 and found.sd_shift < 0.03)


def is_good(found: Any) -> bool:
    """Whether the weights of q have a finite variance and waste few draws."""
    enough = found.effective_sample_size >= 0.25 * found.num_draws
    return bool((found.khat <= 0.5) & enough)
