"""The verdict on a fit: which draws are best, and whether they may be used."""

import dataclasses
import functools
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from equipoise._types import Array
from equipoise.vi._bounds.density import dtype_of
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._families.family import Family, Params
from equipoise.vi._fit.loop import Found
from equipoise.vi._fit.points import Chance
from equipoise.vi._fit.result import Fit, Source
from equipoise.vi._fit.start import Local, lower_factor, no_modes, other_modes
from equipoise.vi._fit.target import Target
from equipoise.vi._weights.adapt import adapt, first_mixture
from equipoise.vi._weights.diagnose import Diagnostics, flat_draws, summarize
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.verdict import Verdict, is_precise, sentence, verdict
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
    return bool(found.khat <= _GOOD_KHAT and _efficiency(found) >= _GOOD_EFFICIENCY)


def _efficiency(found: Diagnostics) -> float:
    """Share of the draws that are effective."""
    return float(found.effective_sample_size / found.num_draws)


def _is_close(found: Diagnostics) -> bool:
    """Whether reweighting moves nothing that matters, so that q itself is drawn from."""
    return bool(found.mean_shift < _CLOSE_MEAN and found.sd_shift < _CLOSE_SD)


def _is_better(one: Diagnostics, other: Diagnostics) -> bool:
    """Whether the first weighted draws are the ones to use."""
    if bool(one.khat <= one.threshold) != bool(other.khat <= other.threshold):
        return bool(one.khat <= one.threshold)
    return _efficiency(one) > _efficiency(other)


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
    mean = float(np.max(np.abs(first.mean - second.mean) / second.sd))
    sd = float(np.max(np.abs(first.sd / second.sd - 1)))
    return _Doubt(mean, sd)


@functools.partial(jax.jit, static_argnames="family")
def _drawn(
    family: Family, params: Params, variates: Array
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Draws of q with their log densities, and its mean and factor where it is normal."""
    draws, log_q = flat_draws(family, params, variates, _NUM_DRAWS)
    return draws, log_q, None if family.moments is None else family.moments(params)


_Normal: TypeAlias = tuple[np.ndarray, np.ndarray]  # mean and Cholesky factor


def _weigh_q(
    target: Target, family: Family, params: Params, chance: Chance
) -> tuple[Weighted, _Normal | None]:
    """Weighted draws of q, and a normal like it."""
    variates: AnyArray = chance.draw_key
    if family.transform_flat is not None:
        shape = _NUM_DRAWS, family.noise_size
        variates = chance.draws.standard_normal(shape, np.float32).astype(dtype_of(params))
    on_device, log_q, normal = _drawn(family, params, variates)
    draws = np.asarray(on_device, target.dtype)
    weighted = weigh(draws, target.values(draws), np.asarray(log_q, float))
    if normal is None:
        return weighted, _normal_of(draws)
    mean, factor = (np.asarray(x, float) for x in normal)
    return weighted, (mean, np.diag(factor) if factor.ndim == 1 else lower_factor(factor))


def _normal_of(draws: np.ndarray) -> _Normal | None:
    """The normal with the moments of the draws; None where they do not fill the space."""
    try:
        factor = np.linalg.cholesky(np.atleast_2d(np.cov(draws, rowvar=False)))
    except np.linalg.LinAlgError:
        return None
    return np.mean(draws, axis=0), factor


def _weigh_adapted(
    target: Target, normal: _Normal, modes: Local, rng: np.random.Generator
) -> Weighted:
    """Weighted draws of a mixture that starts at a normal and the other modes."""
    mean, factor = normal
    found = adapt(
        lambda noise: target.values(transported(mean, factor, noise)),
        first_mixture(rng, _COMPONENTS, *modes),
        rng,
        num_samples=_NUM_DRAWS,
        num_rounds=_ROUNDS,
        enough=lambda weighted: is_precise(summarize(weighted)),
    )
    noise: AnyArray = found.draws
    return dataclasses.replace(
        found,
        draws=_host(transported(mean, factor, noise)),
        log_ratios=found.log_ratios + np.sum(np.log(np.diagonal(factor))),
    )


@np.errstate(all="ignore")  # what is not finite has a verdict
def judge(
    target: Target, family: Family, found: Found, starts: Local | None, chance: Chance
) -> Fit:
    """The fit with its diagnostics, best draws and verdict."""
    weighted, like_q = _weigh_q(target, family, found.params, chance)
    measured = summarize(weighted)
    best, source, doubt = measured, Source.VARIATIONAL, _NO_DOUBT
    normal = found.proxy or like_q
    modes = no_modes(family.dimension)
    if normal is not None and starts is not None:
        modes = other_modes(starts, *normal)
    several = len(modes.elbo) > 0
    good = _is_good(measured)
    sure = good and family.moments is not None
    ratios: AnyArray = weighted.log_ratios
    elbo = found.elbo or Estimate(ratios.mean(), ratios.std(ddof=1) / _NUM_DRAWS**0.5)
    small = family.dimension <= _MAX_ADAPTED
    if normal is not None and small and (several or not sure):
        adapted = _weigh_adapted(target, normal, modes, chance.draws)
        other = summarize(adapted)
        doubt = _disagreement(weighted, adapted)
        convincing = doubt and verdict(other) is Verdict.TRUSTED
        if several or _is_better(other, measured) or convincing:
            weighted, best, doubt = adapted, other, _NO_DOUBT
    if best is not measured or not (good and _is_close(measured)):
        if best.khat <= best.threshold:
            source = Source.IMPORTANCE_RESAMPLED
        elif found.linear_response is not None:
            source = Source.LINEAR_RESPONSE
    said = verdict(best)
    if said is Verdict.TRUSTED and doubt:
        said = Verdict.DISAGREEMENT
    if not found.converged:
        said = Verdict.NOT_CONVERGED
    if found.problem:
        said = Verdict.NOT_FINITE
    fit = Fit(
        family=family,
        params=found.params,
        elbo=elbo,
        diagnostics=measured,
        draw_diagnostics=best,
        converged=_host(found.converged),
        trusted=_host(said is Verdict.TRUSTED),
        history=_host(found.state.history),
        state=None,
        weighted=weighted,
        linear_response=found.linear_response,
        reason=sentence(said, best, problem=found.problem, mean=doubt.mean, sd=doubt.sd),
        source=source,
        verdict=said,
    )
    return dataclasses.replace(_on_device(fit, target.dtype), state=found.state)


def _host(value: AnyArray) -> Array:
    """An array of NumPy, until all of them move together."""
    array: AnyArray = np.asarray(value)
    return array


def _on_device(fit: Fit, dtype: np.dtype) -> Fit:
    """The same with arrays of JAX in the dtype of the log density."""

    def narrow(leaf: Array | np.ndarray) -> Array | np.ndarray:
        floating = isinstance(leaf, (np.ndarray, np.floating)) and leaf.dtype.kind == "f"
        return leaf.astype(dtype) if floating else leaf

    placed: Fit = jax.device_put(jax.tree.map(narrow, fit))
    return placed
