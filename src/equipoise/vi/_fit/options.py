"""What a fit is asked for: options that are checked whether used or not, the family, the state."""

import inspect
from collections.abc import Callable

import optax

from equipoise._check import choice, positive_integer, type_error, value_error
from equipoise._types import PyTree
from equipoise.vi._bounds.estimators import ESTIMATORS
from equipoise.vi._families.draws import DRAWS
from equipoise.vi._families.family import Family, check_params, completed
from equipoise.vi._families.full_rank import full_rank
from equipoise.vi._families.layout import layout
from equipoise.vi._families.mean_field import mean_field
from equipoise.vi._steps.descent import GradientState
from equipoise.vi._steps.loop import Progress
from equipoise.vi._steps.proposal import NormalState
from equipoise.vi._supports.support import Support
from equipoise.vi._target.target import MAX_CURVED
from equipoise.vi._weights.diagnose import MIN_DRAWS


def check_numbers(
    num_steps: int | None,
    num_samples: int | None,
    num_restarts: int,
    max_evaluations: int | None,
) -> None:
    """Numbers are checked whether they are used or not."""
    positive_integer("num_restarts", num_restarts)
    for name, number, minimum in (
        ("num_steps", num_steps, 1),
        ("num_samples", num_samples, 1),
        ("max_evaluations", max_evaluations, MIN_DRAWS),
    ):
        if number is not None:
            positive_integer(name, number, minimum=minimum)


def check_choices(
    optimizer: optax.GradientTransformation | None,
    gradient: str | None,
    draws: str | None,
    progress: Progress,
) -> None:
    """So are all other options."""
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise type_error(
            "optimizer", "must be an optax optimizer", optimizer, "Try optax.adam(0.01)."
        )
    for name, chosen, options in (("gradient", gradient, ESTIMATORS), ("draws", draws, DRAWS)):
        if chosen is not None:
            choice(name, chosen, options)
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise type_error(
            "progress", "must be a boolean or a function of step and ELBO", progress, "Try True."
        )


def check_state(state: PyTree, family: Family, *, natural: bool) -> None:
    """The state is one of the loop that goes on from it, and of the family's shapes."""
    if state is None:
        return
    fits = isinstance(state, NormalState if natural else GradientState)
    if not fits or (natural and len(state.mean) != family.dimension):
        raise value_error(
            "state",
            "must be that of a fit with the same family, example and kind of optimizer",
            type(state).__name__,
            "Give fit.state.",
        )
    if not natural:
        check_params(family, state.moving.params)


def resolve(
    example: PyTree,
    family: Family | Callable[[PyTree], Family] | None,
    support: PyTree | Support | None,
) -> Family:
    """The family that was asked for, of positions like the example."""
    ours = layout(example, support)
    if family is None:
        family = full_rank if ours.size <= MAX_CURVED else mean_field
    if not isinstance(family, Family):
        family = _made(family, example, support)
    made = completed(family)
    if made.positions is None or made.positions[:2] != ours[:2]:
        raise value_error(
            "family",
            f"must have positions like `example`, {ours[:2]}",
            "discrete ones" if made.positions is None else str(made.positions[:2]),
            "Make it from the same example.",
        )
    if support is not None and made.positions.supports != ours.supports:
        raise value_error(
            "family",
            "must have the supports that `support` says",
            ", ".join(one.name for one in made.positions.supports),
            "Make it with them, or give a function that takes support=, as vi.full_rank does.",
        )
    return made


def _made(make: Callable[..., Family], example: PyTree, support: PyTree | Support | None) -> Family:
    """The family that a function makes of the example, and of the supports where it takes them."""
    takes = callable(make) and "support" in inspect.signature(make).parameters
    made = make(example, support=support) if takes else callable(make) and make(example)
    if not isinstance(made, Family):
        raise type_error(
            "family", "must be a Family or make one", make, "Try vi.full_rank(example)."
        )
    return made
