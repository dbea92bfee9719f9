"""The verdict on a fit: which draws are best, and whether they may be used."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array, PRNGKeyArray
from equipoise.vi._bounds.estimate import Estimate, standard_error
from equipoise.vi._fit.loop import Found
from equipoise.vi._fit.natural import transported
from equipoise.vi._fit.result import Fit, Source
from equipoise.vi._fit.start import Local, Modes, no_modes, other_modes
from equipoise.vi._fit.target import Target, log_densities
from equipoise.vi._weights.adapt import adapt, first_mixture
from equipoise.vi._weights.diagnose import Diagnostics, flat_draws, summarize
from equipoise.vi._weights.verdict import Verdict, sentence, verdict
from equipoise.vi._weights.weighted import Weighted, moments, weigh

_NUM_DRAWS = 8192
_MAX_ADAPTED = 50  # coordinates above which a mixture of Student t wastes nearly all draws
_COMPONENTS = 6
_ROUNDS = 16
_GOOD_KHAT = 0.5  # below it the weights have a finite variance
_GOOD_EFFICIENCY = 0.25
_CLOSE_MEAN, _CLOSE_SD = 0.05, 0.03
_SAME_MEAN, _SAME_SD = 0.1, 0.05  # half of what a second opinion may find before it is a failure


def _is_good(found: Diagnostics) -> bool:
    """Whether the weights of q have a finite variance and waste few draws."""
    enough = found.effective_sample_size >= _GOOD_EFFICIENCY * found.num_draws
    return bool((found.khat <= _GOOD_KHAT) & enough)


def _is_close(found: Diagnostics) -> bool:
    """Whether reweighting moves nothing that matters, so that q itself is drawn from."""
    return bool((found.mean_shift < _CLOSE_MEAN) & (found.sd_shift < _CLOSE_SD))


def _is_better(one: Diagnostics, other: Diagnostics) -> bool:
    """Whether the first weighted draws are the ones to use."""
    if bool(one.khat <= one.threshold) != bool(other.khat <= other.threshold):
        return bool(one.khat <= one.threshold)
    return bool(one.effective_sample_size > other.effective_sample_size)


class _Doubt(NamedTuple):
    """How far moments of two weightings are apart: of means in sds, of sds relatively."""

    mean: float
    sd: float

    def __bool__(self) -> bool:
        return not (self.mean <= _SAME_MEAN and self.sd <= _SAME_SD)


_NO_DOUBT = _Doubt(0.0, 0.0)


def _disagreement(one: Weighted, other: Weighted) -> _Doubt:
    """What two weightings of the same target say differently.

    Weights see only where draws fall: a q that ends inside the target has harmless weights. So
    the draws of q are held against those of a proposal with heavier tails.
    """
    first, second = moments(one.draws, one.log_weights), moments(other.draws, other.log_weights)
    mean = float(jnp.max(jnp.abs(first.mean - second.mean) / second.sd))
    sd = float(jnp.max(jnp.abs(first.sd / second.sd - 1)))
    return _Doubt(mean, sd)


_draw = jax.jit(flat_draws, static_argnames=("family", "num_samples"))


def _weigh_q(target: Target, found: Found, key: PRNGKeyArray) -> Weighted:
    """Weighted draws of q."""
    draws, log_q = _draw(target.family, found.params, key, _NUM_DRAWS)
    return weigh(draws, log_densities(target, draws), log_q)


def _weigh_adapted(
    target: Target, mean: Array, factor: Array, modes: Modes, key: PRNGKeyArray
) -> Weighted:
    """Weighted draws of a mixture that starts at N(mean, factor factorᵀ) and the other modes."""
    key_first, key_adapt = jax.random.split(key)
    found = adapt(
        lambda noise: log_densities(target, transported(mean, factor, noise)),
        first_mixture(key_first, mean.shape[0], _COMPONENTS, *modes),
        key_adapt,
        num_samples=_NUM_DRAWS,
        num_rounds=_ROUNDS,
    )
    return dataclasses.replace(
        found,
        draws=transported(mean, factor, found.draws),
        log_ratios=found.log_ratios + jnp.sum(jnp.log(jnp.diagonal(factor))),
    )


@jax.jit
def _measurements(weighted: Weighted) -> tuple[Diagnostics, Estimate]:
    """Diagnostics of the draws and, where they are of q, its ELBO."""
    ratios = weighted.log_ratios
    return summarize(weighted), Estimate(jnp.mean(ratios), standard_error(ratios))


def _normal_of(weighted: Weighted) -> tuple[Array, Array]:
    """Mean and Cholesky factor of the draws as they came."""
    covariance = jnp.atleast_2d(jnp.cov(weighted.draws, rowvar=False))
    return jnp.mean(weighted.draws, axis=0), jnp.linalg.cholesky(covariance)


def judge(
    target: Target,
    found: Found,
    starts: Local | None,
    key_q: PRNGKeyArray,
    key_adapt: PRNGKeyArray,
) -> Fit:
    """The fit with its diagnostics, best draws and verdict."""
    family = target.family
    weighted = _weigh_q(target, found, key_q)
    measured, elbo = _measurements(weighted)
    best, source, doubt = measured, Source.VARIATIONAL, _NO_DOUBT
    mean, factor = found.proxy or _normal_of(weighted)
    modes = no_modes(mean) if starts is None else other_modes(starts, mean, factor)
    several = len(modes.weights) > 0
    good, normal = _is_good(measured), family.moments is not None
    if family.dimension <= _MAX_ADAPTED and (several or not (good and normal)):
        adapted = _weigh_adapted(target, mean, factor, modes, key_adapt)
        other, _ = _measurements(adapted)
        doubt = _disagreement(weighted, adapted)
        convincing = doubt and verdict(other) is Verdict.TRUSTED
        if several or _is_better(other, measured) or convincing:
            weighted, best, doubt = adapted, other, _NO_DOUBT
    if best is not measured or not (good and _is_close(measured)):
        if bool(best.khat <= best.threshold):
            source = Source.IMPORTANCE_RESAMPLED
        elif found.linear_response is not None:
            source = Source.LINEAR_RESPONSE
    said = verdict(best)
    if said is Verdict.TRUSTED and doubt:
        said = Verdict.DISAGREEMENT
    if not bool(found.converged):
        said = Verdict.NOT_CONVERGED
    if found.problem:
        said = Verdict.NOT_FINITE
    return Fit(
        family=family,
        params=found.params,
        elbo=elbo if found.elbo is None else found.elbo,
        diagnostics=measured,
        draw_diagnostics=best,
        converged=jnp.asarray(found.converged),
        trusted=jnp.asarray(said is Verdict.TRUSTED),
        history=found.state.history[: int(found.state.step)],
        state=found.state,
        weighted=weighted,
        linear_response=found.linear_response,
        reason=sentence(said, best, problem=found.problem, mean=doubt.mean, sd=doubt.sd),
        source=source,
        verdict=said,
    )
