"""Newton's method that keeps second derivatives: the same modes, for far fewer of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.vi._bounds.density import second_order, value_and_slope
from equipoise.vi._stages import banded
from equipoise.vi._stages.newton import mode_from, normal_at
from tests.thinned import slow_but

COUNTS = np.random.default_rng(0).poisson(4.0, 20).astype(float)


def log_p(x):
    """Counts whose log rates are a random walk."""
    return (
        jnp.sum(COUNTS.astype(x.dtype) * x - jnp.exp(x))
        - 2 * jnp.sum(jnp.diff(x) ** 2)
        - 0.5 * jnp.sum(x**2)
    )


def exact():
    x = np.zeros(20)
    for _ in range(50):
        x -= np.linalg.solve(jax.hessian(log_p)(x), jax.grad(log_p)(x))
    return x


@pytest.mark.parametrize("width", slow_but([None, 1], 1))
def test_mode_and_factor_match_exact_ones_from_near_and_far(width):
    mode, scales = exact(), np.ones(20)
    found = jax.jit(
        lambda x: (
            path := mode_from(x, log_p, scales, width),
            *normal_at(path, scales, width),
        )
    )
    for start, most in ((mode + 0.02, 1), (mode - 4.0, 8), (mode + 4.0, 8)):
        path, there, root = found(start)
        # A step that gains less than 0.02 nats is the last: 0.1 sd from the mode at most, and sds
        # are below 0.5; what is left after it is of second order in that.
        np.testing.assert_allclose(there, mode, rtol=0, atol=0.02)
        assert 1 <= path.curvatures <= most
        # Second derivatives are those of a point within half a nat of the mode, or nearer.
        whole = banded.diagonal(root, width)
        wanted = np.diagonal(np.linalg.cholesky(-jax.hessian(log_p)(mode)))
        np.testing.assert_allclose(whole, wanted, rtol=0.25)


@jax.custom_vjp
def backward_alone(x):
    return log_p(x)


# The rule calls the function itself, as JAX's documentation writes it: no forward mode is left.
backward_alone.defvjp(lambda x: (backward_alone(x), x), lambda x, g: (g * jax.grad(log_p)(x),))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-6), (np.float32, 5e-3)])
def test_curvature_of_a_density_with_reverse_mode_alone_is_that_of_its_gradients(dtype, rtol):
    point, scales = exact().astype(dtype) + dtype(0.3), np.full(20, 0.4, dtype)

    def curvature(point):
        return second_order(value_and_slope(backward_alone, scales), point, np.eye(20, dtype=dtype))

    value, slope, curvatures = jax.jit(curvature)(point)
    # Central differences a fourth root of the rounding apart err by its square root.
    wanted = jax.hessian(log_p)(point)
    np.testing.assert_allclose(curvatures, wanted, rtol=0, atol=rtol * np.abs(wanted).max())
    chex.assert_trees_all_close((value, slope), jax.value_and_grad(log_p)(point), rtol=1e-5)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.hessian(backward_alone)(point)


def test_path_from_where_nothing_is_finite_ends():
    scales = np.ones(2)

    @jax.jit
    def found(x):
        path = mode_from(x, lambda z: jnp.sum(jnp.log(z)) - jnp.sum(z), scales, None)
        return path.curvatures, normal_at(path, scales, None)[1]

    curvatures, root = found(np.array([-1.0, -1.0]))
    assert curvatures < 5
    np.testing.assert_array_equal(root, np.eye(2))
