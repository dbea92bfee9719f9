"""The steps of an optax optimizer, whose gradient estimator is chosen by its measured variance.

They run in pieces. The variates of a piece are drawn together, as one long array is made in much
less time than many short ones, and whether everything is finite is asked once for each. The
optimizer is data, as the density is: one made anew, or with another rate, compiles nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar, record, static_field
from equipoise.vi._bounds.density import dtype_of
from equipoise.vi._bounds.estimators import draws_from
from equipoise.vi._bounds.sampling import variates
from equipoise.vi._families.family import Family, Params
from equipoise.vi._fit.target import Target

_Optimizer: TypeAlias = optax.GradientTransformationExtraArgs
_Loss: TypeAlias = Callable[[Params, Array], tuple[Scalar, Scalar]]
PATHWISE = ("closed_form_entropy", "sticking_the_landing")
_MEASURE_EVERY = 100
_MEASUREMENTS = 8
_MAX_VARIATES = 2**20  # numbers that are drawn together
# In the order in which they are blamed for what is not finite.
_TERMS = ("log density", "log density of q", "gradient of the ELBO", "updated parameters")


class _Searches(Exception):
    """The optimizer evaluates the loss at params of its own choice."""


@record
class _Rule:
    """An optimizer for compiled functions.

    Attributes:
        update: New params and memory, from gradient, memory, params and loss; None where the
            optimizer evaluates the loss itself, as one with a line search does.
        searching: Such an optimizer, told by the identity of its functions.
    """

    update: Traced | None
    searching: _Optimizer | None = static_field()

    def __call__(
        self,
        gradient: Params,
        memory: PyTree,
        params: Params,
        value: Scalar,
        loss: Callable[[Params], Scalar],
    ) -> tuple[Params, PyTree]:
        """Params and memory after one step, from the gradient and value of the loss before it."""
        if self.update is None:
            return _updated(self.searching, loss, gradient, memory, params, value)
        return self.update(gradient, memory, params, value)


def rule_of(optimizer: optax.GradientTransformation, params: Params) -> _Rule:
    """The rule of an optimizer for params of these shapes and dtypes."""
    extended = optax.with_extra_args_support(optimizer)
    memory = jax.eval_shape(extended.init, params)
    value = np.zeros((), dtype_of(params))
    update = functools.partial(_updated, extended, _refused)
    try:
        return _Rule(traced(update, params, memory, params, value), None)
    except _Searches:
        return _Rule(None, extended)


def _updated(
    optimizer: _Optimizer,
    loss: Callable[[Params], Scalar],
    gradient: Params,
    memory: PyTree,
    params: Params,
    value: Scalar,
) -> tuple[Params, PyTree]:
    # optax counts steps in integers and mixes them with floats.
    with jax.numpy_dtype_promotion("standard"):
        updates, memory = optimizer.update(
            gradient, memory, params, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(params, updates), memory


def _refused(params: Params) -> Scalar:
    raise _Searches


class Moving(NamedTuple):
    """What a step changes: params, the optimizer's memory; and which estimator it follows."""

    params: Params
    memory: PyTree
    estimator: Array


class GradientState(NamedTuple):
    """Everything that the loop continues from. ``failed`` names the term that is not finite."""

    step: int
    moving: Moving
    history: np.ndarray
    failed: str = ""


class Settings(NamedTuple):
    """The static choices of the loop; ``shape`` is blocks of draws, and draws in each."""

    shape: tuple[int, int]
    gradients: tuple[str, ...]
    draws: str
    fixed: bool


def _negative_elbo(target: Target, family: Family, gradient: str) -> _Loss:
    """Loss of params and variates, and the mean log density in it."""

    def loss(params: Params, noise: Array) -> tuple[Scalar, Scalar]:
        draws = draws_from(family, params, noise, gradient)
        log_p = draws.each(target.log_density).astype(dtype_of(params))
        return -jnp.mean(draws.credited(log_p + draws.entropy)), jnp.mean(log_p)

    return loss


def _noise_at(
    family: Family, settings: Settings, params: Params, key: PRNGKeyArray, step: Array
) -> Array:
    """Variates of one step: its own, so that a loop that is cut in two draws the same."""
    here = key if settings.fixed else jax.random.fold_in(key, step)
    return variates(family, here, settings.shape, dtype_of(params), settings.draws)


