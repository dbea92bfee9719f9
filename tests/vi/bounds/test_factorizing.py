"""Densities that factorize matrices: LAPACK is never given a batch, which can wait for itself."""

import functools

import jax
import jax.numpy as jnp
import pytest

from equipoise import vi
from equipoise._jax.programs import held, opened

POINTS = jnp.linspace(0.0, 3.0, 24)
FAMILY = vi.mean_field(jnp.zeros(2))


def log_density(z):
    """Of a length scale and an amplitude, under a Gaussian process."""
    apart = (POINTS[:, None] - POINTS[None]) * jnp.exp(-z[0])
    root = jnp.linalg.cholesky(jnp.exp(z[1] - 0.5 * apart**2) + 0.1 * jnp.eye(24))
    white = jax.scipy.linalg.solve_triangular(root, jnp.sin(POINTS), lower=True)
    return -0.5 * jnp.sum(white**2) - jnp.sum(jnp.log(jnp.diagonal(root))) - 0.5 * jnp.sum(z**2)


def elbo(params, key):
    return vi.elbo(log_density, FAMILY, params, key, num_samples=4).value


def iwae(params, key, gradient):
    return vi.importance_weighted_bound(
        log_density, FAMILY, params, key, num_importance_samples=3, gradient=gradient
    ).value


def annealed(params, key):
    return vi.annealed_bound(
        log_density, FAMILY, params, key, num_temperatures=2, num_samples=3
    ).value


def evidence(params, key):
    return vi.diagnose(log_density, FAMILY, params, key, num_samples=200).log_evidence


def noise(params, key):
    return vi.gradient_variance(elbo, params, key, num_repeats=3).total


CALLS = {
    "elbo": jax.grad(elbo),
    "importance": jax.grad(functools.partial(iwae, gradient="pathwise")),
    "doubly": jax.grad(functools.partial(iwae, gradient="doubly_reparameterized")),
    "annealed": jax.grad(annealed),
    "diagnose": evidence,
    "gradient variance": noise,
}


def ranks(program):
    """Of the operands of factorizations and solves, wherever they are."""
    for equation in opened(program).eqns:
        if equation.primitive.name in ("cholesky", "triangular_solve"):
            yield equation.invars[0].aval.ndim
        for inner in held(equation):
            yield from ranks(inner)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK is that of the CPU")
@pytest.mark.parametrize("name", CALLS)
def test_bounds_factorize_large_matrices_one_after_the_other(name):
    program = jax.make_jaxpr(CALLS[name])(FAMILY.init(), jax.random.key(0))
    assert set(ranks(program)) == {2}
