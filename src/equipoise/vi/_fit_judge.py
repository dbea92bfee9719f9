"""The verdict on a fit: which draws are best, and whether they may be used."""

from typing import Any

import jax.numpy as jnp

from equipoise._types import Array, PRNGKeyArray
from equipoise.vi import _fit_stages
from equipoise.vi._diagnose import verdict
from equipoise.vi._family import Family
from equipoise.vi._fit_result import Diagnostics, Fit
from equipoise.vi._fit_run import Found
from equipoise.vi._fit_start import Local
from equipoise.vi._fit_target import Target
from equipoise.vi._weighted import Weighted, moments

GOOD_KHAT = 0.5  # below it the weights have a finite variance
GOOD_EFFICIENCY = 0.25
CLOSE_MEAN, CLOSE_SD = 0.05, 0.03
SAME_MEAN, SAME_SD = 0.1, 0.05  # half of what a second opinion may find before it is a failure


def is_good(found: Diagnostics) -> bool:
    """Whether the weights of q have a finite variance and waste few draws."""
    enough = found.effective_sample_size >= GOOD_EFFICIENCY * found.num_draws
    return bool((found.khat <= GOOD_KHAT) & enough)


def is_close(found: Diagnostics) -> bool:
    """Whether reweighting moves nothing that matters, so that q itself is drawn from."""
    return bool((found.mean_shift < CLOSE_MEAN) & (found.sd_shift < CLOSE_SD))


def is_better(one: Diagnostics, other: Diagnostics) -> bool:
    """Whether the first weighted draws are the ones to use."""
    if bool(one.khat <= one.threshold) != bool(other.khat <= other.threshold):
        return bool(one.khat <= one.threshold)
    return bool(one.effective_sample_size > other.effective_sample_size)


def disagreement(one: Weighted, other: Weighted) -> str:
    """What two weightings of the same target say differently; empty where they agree.

    Weights see only where draws fall: a q that ends inside the target has harmless weights. So
    the draws of q are held against those of a proposal with heavier tails.
    """
    first, second = moments(one.draws, one.log_weights), moments(other.draws, other.log_weights)
    mean = float(jnp.max(jnp.abs(first.mean - second.mean) / second.sd))
    sd = float(jnp.max(jnp.abs(first.sd / second.sd - 1)))
    if mean <= SAME_MEAN and sd <= SAME_SD:
        return ""
    return (
        "draws with heavier tails than q have other moments: "
        f"a mean {mean:.2f} sd away, an sd off by {sd:.0%}"
    )


def judge(
    target: Target,
    family: Family,
    found: Found,
    starts: Local | None,
    key_q: PRNGKeyArray,
    key_adapt: PRNGKeyArray,
) -> Fit:
    """The fit with its diagnostics, best draws and verdict."""
    weighted = _fit_stages.weigh_q(target, family, found.params, key_q)
    measured, elbo = _fit_stages.measure(weighted)
    best = measured
    mean, factor = found.proxy or normal_of(weighted)
    modes, several = no_modes(mean), False
    if starts is not None:
        modes, several = _fit_stages.other_modes(starts, mean, factor)
    source, doubt = "variational", ""
    good, normal = is_good(measured), family.moments is not None
    if family.dimension <= _fit_stages.MAX_ADAPTED and (several or not (good and normal)):
        adapted = _fit_stages.weigh_normal(target, family, mean, factor, modes, key_adapt)
        other, _ = _fit_stages.measure(adapted)
        doubt = disagreement(weighted, adapted)
        if several or is_better(other, measured) or (doubt and verdict(other)[0]):
            weighted, best, doubt = adapted, other, ""
    if best is not measured or not (good and is_close(measured)):
        if bool(best.khat <= best.threshold):
            source = "importance resampled"
        elif found.linear_response is not None:
            source = "linear response"
    trusted, reason = verdict(best)
    if trusted and doubt:
        trusted, reason = False, f"Not trusted: {doubt}."
    if not bool(found.converged):
        trusted, reason = False, "Not trusted: the fit has not converged; give it more steps."
    if found.problem:
        trusted, reason = False, f"Not trusted: {found.problem}; these are the last good params."
    return Fit(
        family=family,
        params=found.params,
        elbo=elbo if found.elbo is None else found.elbo,
        diagnostics=measured,
        draw_diagnostics=best,
        converged=jnp.asarray(found.converged),
        trusted=jnp.asarray(trusted),
        history=found.state.history[: int(found.state.step)],
        state=found.state,
        weighted=weighted,
        linear_response=found.linear_response,
        reason=reason,
        source=source,
    )


def normal_of(weighted: Weighted) -> tuple[Array, Array]:
    """Mean and Cholesky factor of the draws as they came."""
    covariance = jnp.atleast_2d(jnp.cov(weighted.draws, rowvar=False))
    return jnp.mean(weighted.draws, axis=0), jnp.linalg.cholesky(covariance)


def no_modes(mean: Array) -> Any:
    """No local normals beside the one at hand."""
    d = mean.shape[0]
    return (
        jnp.zeros((0, d), mean.dtype),
        jnp.zeros((0, d, d), mean.dtype),
        jnp.zeros(0, mean.dtype),
    )
