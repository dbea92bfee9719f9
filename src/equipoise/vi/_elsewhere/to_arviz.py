"""Draws of a fit in the form that ArviZ takes."""

import jax
import numpy as np

from equipoise._check import at
from equipoise._types import PRNGKeyArray
from equipoise.vi._fit.result import Fit, posterior_draws


@at("vi.to_arviz")
def to_arviz(fit: Fit, key: PRNGKeyArray, num_samples: int) -> dict[str, dict[str, np.ndarray]]:
    r"""Posterior draws as the dictionary of groups that ``arviz.from_dict`` takes.

    .. math::

        \text{posterior}[\text{name}] \in \mathbb{R}^{1 \times \text{draws} \times \text{shape}}

    The draws are those of :func:`posterior_draws`, as one chain. A leaf is named by its path in
    the position, keys and indices joined by dots; a position of one array is ``"position"``.
    ArviZ itself is not imported.

    Args:
        fit: What :func:`fit` returned.
        key: Randomness of the draws.
        num_samples: Number of draws.

    Returns:
        ``{"posterior": {name: array}}``. ``arviz.from_dict(...)`` of it in ArviZ 1, and
        ``arviz.from_dict(**...)`` in ArviZ 0, gives its data structure.

    Raises:
        ValueError: If ``num_samples`` is below 1.

    Cost: that of :func:`posterior_draws`.

    Examples:
        >>> fit = vi.fit(lambda z: -0.5 * jnp.sum(z["a"] ** 2), {"a": jnp.zeros(2)},
        ...              jax.random.key(0))
        >>> groups = vi.to_arviz(fit, jax.random.key(1), 1000)
        >>> print(groups["posterior"]["a"].shape)
        (1, 1000, 2)

    References:
        :cite:t:`kumar2019`.
    """
    draws = posterior_draws(fit, key, num_samples)
    leaves, _ = jax.tree_util.tree_flatten_with_path(draws)
    named = {
        jax.tree_util.keystr(path, simple=True, separator=".") or "position": np.asarray(leaf)[None]
        for path, leaf in leaves
    }
    return {"posterior": named}
