"""What measurements say about draws: trusted, or not and why."""

import enum

from equipoise.vi._weights.diagnose import Diagnostics

_MIN_EFFECTIVE = 400.0  # Vehtari et al. 2021, section 4
_MAX_MEAN_ERROR = 0.05  # of an sd: five of these stay within a quarter of an sd
_MAX_SD_ERROR = 0.025  # relative: four of these stay within a tenth
_KHAT_ERROR = 0.1  # standard error of k̂ from the tail of 8192 draws, (1 + k) / √272


class Verdict(enum.StrEnum):
    """Why the draws of a fit may be used or not; the first that holds is the verdict.

    Each value is a sentence, in which ``fit.reason`` fills the numbers in. Only ``TRUSTED`` is
    good news.
    """

    NOT_FINITE = "Not trusted: {problem}; these are the last good params."
    NOT_CONVERGED = "Not trusted: the fit has not converged; give it more steps."
    HEAVY_TAIL = (
        "Not trusted: the Pareto shape of the importance weights is {khat:.2f}, "
        "above {threshold:.2f}."
    )
    FEW_DRAWS = (
        "Not trusted: the draws are worth {effective_sample_size:.0f}, fewer than "
        f"{_MIN_EFFECTIVE:.0f}."
    )
    MEAN_ERROR = (
        "Not trusted: a mean has a standard error of {mean_error:.3f} sd, "
        f"above {_MAX_MEAN_ERROR}."
    )
    SD_ERROR = (
        "Not trusted: an sd has a relative standard error of {sd_error:.3f}, "
        f"above {_MAX_SD_ERROR}."
    )
    DISAGREEMENT = (
        "Not trusted: draws with heavier tails than q have other moments: "
        "a mean {mean:.2f} sd away, an sd off by {sd:.0%}."
    )
    TRUSTED = (
        "Trusted: k̂ is {khat:.2f} (limit {threshold:.2f}) and the draws are worth "
        "{effective_sample_size:.0f} independent ones."
    )


def verdict(found: Diagnostics) -> Verdict:
    """The first of the measurements that forbids to use weighted draws."""
    checks = {
        Verdict.HEAVY_TAIL: found.khat <= found.threshold,
        Verdict.FEW_DRAWS: found.effective_sample_size >= _MIN_EFFECTIVE,
        Verdict.MEAN_ERROR: found.mean_error <= _MAX_MEAN_ERROR,
        Verdict.SD_ERROR: found.sd_error <= _MAX_SD_ERROR,
    }
    # A nan compares false, so it fails.
    failed = [name for name, passed in checks.items() if not bool(passed)]
    return failed[0] if failed else Verdict.TRUSTED


def is_precise(found: Diagnostics) -> bool:
    """Whether all is so far from what forbids the draws that more of them change no verdict."""
    return bool(
        found.khat <= found.threshold - _KHAT_ERROR
        and found.effective_sample_size >= 4 * _MIN_EFFECTIVE
        and found.mean_error <= 0.5 * _MAX_MEAN_ERROR
        and found.sd_error <= 0.5 * _MAX_SD_ERROR
    )


def sentence(of: Verdict, found: Diagnostics, **details: float | str) -> str:
    """The verdict with the numbers that it rests on."""
    numbers = {name: float(value) for name, value in vars(found).items()}
    return of.value.format(**numbers, **details)
