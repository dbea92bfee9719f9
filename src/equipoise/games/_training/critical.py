"""The critical learning rate of training: any loss, any optimizer, no matrix."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise._check import (
    at,
    choice,
    floating_tree,
    is_traced,
    positive_integer,
    type_error,
    value_error,
)
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree, Scalar
from equipoise.games._optimizers.anatomy import anatomy
from equipoise.games._optimizers.optimizer import (
    check_optimizer,
    checked_state,
    traced_optimizer,
)
from equipoise.games._rules.dynamics import typed
from equipoise.games._rules.numerics import DENSE_LIMIT
from equipoise.games._rules.rule import checked_step_size
from equipoise.games._training.crossing import first_loss
from equipoise.games._training.program import Search, measured
from equipoise.games._training.result import CriticalLearningRate

_METHODS = ("auto", "dense", "matrix_free")


@at("games.critical_learning_rate")
def critical_learning_rate(
    loss: Callable[[PyTree[Array]], Scalar],
    params: PyTree[Array],
    optimizer: optax.GradientTransformation,
    *,
    optimizer_state: PyTree | None = None,
    max_step_size: float | Array | None = None,
    frozen: PyTree | None = None,
    method: str = "auto",
    tolerance: float = 1e-4,
    subspace: int = 16,
    max_products: int = 2000,
) -> CriticalLearningRate:
    r"""The learning rate at which training leaves the point that it has reached.

    .. math::

        \eta^* = \frac{2}{\lambda_{\max}(\tau H + \delta)}, \qquad
        u_t = -(\tau g_t + \delta x_t) \quad \text{where } (g_{t+1}, x_{t+1}) = -(g_t, x_t)

    with H the Hessian of the loss and u the update that the optimizer makes, at rate 1, of a
    gradient and a position that turn their sign each step: τ is 1 for gradient descent, 1/(1 + β)
    for momentum, and (1 − β₁)/(1 + β₁) over √ν + ε for Adam; δ comes from decoupled weight decay.
    Whether a pair of eigenvalues reaches the unit circle before is seen from the update on the
    direction that is lost. Directions of negative or no curvature are left out: small steps do not
    attract them.

    Slow memory, a second moment above all, is held at ``optimizer_state``: take it from training.
    By default it is what a constant gradient, the one at ``params``, leads to: for Adam its square,
    so that the answer is for an optimizer started there, not for one that has seen noise.

    Args:
        loss: A differentiable function of ``params`` to a scalar; data are closed over.
        params: Where training stands, a pytree of real arrays. No equilibrium is needed.
        optimizer: An optax optimizer at rate 1, such as ``optax.adam(1.0)``. The answer multiplies
            what it returns, and schedules inside it.
        optimizer_state: The optimizer's state. A step count of 0 in it stands for its limit.
        max_step_size: A critical rate beyond it counts as not lost. Default: no limit.
        frozen: Which leaves of the state are held, where the function is not to find out: booleans
            in the structure of the state, or of the upper part of it.
        method: ``"dense"`` (the matrix of all directions, which are then counted),
            ``"matrix_free"``, or ``"auto"``: dense up to 512 parameters.
        tolerance: Relative error at which the iteration ends, at least 4ε of the dtype.
        subspace: How many vectors like ``params`` the iteration keeps, ≥ 4.
        max_products: How many products with the Hessian it takes at most.

    Returns:
        :class:`CriticalLearningRate`. The learning rate differentiates by all that the loss closes
        over, the parameters and the state, as a simple eigenvalue does; the rest are constants.
        Where the loss or its gradient is not finite under ``jit``, NaN.

    Raises:
        TypeError: If a parameter is not real and floating-point, the optimizer is no
            ``optax.GradientTransformation`` or closes over traced values.
        ValueError: If the loss is not a scalar, or it or its gradient is known and not finite; if
            the state does not fit the optimizer; if the optimizer needs more than gradient, state
            and parameters, acts in turns of several steps, or answers a small push of the gradient
            out of proportion, as Lion and others that go by signs do.

    Cost: some dozens of products with the Hessian, each about two gradients; ``subspace`` + 5
    vectors like the parameters. One compiled program for losses and optimizers that compute alike.

    Examples:
        >>> import optax
        >>> loss = lambda x: 2 * x[0] ** 2 + 0.5 * x[1] ** 2
        >>> found = games.critical_learning_rate(loss, jnp.ones(3), optax.sgd(1.0, momentum=0.9))
        >>> print(f"{found.learning_rate:.3f} {found.sharpness:.1f} {found.num_flat}")
        0.950 4.0 1

    References:
        :cite:t:`cohen2021`; :cite:t:`cohen2022`
    """
    method = choice("method", method, _METHODS)
    subspace = positive_integer("subspace", subspace, minimum=4)
    max_products = positive_integer("max_products", max_products)
    params = floating_tree("params", params)
    known_loss = _checked_loss(loss, params)
    check_optimizer("optimizer", optimizer)
    known, shapes = traced_optimizer("optimizer", optimizer, params)
    if optimizer_state is not None:
        optimizer_state = checked_state("optimizer_state", optimizer_state, shapes.state)
    parts = anatomy("optimizer", known, shapes, frozen)
    if parts.period > 1:
        raise value_error(
            "optimizer",
            "must act alike in every step",
            f"one that acts in turns of {parts.period} steps",
            "Give the optimizer that it wraps: the same threshold holds for its full steps.",
        )
    if parts.is_late:
        raise value_error(
            "optimizer",
            "must go down a gradient that alternates",
            "one that goes up, as delayed gradients do",
            "Ask games.critical_step_size with games.from_optax: it looks at all eigenvalues.",
        )
    num = sum(leaf.size for leaf in jax.tree.leaves(params))
    is_dense = method == "dense" or (method == "auto" and num <= DENSE_LIMIT)
    search = Search(parts, is_dense, subspace, float(tolerance), max_products)
    found = measured(known_loss, known, params, optimizer_state, search)
    _check_finite(found.finite, params)
    if not is_traced(found.moves) and not found.moves:
        raise value_error(
            "optimizer",
            "must move the parameters at its state",
            "one whose update is 0 there",
            "Give the state that a schedule is to be taken at.",
        )
    limit = checked_step_size("max_step_size", np.inf if max_step_size is None else max_step_size)
    limit = typed(limit, found.top.value.dtype)
    update, top, limit = jax.lax.stop_gradient((found.update, found.top, limit))
    lost = jax.device_put(first_loss(update, top.value, limit))
    rate = lost.learning_rate
    if is_traced(found.slope):  # the rate goes like 1/κ
        kappa = jnp.where(top.value > 0, found.slope, 1)
        rate = rate * jax.lax.stop_gradient(kappa) / kappa
    return CriticalLearningRate(
        sharpness=found.sharpness,
        direction=found.direction,
        learning_rate=rate,
        kind=lost.kind,
        eigenvalue=lost.eigenvalue,
        error=top.error,
        converged=found.converged,
        num_flat=found.counts[0],
        num_repelling=found.counts[1],
        bend=found.bend,
        num_products=top.num_products,
    )


def _checked_loss(loss: object, params: PyTree[Array]) -> Traced:
    if not callable(loss):
        raise type_error("loss", "must be a function of the parameters", loss)
    value = jax.eval_shape(loss, params)
    if not hasattr(value, "shape") or value.shape != ():
        shapes = str(jax.tree.map(lambda leaf: leaf.shape, value))
        raise value_error("loss", "must be a scalar", shapes, "Sum or average it.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise type_error("loss", "must be real", str(value.dtype))
    return traced(loss, params)


def _check_finite(finite: list[Array], params: PyTree[Array]) -> None:
    """Reject a loss or a gradient that is known and not finite; the leaf is named."""
    if any(map(is_traced, finite)):
        return
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for ok, path in zip(finite[1:], paths, strict=True):
        if not ok:
            name = f"params{jax.tree_util.keystr(path)}"
            raise value_error("loss", f"must have a finite gradient by {name}", "NaN or infinity")
    if not finite[0]:
        raise value_error("loss", "must be finite at the parameters", "NaN or infinity")
