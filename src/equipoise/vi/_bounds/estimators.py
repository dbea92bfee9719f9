r"""The estimators of the ELBO's gradient, each as what one draw contributes.

.. math::

    \nabla_\theta\, \mathbb{E}_{z \sim q_\theta} [\log p(z) - \log q_\theta(z)], \qquad
    z = t_\theta(\varepsilon), \quad \varepsilon \sim \mathcal{N}(0, I)

A bar is ``stop_gradient``. In flat coordinates u the position is z = unravel(u), whose volume
factor V turns the density of u into that of z: log q(z) = log q(u) − log V(u).

=====================  ================  ==========================
estimator              position          entropy term
=====================  ================  ==========================
closed-form entropy    z = t_θ(ε)        H of q_θ, where it is closed
sticking the landing   z = t_θ(ε)        −log q_θ̄(z)
score function         z̄ = t_θ̄(ε)        −log q_θ̄(z̄), and the score
=====================  ================  ==========================
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from equipoise._jax.traced import Traced
from equipoise._types import Array, PyTree
from equipoise.vi._bounds.density import LogDensity
from equipoise.vi._families.family import Family, Params


class Draws(NamedTuple):
    """Positions drawn from q, with what an expectation under q needs.

    Fields of many draws lead with the axes ``(blocks, draws in a block)``; blocks are independent.
    """

    position: PyTree
    entropy: Array  # its mean is the entropy of q
    score: Array | None  # of value 0, with the derivative ∇ log q(z); where z itself has none

    def each(self, density: Traced, function: LogDensity | None = None) -> Array:
        """The density, or a function that calls it, at every position; dtype of the entropy."""
        found: Array = density.over(density.over(function or density))(self.position)
        return found.astype(self.entropy.dtype)

    def credited(self, values: Array) -> Array:
        """The values, with the score-function gradient where positions carry none.

        The baseline of a draw is the mean over the other blocks: independent of the draw, so that
        it changes the variance alone.
        """
        if self.score is None:
            return values
        fixed = stop_gradient(values)
        blocks = values.shape[0]
        means = jnp.mean(fixed, axis=1, keepdims=True)
        others = (jnp.sum(means) - means) / (blocks - 1)
        return values + (fixed - others) * self.score


_Estimator: TypeAlias = Callable[[Family, Params, Array], Draws]


def _closed_form_entropy(q: Family, theta: Params, eps: Array) -> Draws:
    """Z = t_θ(ε), and the entropy without the noise of its closed part; Kingma and Welling."""
    u = q.transform_flat(theta, eps)
    return Draws(q.unravel(u), q.entropy_term(theta, eps) + q.log_volume(u), None)


def _sticking_the_landing(q: Family, theta: Params, eps: Array) -> Draws:
    """Z = t_θ(ε), and −log q_θ̄(z), which moves by the path alone; Roeder et al."""
    u = q.transform_flat(theta, eps)
    log_q = q.log_prob_flat(stop_gradient(theta), u) - q.log_volume(u)
    return Draws(q.unravel(u), -log_q, None)


def _score_function(q: Family, theta: Params, eps: Array) -> Draws:
    """z̄, which does not move, and the score ∇ log q_θ(z̄) that the value is multiplied with."""
    if q.transform_flat is not None:
        u = q.transform_flat(stop_gradient(theta), eps)
        z, log_q = q.unravel(u), q.log_prob_flat(theta, u) - q.log_volume(u)
    else:  # ε is a key
        drawn = q.sample(stop_gradient(theta), eps, 1)
        z = stop_gradient(jax.tree.map(lambda leaf: leaf[0], drawn))
        log_q = q.log_prob(theta, z)
    return Draws(z, -stop_gradient(log_q), log_q - stop_gradient(log_q))


ESTIMATORS: dict[str, _Estimator] = {
    "closed_form_entropy": _closed_form_entropy,
    "sticking_the_landing": _sticking_the_landing,
    "score_function": _score_function,
}


def draws_from(q: Family, params: Params, noise: Array, gradient: str) -> Draws:
    """The draws that blocks of variates make, whose derivative is that of the estimator."""

    def one(theta: Params, eps: Array) -> Draws:
        return ESTIMATORS[gradient](q, theta, eps)

    return jax.vmap(jax.vmap(one, (None, 0)), (None, 0))(params, noise)
