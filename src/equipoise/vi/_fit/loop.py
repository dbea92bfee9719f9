"""What the two loops of a fit share: how they are run in pieces, and what they end with."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import jax.numpy as jnp

from equipoise._types import Array, Bool
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.family import Params

_REPORTS = 20
Progress: TypeAlias = Callable[[int, float], object] | None


class _State(Protocol):
    """What a loop continues from, a named tuple."""

    @property
    def step(self) -> Array:
        """Number of steps taken."""

    @property
    def history(self) -> Array:
        """ELBO after each step, with room for those to come."""

    def _replace(self: "_S", *, history: Array) -> "_S": ...


_S = TypeVar("_S", bound=_State)


class Found(NamedTuple):
    """The end of a loop. ``proxy`` is a normal to adapt from: mean and factor, or None."""

    state: _State
    params: Params
    converged: Bool[Array, ""]
    proxy: tuple[Array, Array] | None
    linear_response: Array | None = None
    problem: str = ""
    elbo: Estimate | None = None


def advance(run: Callable[[_S, Array], _S], state: _S, num_steps: int, report: Progress) -> _S:
    """Runs the compiled loop, in about ``REPORTS`` pieces where somebody watches."""
    if state.history.shape[0] < num_steps:
        more = jnp.full(num_steps - state.history.shape[0], jnp.nan, state.history.dtype)
        state = state._replace(history=jnp.concatenate([state.history, more]))
    if report is None:
        return run(state, jnp.asarray(num_steps))
    piece = -(-num_steps // _REPORTS)
    while int(state.step) < num_steps:
        before = int(state.step)
        state = run(state, jnp.asarray(min(before + piece, num_steps)))
        done = int(state.step)
        if done == before:
            break
        report(done, float(state.history[done - 1]))
    return state
