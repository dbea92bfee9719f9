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
from equipoise.vi._fit.result import Fit, Source
from equipoise.vi._fit.start import Local, find_starts, lower_factor, no_modes, other_modes
from equipoise.vi._stages.beginning import Beginning
from equipoise.vi._stages.escalate import Stage, Tried, escalated
from equipoise.vi._target.points import Chance
from equipoise.vi._target.target import MAX_CURVED, Target
from equipoise.vi._weights.adapt import adapt, first_mixture, propose
from equipoise.vi._weights.diagnose import MIN_DRAWS, Diagnostics, flat_draws, summarize
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.remedy import Case, explained
from equipoise.vi._weights.verdict import (
    NO_DOUBT,
    Verdict,
    disagreement,
    draws_needed,
    efficiency,
    is_better,
    misses,
    verdict,
)
from equipoise.vi._weights.weighted import Weighted, weigh

_NUM_DRAWS = 8192
_MAX_ADAPTED = 50  # coordinates above which a mixture of Student t wastes nearly all draws
_COMPONENTS = 6
_ROUNDS, _FEW = 16, 4  # to adapt, the last for draws to use; and of those, where in doubt
_GOOD_KHAT = 0.5  # below it the weights have a finite variance
_GOOD_EFFICIENCY = 0.25
_CLOSE_MEAN, _CLOSE_SD = 0.05, 0.03
_LEAST_ROUNDS = 8
_MORE_STARTS = 8  # for each of several modes
_LEAST = 20 * _NUM_DRAWS  # evaluations that a budget of ours has, however long one takes
_SECONDS, _SPEED = 10.0, 1e9  # of work in it, at elementary operations a second
_MAX_NUMBERS = 2**25  # of the draws that are held


def _is_good(found: Diagnostics) -> bool:
    """Whether the weights of q have a finite variance and waste few draws."""
    return bool(found.khat <= _GOOD_KHAT and efficiency(found) >= _GOOD_EFFICIENCY)


def _is_close(found: Diagnostics) -> bool:
    """Whether reweighting moves nothing that matters, so that q itself is drawn from."""
    return bool(found.mean_shift < _CLOSE_MEAN and found.sd_shift < _CLOSE_SD)


