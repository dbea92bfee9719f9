"""The log density as a fit asks it: its curvatures are differences, and its program is small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import vi
from equipoise._jax.programs import primitive_names
from equipoise.vi._target.target import evaluate, trace
from tests.vi.programs import counted


def asked(log_density, size, dtype=float):
    return trace(log_density, vi.full_rank(jnp.zeros(size, dtype)))


def curved(z):
    return -jnp.sum(jnp.cosh(z)) + jnp.sin(z[0] * z[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_curvatures_match_second_derivatives(dtype, rng):
    points = rng.normal(size=(5, 3)).astype(dtype)
    frames = np.linalg.cholesky(np.eye(3) + 0.5)
    values, gradients, curvatures = asked(curved, 3, dtype).curvatures(points, frames)
    exact = jax.vmap(jax.hessian(curved))(points.astype(float))
    # Gradients of at most g are ε^¼ apart: their rounding leaves g ε^¾ and fourth derivatives √ε/6.
    bound = 8 * np.finfo(dtype).eps ** 0.5 * (1 + np.max(np.abs(exact)))
    np.testing.assert_allclose(curvatures, exact, rtol=0, atol=bound)
    found = asked(curved, 3, dtype).gradients(points)
    np.testing.assert_array_equal(values, found[0])
    np.testing.assert_array_equal(gradients, found[1])


@pytest.mark.parametrize("sd", [1e-4, 1.0, 1e4])
def test_curvatures_are_told_far_from_the_origin_along_leaning_axes(sd):
    # Points at 30 with sds down to 1e-4 and a correlation of 0.9999: float32 rounds them by 2e-6.
    root = sd * np.linalg.cholesky([[1.0, 0.9999], [0.9999, 1.0]])
    precision = np.linalg.inv(root @ root.T)
    center = np.full(2, 30.0)
    narrow = precision.astype(np.float32), center.astype(np.float32)

    def log_density(z):
        step = z - narrow[1]
        return -0.5 * step @ narrow[0] @ step

    target = asked(log_density, 2, np.float32)
    found = target.curvatures(center[None], root[None])[2][0]
    # Products of entries of the precision, of which the axis that leans keeps one part in 2e4.
    whitened = root.T @ found @ root
    np.testing.assert_allclose(whitened, -np.eye(2), atol=2e4 * np.finfo(np.float32).eps)


def test_curvatures_edge_of_a_frame_without_directions_are_not_a_number():
    frames = np.stack([np.eye(2), np.ones((2, 2))])
    found = asked(lambda z: -jnp.sum(z**2), 2).curvatures(np.zeros((2, 2)), frames)[2]
    np.testing.assert_allclose(found[0], -2 * np.eye(2), atol=1e-9)
    assert np.all(np.isnan(found[1]))


@pytest.mark.parametrize("number", [1, 63, 64, 65, 264, 1000])
def test_gradients_of_any_number_of_points_are_one_program(number, rng):
    target = asked(curved, 33)  # whose chunks of 264 points end within a block
    target.values(np.zeros((1, 33)))
    points = rng.normal(size=(number, 33))
    with counted() as compiled:
        values, gradients = target.gradients(points)
    assert not compiled
    np.testing.assert_allclose(values, jax.vmap(curved)(points), rtol=1e-12)
    np.testing.assert_allclose(gradients, jax.vmap(jax.grad(curved))(points), rtol=1e-12)


def test_the_log_density_is_in_the_program_twice():
    target = asked(lambda z: -jnp.sum(jnp.cosh(z)), 3)
    rows = np.zeros((512, 3))
    traced = jax.make_jaxpr(evaluate)(target, np.int32(1), rows, np.int32(1))
    # Once for values and once beside its gradient; second derivatives would be a third.
    assert [*primitive_names(traced)].count("cosh") == 2
