"""The optimum of a linear variational autoencoder is probabilistic PCA."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from equipoise import vi

pytestmark = pytest.mark.slow

TARGETS = {2: 0.005707, 5: 8.907637, 10: 17.451947, 20: 27.277300}


def probabilistic_pca(x, q):
    """Maximum of the mean log-likelihood, from the eigenvalues of the covariance."""
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    kept, rest = np.log(values[:q]).sum(), values[q:].mean()
    d = x.shape[1]
    return -0.5 * (d * np.log(2 * np.pi) + kept + (d - q) * np.log(rest) + d)


@pytest.mark.slow
@pytest.mark.parametrize(("q", "steps"), [(2, 1000), (5, 1000), (10, 2000), (20, 3000)])
def test_elbo_of_a_linear_vae_reaches_probabilistic_pca(q, steps):
    x = jnp.asarray(load_digits().data / 16)
    n, d = x.shape
    family = vi.mean_field(jnp.zeros(q))
    model = {
        "decoder": 0.1 * jax.random.normal(jax.random.key(0), (d, q)),
        "bias": jnp.mean(x, axis=0),
        "log_noise": jnp.array(-1.5),
        "encoder": jnp.zeros((q, d)),
        "log_scale": jnp.zeros(q),
    }

    def bound(model, row, key):
        def log_joint(z):
            residual = (row - model["bias"] - model["decoder"] @ z) * jnp.exp(-model["log_noise"])
            likelihood = -0.5 * residual @ residual - d * model["log_noise"]
            constant = 0.5 * (d + q) * jnp.log(2 * jnp.pi)
            return likelihood - 0.5 * z @ z - constant

        params = {
            "mean": model["encoder"] @ (row - model["bias"]),
            "log_scale": model["log_scale"],
        }
        return vi.elbo(
            log_joint,
            family,
            params,
            key,
            num_samples=2,
            draws="antithetic",
            gradient="sticking_the_landing",
        ).value

    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))

    def step(carry, key):
        model, state = carry

        def negative_elbo(model):
            return -jnp.mean(jax.vmap(bound, (None, 0, 0))(model, x, jax.random.split(key, n)))

        loss, gradient = jax.value_and_grad(negative_elbo)(model)
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
            updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(model, updates), state), -loss

    keys = jax.random.split(jax.random.key(1), steps)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[1])
    history = np.asarray(run((model, optimizer.init(model))))
    exact = probabilistic_pca(np.asarray(x), q)
    assert abs(exact - TARGETS[q]) < 1e-6
    # The last steps move no more; their mean has an error below 1e-3.
    assert abs(history[-20:].mean() - exact) < 0.01
