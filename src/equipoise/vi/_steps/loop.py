"""What the two loops of a fit share: options, how they run in pieces, and what they end with."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.family import Params

_REPORTS = 20
Progress: TypeAlias = Callable[[int, float], object] | bool | None
Report: TypeAlias = Callable[[int, float], object] | None


class _State(Protocol):
    """What a loop continues from, a named tuple."""

    @property
    def step(self) -> int:
        """Number of steps taken."""

    @property
    def history(self) -> np.ndarray:
        """ELBO after each of them."""


_S = TypeVar("_S", bound=_State)


class Found(NamedTuple):
    """The end of a loop. ``proxy`` is a normal to adapt from: mean and factor, or None."""

    state: _State
    params: Params
    converged: bool
    proxy: tuple[np.ndarray, np.ndarray] | None = None
    linear_response: np.ndarray | None = None
    problem: str = ""
    elbo: Estimate | None = None


@contextlib.contextmanager
def shown(progress: Progress, num_steps: int) -> Iterator[Report]:
    """What to report steps to: a function, a bar, plain lines where tqdm is missing, or nothing."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    elif importlib.util.find_spec("tqdm") is None:
        yield lambda step, elbo: print(f"step {step}, ELBO {elbo:.6g}", file=sys.stderr)
    else:
        from tqdm.auto import tqdm

        with tqdm(total=num_steps, unit="step") as bar:

            def report(step: int, elbo: float) -> None:
                bar.set_postfix_str(f"ELBO {elbo:.6g}", refresh=False)
                bar.update(step - bar.n)

            yield report
            bar.total = bar.n  # it may have converged before
            bar.refresh()


def advance(run: Callable[[_S, int], _S], state: _S, num_steps: int, report: Report) -> _S:
    """Runs the loop to a number of steps, in about ``REPORTS`` pieces where somebody watches."""
    if report is None:
        return run(state, num_steps)
    piece = -(-num_steps // _REPORTS)
    while state.step < num_steps:
        before = state.step
        state = run(state, min(before + piece, num_steps))
        if state.step == before:
            break
        report(state.step, float(state.history[-1]))
    return state
