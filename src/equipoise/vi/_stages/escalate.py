"""From cheap to dear: one stage after the other, each judged alike, until draws are trusted."""

import math
from collections.abc import Callable
from typing import NamedTuple

from equipoise._check import choice
from equipoise.vi._stages.beginning import GRADIENT, Beginning, Drawn, TooDear
from equipoise.vi._stages.conditional import draw_conditionally
from equipoise.vi._stages.flow import draw_by_flow
from equipoise.vi._stages.islands import draw_annealed
from equipoise.vi._weights.effort import spent
from equipoise.vi._weights.remedy import Case, Explained, rounded
from equipoise.vi._weights.verdict import (
    Verdict,
    disagreement,
    is_better,
    misses,
    rarity,
    verdict,
)

_STAGES: dict[str, Callable[[Beginning], Drawn | TooDear | None]] = {
    "conditional": draw_conditionally,
    "annealed": draw_annealed,
    "flow": draw_by_flow,
}
_FINAL = (
    Verdict.TRUSTED,
    Verdict.IMPROPER,
    Verdict.NOT_FINITE,
    Verdict.RARE,
)  # other draws would change nothing


_EXHAUSTED = 0.25  # share of a budget that a stage has used where it ended for want of more


class Stage(NamedTuple):
    """Draws that a fit tried: where they are from, and why they are trusted or not."""

    source: str
    reason: str


class Tried(NamedTuple):
    """The draws to use, what is said about them, where they are from, and all that was tried."""

    case: Case
    why: Explained
    source: str
    stages: tuple[Stage, ...]


def stages_until(last: bool | str) -> tuple[str, ...]:  # noqa: FBT001
    """Names of all stages, of none, or of those up to the last."""
    names = tuple(_STAGES)
    if isinstance(last, bool):
        return names if last else ()
    choice("escalate", last, names)
    return names[: names.index(last) + 1]


def escalated(
    tried: Tried,
    names: tuple[str, ...],
    start: Beginning,
    explain: Callable[..., Explained],
) -> Tried:
    """Stages until draws are trusted, or nothing is left to try.

    Where none are the sentence says what more evaluations would allow.
    """
    dear = []
    for name in names:
        if tried.why.verdict in _FINAL:
            break
        begun = spent()
        drawn = _STAGES[name](start)
        if drawn is None:
            continue
        if isinstance(drawn, TooDear):
            number = rounded(math.ceil(drawn.work / start.work))
            words = f"The {name} stage was left out, as it takes max_evaluations={number:_}."
            dear.append(words)
            tried = tried._replace(stages=(*tried.stages, Stage(name, words)))
            continue
        weighted, found, doubt = drawn
        if name == "annealed":
            start = start._replace(particles=drawn)
        said, before = verdict(found), tried.case
        if misses(found, before.weighted):
            doubt = disagreement(before.weighted, weighted)
        if said is Verdict.TRUSTED and doubt:
            said = Verdict.DISAGREEMENT
        elif said is Verdict.TRUSTED and (unseen := start.unseen(weighted)):
            said, doubt = Verdict.ELSEWHERE, unseen
        elif said is Verdict.TRUSTED and (doubt := rarity(weighted)):
            said = Verdict.RARE
        case = before._replace(verdict=said, found=found, weighted=weighted, doubt=doubt)
        budget = start.budget / start.work
        used = GRADIENT * (spent() - begun)
        # One that ended by itself makes no more draws with more evaluations.
        each = budget / int(found.num_draws) if used > _EXHAUSTED * budget else math.inf
        why = explain(case, budget=budget, each=each)
        stages = (*tried.stages, Stage(name, why.sentence))
        better = why.verdict is Verdict.TRUSTED or is_better(found, before.found)
        tried = Tried(case, why, name, stages) if better else tried._replace(stages=stages)
    if dear and tried.why.verdict not in _FINAL:
        sentence = " ".join([tried.why.sentence, *dear])
        tried = tried._replace(why=tried.why._replace(sentence=sentence))
    return tried
