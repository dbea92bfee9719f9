"""A normalizing flow of affine couplings on top of a full-rank normal."""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, positive_integer
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.core import Core, assemble
from equipoise.vi._families.family import Family, Params, remembered
from equipoise.vi._families.full_rank import from_scale_tril, scale_tril
from equipoise.vi._families.layout import Layout, layout
from equipoise.vi._families.mean_field import LOG_2PI, normal_log_prob
from equipoise.vi._supports.support import Support

_MAX_LOG_SCALE = 3.0
_Layer = tuple[Params, np.ndarray]  # weights, and which coordinates it keeps


@at("vi.flow")
def flow(
    example: PyTree,
    *,
    num_layers: int = 6,
    hidden_size: int = 32,
    support: PyTree | Support | None = None,
) -> Family:
    r"""A normalizing flow: affine couplings on top of a full-rank normal.

    .. math::

        z = m + L\, (f_K \circ \dots \circ f_1)(\varepsilon), \qquad
        f_k(x)_b = x_b \odot e^{s_k(x_a)} + t_k(x_a), \quad f_k(x)_a = x_a

    Layers change the odd and the even coordinates in turn, given the others; s and t come from a
    network with one hidden layer, and \|s\| is below 3. At ``init`` every layer is the identity,
    so the flow starts as the full-rank normal that it contains.

    Args:
        example: A pytree of floating-point arrays, or of ``jax.ShapeDtypeStruct``, with the shapes
            of one position; its values are not used.
        num_layers: K, number of couplings.
        hidden_size: Units of the network of each coupling.
        support: Where each leaf lives: one support for all, or a pytree of supports like the
            example; leaves that it leaves out are real. Default: all reals.

    Returns:
        A :class:`Family` with exact draws and densities; its entropy has no closed form. Params
        are ``{"mean", "log_scale", "lower"}`` of :func:`full_rank` and ``"couplings"``, a dict
        whose leaves lead with the layers; weights of a coordinate in the role that a layer does
        not give it have no effect. ``init`` draws the hidden weights from its key, or from
        ``jax.random.key(0)`` without one. With one coordinate there is nothing to couple, and the
        flow is a normal.

    Raises:
        TypeError: If a leaf of the example is not floating-point.
        ValueError: If the example has no leaf, ``support`` does not fit it, or a size is below 1.

    Cost: O(d² + K·h·d) parameters and time, for a draw or a density alike.

    Examples:
        >>> family = vi.flow(jnp.zeros(2))
        >>> print(family.sample(family.init(), jax.random.key(0), 5).shape)
        (5, 2)

    References:
        :cite:t:`dinh2017`.
    """
    positive_integer("num_layers", num_layers)
    positive_integer("hidden_size", hidden_size)
    return _flow(layout(example, support), num_layers, hidden_size)


@remembered
def _flow(shape: Layout, num_layers: int, hidden_size: int) -> Family:
    d = shape.size
    # Layers keep the even and the odd coordinates in turn. They are masked to equal shapes, so
    # that one layer is compiled, not all of them.
    kept = np.stack([np.arange(d) % 2 == k % 2 for k in range(num_layers)])

    def init(key: PRNGKeyArray | None, center: Array, scale: Array) -> Params:
        key = jax.random.key(0) if key is None else key
        factor = scale if scale.ndim == 2 else jnp.diag(jnp.broadcast_to(scale, (d,)))
        hidden = jax.random.normal(key, (num_layers, hidden_size, d), "float32")
        fan_in = np.maximum(kept.sum(axis=1), 1).astype(np.float32)
        hidden = hidden / fan_in[:, None, None] ** 0.5
        couplings = {
            "hidden": hidden.astype(shape.dtype),
            "hidden_bias": jnp.zeros((num_layers, hidden_size), shape.dtype),
            "out": jnp.zeros((num_layers, 2, d, hidden_size), shape.dtype),
            "out_bias": jnp.zeros((num_layers, 2, d), shape.dtype),
        }
        return {**from_scale_tril(center, factor), "couplings": couplings}

    def scale_and_shift(one: _Layer, x: Array) -> Array:
        layer, keep = one
        hidden = jnp.tanh(layer["hidden"] @ jnp.where(keep, x, 0) + layer["hidden_bias"])
        scale, shift = layer["out"] @ hidden + layer["out_bias"]
        scale = _MAX_LOG_SCALE * jnp.tanh(scale / _MAX_LOG_SCALE)
        return jnp.where(keep[None], 0, jnp.stack([scale, shift]))

    def couple(params: Params, x: Array) -> tuple[Array, Array]:
        def layer(x: Array, one: _Layer) -> tuple[Array, Array]:
            s, t = scale_and_shift(one, x)
            return x * jnp.exp(s) + t, jnp.sum(s)

        x, log_volumes = jax.lax.scan(layer, x, (params["couplings"], kept))
        return x, jnp.sum(log_volumes)

    def uncouple(params: Params, x: Array) -> tuple[Array, Array]:
        def layer(x: Array, one: _Layer) -> tuple[Array, Array]:
            s, t = scale_and_shift(one, x)
            return (x - t) * jnp.exp(-s), jnp.sum(s)

        x, log_volumes = jax.lax.scan(layer, x, (params["couplings"], kept), reverse=True)
        return x, jnp.sum(log_volumes)

    def transform(params: Params, noise: Array) -> Array:
        return jnp.asarray(params["mean"] + scale_tril(params) @ couple(params, noise)[0])

    def log_prob(params: Params, flat: Array) -> Scalar:
        x = jax.scipy.linalg.solve_triangular(scale_tril(params), flat - params["mean"], lower=True)
        noise, log_volume = uncouple(params, x)
        return normal_log_prob(noise) - log_volume - jnp.sum(params["log_scale"])

    def entropy_term(params: Params, noise: Array) -> Scalar:
        """Entropy of the noise, in closed form, plus the log-determinant at this draw."""
        log_volume = couple(params, noise)[1] + jnp.sum(params["log_scale"])
        return 0.5 * d * (1 + LOG_2PI) + log_volume

    return assemble(
        Core("flow", d, d, init, transform, log_prob, entropy_term, takes_factor=True), shape
    )
