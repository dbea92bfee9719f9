"""A distribution over finitely many options, whose draws have no derivative."""

import functools

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer, random_key, type_error
from equipoise._types import Array, PRNGKeyArray, Scalar
from equipoise.vi._families.family import Family, one_program, remembered


@at("vi.categorical")
def categorical(num_categories: int) -> Family:
    r"""A distribution over finitely many options; positions are integers.

    .. math::

        q(i) = \operatorname{softmax}(s)_i, \qquad
        \log \sum_i e^{s_i} = \max_q \Bigl( \sum_i q(i)\, s_i + H(q) \Bigr)

    The maximum, the Gibbs principle, is at q = softmax(s): with log density s the bound of this
    family is attention's log-sum-exp.

    Args:
        num_categories: Number of options.

    Returns:
        A :class:`Family` with params ``{"logits": s}`` and positions 0, ..., num_categories − 1.
        Its draws have no derivative, so it needs ``gradient="score_function"``. An option whose
        logit is −∞ is never drawn. ``init`` is uniform.

    Raises:
        TypeError: If ``num_categories`` is not an integer.
        ValueError: If ``num_categories`` is below 1.

    Cost: O(num_categories) for a draw, a density or the entropy.

    Examples:
        >>> s, family = jnp.array([0.0, 1.0, 2.0]), vi.categorical(3)
        >>> bound = vi.elbo(lambda i: s[i], family, {"logits": s}, jax.random.key(0),
        ...                 num_samples=4, gradient="score_function")
        >>> print(f"{bound.value:.6f} {jax.nn.logsumexp(s):.6f}")
        2.407606 2.407606

    References:
        :cite:t:`wainwright2008`, section 3.6.
    """
    positive_integer("num_categories", num_categories)
    return _categorical(num_categories)


@remembered
def _categorical(num_categories: int) -> Family:
    def init(key: PRNGKeyArray | None = None) -> dict[str, Array]:
        return {"logits": jnp.zeros(num_categories)}

    def sample(params: dict[str, Array], key: PRNGKeyArray, num_samples: int) -> Array:
        with at("vi.categorical"):
            random_key("key", key)
            return drawn(params, key, positive_integer("num_samples", num_samples))

    @functools.partial(one_program, static_argnums=2)
    def drawn(params: dict[str, Array], key: PRNGKeyArray, num_samples: int) -> Array:
        return jax.random.categorical(key, params["logits"], shape=(num_samples,))

    @one_program
    def log_prob(params: dict[str, Array], position: Array) -> Scalar:
        if not jnp.issubdtype(jnp.result_type(position), jnp.integer):
            with at("vi.categorical"):
                raise type_error("position", "must be an integer", position)
        return jax.nn.log_softmax(params["logits"])[position]

    @one_program
    def entropy(params: dict[str, Array]) -> Scalar:
        log_q = jax.nn.log_softmax(params["logits"])
        q = jnp.exp(log_q)
        return -jnp.sum(q * jnp.where(q > 0, log_q, 0))

    return Family(name="categorical", init=init, sample=sample, log_prob=log_prob, entropy=entropy)