def _piece_length(family: Family, settings: Settings) -> int:
    """Steps whose variates are drawn together, a divisor of ``MEASURE_EVERY``."""
    size = math.prod(settings.shape) * (family.noise_size or 1)
    divisors = [n for n in range(1, _MEASURE_EVERY + 1) if _MEASURE_EVERY % n == 0]
    return max(n for n in divisors if n == 1 or n * size <= _MAX_VARIATES)


def _quietest(losses: list[_Loss], params: Params, noises: Array) -> Array:
    """Index of the loss whose gradient varies least over the variates, summed over coordinates."""
    totals = []
    for loss in losses:
        gradients, _ = jax.lax.map(lambda e, f=loss: jax.grad(f, has_aux=True)(params, e), noises)
        totals.append(sum(jnp.sum(jnp.var(g, axis=0)) for g in jax.tree.leaves(gradients)))
    return jnp.argmin(jnp.stack(totals)).astype(jnp.int32)


class Descent(NamedTuple):
    """What stays the same in all steps."""

    target: Target
    rule: _Rule
    key: PRNGKeyArray


@functools.partial(jax.jit, static_argnames=("family", "settings"))
def _piece(
    descent: Descent,
    moving: Moving,
    first: Array,
    count: Array,
    *,
    family: Family,
    settings: Settings,
) -> tuple[Moving, Array, Array]:
    """A number of steps from the first on: the ELBO after each, and which terms are not finite.

    Every ``MEASURE_EVERY`` steps the estimator with the smallest measured variance is chosen.
    """
    target, rule, key = descent
    losses = [_negative_elbo(target, family, name) for name in settings.gradients]
    length = _piece_length(family, settings)
    draw = functools.partial(_noise_at, family, settings, moving.params)
    steps = first + jnp.arange(length, dtype=jnp.int32)
    noises = draw(key, first) if settings.fixed else jax.vmap(draw, (None, 0))(key, steps)
    dtype = dtype_of(moving.params)

    def choose(params: Params) -> Array:
        apart = jax.random.split(jax.random.fold_in(key, -1 - first), _MEASUREMENTS)
        return _quietest(losses, params, jax.vmap(draw, (0, None))(apart, first))

    def follow(loss: _Loss, params: Params, memory: PyTree) -> tuple[Params, PyTree, Array, Array]:
        def step(i: Array, carry: tuple[Params, PyTree, Array, Array]) -> PyTree:
            params, memory, elbos, totals = carry
            noise = noises if settings.fixed else noises[i]
            (value, log_p), slope = jax.value_and_grad(loss, has_aux=True)(params, noise)
            params, memory = rule(slope, memory, params, value, lambda p: loss(p, noise)[0])
            total = sum(jnp.sum(g) for g in jax.tree.leaves(slope))
            totals = totals + jnp.stack([log_p, value, total])
            return params, memory, elbos.at[i].set(-value), totals

        start = params, memory, jnp.zeros(length, dtype), jnp.zeros(3, dtype)
        return jax.lax.fori_loop(0, count, step, start)

    params, memory, estimator = moving
    if len(losses) > 1:
        due = first % _MEASURE_EVERY == 0
        estimator = jax.lax.cond(due, choose, lambda _: estimator, params)
    branches = [functools.partial(follow, loss) for loss in losses]
    params, memory, elbos, totals = jax.lax.switch(estimator, branches, params, memory)
    finite = jnp.append(jnp.isfinite(totals), _all_finite(params))
    return Moving(params, memory, estimator), elbos, ~finite


def descend(
    descent: Descent, family: Family, settings: Settings, state: GradientState, limit: int
) -> GradientState:
    """Steps until ``limit`` of them are done in all, or something is not finite.

    A piece that fails is taken again step by step, up to the one that is at fault.
    """
    length = _piece_length(family, settings)
    cautious_until = 0
    while state.step < limit and not state.failed:
        end = min(limit, (state.step // length + 1) * length)
        end = state.step + 1 if state.step < cautious_until else end
        first, count = np.int32(state.step), np.int32(end - state.step)
        moving, elbos, broken = _piece(
            descent, state.moving, first, count, family=family, settings=settings
        )
        broken = np.asarray(broken)
        if not broken.any():
            history = np.append(state.history, np.asarray(elbos)[:count])
            state = GradientState(end, moving, history)
        elif count == 1:
            state = state._replace(failed=_TERMS[int(np.argmax(broken))])
        else:
            cautious_until = end
    return state


def _all_finite(tree: PyTree) -> Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