@functools.partial(jax.jit, static_argnames=("family", "num_draws"))
def _drawn(
    family: Family, params: Params, variates: Array, num_draws: int
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Draws of q with their log densities, and its mean and factor where it is normal."""
    draws, log_q = flat_draws(family, params, variates, num_draws)
    return draws, log_q, None if family.moments is None else family.moments(params)


_Normal: TypeAlias = tuple[np.ndarray, np.ndarray]  # mean and Cholesky factor


class _Judging(NamedTuple):
    """What a verdict is made with: draws from ``chance``, so many at a time, and rounds of them."""

    target: Target
    family: Family
    chance: Chance
    num_draws: int
    num_rounds: int
    max_evaluations: int | None
    stages: tuple[str, ...]

    @property
    def budget(self) -> int:
        """Evaluations that all rounds together are."""
        return self.num_draws * self.num_rounds

    def draw(self, params: Params) -> tuple[Draws, _Normal | None]:
        """Draws of q, and a normal like it."""
        target, family, chance, number, *_ = self
        variates: AnyArray
        if family.transform_flat is None:
            variates = chance.draw_key()
        else:
            shape = number, family.noise_size
            variates = chance.draws.standard_normal(shape, np.float32).astype(dtype_of(params))
        on_device, log_q, normal = _drawn(family, params, variates, number)
        draws = np.asarray(on_device, target.dtype)
        found = draws, target.values(draws), np.asarray(log_q, float)
        if normal is None:
            return found, _normal_of(draws)
        mean, factor = (np.asarray(x, float) for x in normal)
        return found, (mean, np.diag(factor) if factor.ndim == 1 else lower_factor(factor))

    def beginning(self, normal: _Normal, modes: Local) -> Beginning:
        """What stages begin from."""
        target = self.target
        return Beginning(
            target.log_density,
            target.positions,
            target.dtype,
            *normal,
            modes,
            target.values,
            target.curvatures,
            MAX_CURVED,
            self.chance.draws,
            self.max_evaluations,
        )


def judging(
    target: Target,
    family: Family,
    chance: Chance,
    max_evaluations: int | None,
    stages: tuple[str, ...],
) -> _Judging:
    """The rounds of draws that a budget of evaluations allows, or some seconds of work."""
    size, number = family.dimension, _NUM_DRAWS
    limit = max_evaluations
    if max_evaluations is None:
        of_mixture = _COMPONENTS * size**2 if size <= _MAX_ADAPTED else size
        affordable = _SECONDS * _SPEED / (target.log_density.work + of_mixture)
        held = _MAX_NUMBERS // size
        max_evaluations = max(int(min(max(affordable, _LEAST), held)), number)
    elif size <= _MAX_ADAPTED:  # some rounds of a small budget are left to find better draws
        number = min(max(max_evaluations // _LEAST_ROUNDS, MIN_DRAWS), number)
    number = min(max_evaluations, number)
    return _Judging(target, family, chance, number, max_evaluations // number, limit, stages)


def _normal_of(draws: np.ndarray) -> _Normal | None:
    """The normal with the moments of the draws; None where they do not fill the space."""
    try:
        factor = np.linalg.cholesky(np.atleast_2d(np.cov(draws, rowvar=False)))
    except np.linalg.LinAlgError:
        return None
    return np.mean(draws, axis=0), factor


def _weigh_adapted(
    with_: _Judging, normal: _Normal, modes: Local, most: int
) -> tuple[Weighted, int]:
    """Weighted draws of a mixture that starts at a normal and the other modes; rounds it took."""
    mean, factor = normal
    rng, log_volume = with_.chance.draws, np.sum(np.log(np.diagonal(factor)))
    mixture, used = adapt(
        lambda noise: with_.target.values(transported(mean, factor, noise)),
        first_mixture(rng, _COMPONENTS, *modes),
        rng,
        num_samples=with_.num_draws,
        num_rounds=min(_ROUNDS, most) - 1,
    )

    def draw() -> Draws:
        noise, log_q = propose(rng, mixture, with_.num_draws)
        points = transported(mean, factor, noise)
        return points, with_.target.values(points), log_q - log_volume

    found = grown(draw, draw(), num_rounds=_FEW, most=most - used)
    return found, used + len(found.draws) // with_.num_draws


def _more_modes(with_: _Judging, normal: _Normal, modes: Local, starts: Local) -> Local:
    """Local normals that q leaves out, those among them that paths from farther away end at."""
    mean, factor = with_.beginning(normal, modes).over_all_modes()
    rng, number = with_.chance.starts, _MORE_STARTS * (1 + len(modes.elbo))
    wider = find_starts(with_.target, mean.astype(starts.mean.dtype), rng, number, 2 * factor)
    return other_modes(Local(*map(np.concatenate, zip(starts, wider, strict=True))), *normal)


@np.errstate(all="ignore")  # what is not finite has a verdict
def judge(with_: _Judging, found: Found, starts: Local | None, center: np.ndarray) -> Fit:
    """The fit with its diagnostics, best draws and verdict."""
    target, family = with_.target, with_.family
    first, like_q = with_.draw(found.params)
    weighted = of_q = weigh(*first)
    measured = summarize(weighted)
    best, source, doubt = measured, Source.VARIATIONAL, NO_DOUBT
    normal = found.proxy or like_q
    modes = no_modes(family.dimension)
    if normal is not None and starts is not None:
        modes = other_modes(starts, *normal)
    several = len(modes.elbo) > 0
    if (
        several and starts is not None and normal is not None
    ):  # where there are two there may be more
        modes = _more_modes(with_, normal, modes, starts)
    good = _is_good(measured)
    sure = good and family.moments is not None
    ratios: AnyArray = weighted.log_ratios
    elbo = found.elbo or Estimate(ratios.mean(), ratios.std(ddof=1) / len(ratios) ** 0.5)
    small = family.dimension <= _MAX_ADAPTED
    # More draws of what has not converged answer no question.
    sound = found.converged and not found.problem
    left = with_.num_rounds - 1
    if normal is not None and small and left and (several or not sure):
        adapted, used = _weigh_adapted(with_, normal, modes, left if sound else min(left, _ROUNDS))
        left, other = left - used, summarize(adapted)
        doubt = disagreement(weighted, adapted)
        convincing = doubt and verdict(other) is Verdict.TRUSTED
        if several or is_better(other, measured) or convincing:
            weighted, best = adapted, other
            doubt = doubt if misses(other, measured) else NO_DOUBT
    # Without a finite variance standard errors prove nothing, where no mixture can disagree.
    proves = small or measured.khat <= _GOOD_KHAT
    if weighted is of_q and sound and proves and draws_needed(measured) > with_.num_draws:
        again = functools.partial(with_.draw, found.params)
        weighted = of_q = grown(lambda: again()[0], first, num_rounds=1, most=1 + left)
        measured = best = summarize(weighted)
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
    case = Case(
        said, found.problem, best, weighted, of_q, doubt, normal, center, found.state.history
    )
    explain = functools.partial(
        explained,
        log_p=target.values,
        rng=with_.chance.draws,
        path=family.positions.path,
        budget=with_.budget,
    )
    why = explain(case)
    tried = Tried(case, why, source, (Stage(str(source), why.sentence),))
    if with_.stages and normal is not None:
        start = with_.beginning(normal, modes)
        tried = escalated(tried, with_.stages, start, explain)
    fit = Fit(
        family=family,
        params=found.params,
        elbo=elbo,
        diagnostics=measured,
        draw_diagnostics=tried.case.found,
        converged=_host(found.converged),
        trusted=_host(tried.why.verdict is Verdict.TRUSTED),
        history=_host(found.state.history),
        state=None,
        weighted=tried.case.weighted,
        linear_response=found.linear_response,
        reason=tried.why.sentence,
        source=Source(tried.source),
        verdict=tried.why.verdict,
        stages=tried.stages,
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
