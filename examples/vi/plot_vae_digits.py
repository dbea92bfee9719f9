r"""A variational autoencoder of digits, with its two terms apart
=============================================================

.. math::

    \log p_\theta(x) \ge \underbrace{\mathbb{E}_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)]}
    _{\text{reconstruction}} - \underbrace{\operatorname{KL}(q_\phi(z \mid x) \,\|\, p(z))}
    _{\text{kl}}

An encoder network maps each 8 × 8 digit to the params of a normal over eight latents, a decoder
maps latents to pixels, and both are plain functions. You will see both terms along the fit: the
model buys reconstruction with divergence. Not every latent is paid for, so some stay at the prior.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from equipoise import plot, vi

# %%
# Encoder and decoder as pure functions
# -------------------------------------
# Pixels are probabilities of ink, so the likelihood is Bernoulli's with fractional counts.
data = load_digits()
images = jnp.asarray(data.data / 16.0, jnp.float32)
NUM_LATENTS, BATCH, STEPS = 8, 128, 1500
family = vi.mean_field(jnp.zeros(NUM_LATENTS))
prior = family.init()


def dense(key, size_in, size_out):
    weight = jax.random.normal(key, (size_out, size_in)) / size_in**0.5
    return {"weight": weight, "bias": jnp.zeros(size_out)}


def network(layers, x):
    hidden = jnp.tanh(layers[0]["weight"] @ x + layers[0]["bias"])
    return layers[1]["weight"] @ hidden + layers[1]["bias"]


def encode(model, x):
    mean, log_scale = jnp.split(network(model["encoder"], 2 * x - 1), 2)
    return {"mean": mean, "log_scale": log_scale}


def log_likelihood(model, x, z):
    logits = network(model["decoder"], z)
    return jnp.sum(x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits))


def terms(model, x, key):
    params, likelihood = encode(model, x), lambda z: log_likelihood(model, x, z)
    return vi.elbo_terms(likelihood, (family, prior), family, params, key, num_samples=2)


# %%
# The whole fit is one compiled loop
# ----------------------------------
keys = jax.random.split(jax.random.key(0), 4)
model = {
    "encoder": [dense(keys[0], 64, 128), dense(keys[1], 128, 2 * NUM_LATENTS)],
    "decoder": [dense(keys[2], NUM_LATENTS, 128), dense(keys[3], 128, 64)],
}
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))


def step(carry, key):
    model, state = carry
    pick, draw = jax.random.split(key)
    batch = images[jax.random.choice(pick, len(images), (BATCH,))]

    def negative_elbo(model):
        each = jax.vmap(terms, (None, 0, 0))(model, batch, jax.random.split(draw, BATCH))
        reconstruction, kl = jnp.mean(each.reconstruction.value), jnp.mean(each.kl.value)
        return kl - reconstruction, (reconstruction, kl)

    gradient, parts = jax.grad(negative_elbo, has_aux=True)(model)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(model, updates), state), parts


run = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(jax.random.key(1), STEPS)))
(model, _), (reconstruction, kl) = run((model, optimizer.init(model)))

# %%
# What it learned
# ---------------
params = jax.vmap(encode, (None, 0))(model, images)
mean, log_scale = params["mean"], params["log_scale"]
divergence = jnp.mean(0.5 * (mean**2 + jnp.exp(2 * log_scale) - 1) - log_scale, axis=0)
active = int(jnp.sum(divergence > 0.05))
order = jnp.argsort(-divergence)
draws = family.sample(prior, jax.random.key(2), 40)
dreams = jax.nn.sigmoid(jax.vmap(network, (None, 0))(model["decoder"], draws))

figure, (curves, bars, map_of_classes, digits) = plot.new_grid(2, 2, size=(11, 9))
curves.plot(-reconstruction, label="−reconstruction")
curves.plot(kl, label="kl")
curves.set(xlabel="step", ylabel="nats per digit")
curves.set_title("Reconstruction is bought with divergence", loc="left")
curves.legend()
bars.bar(range(NUM_LATENTS), divergence[order])
bars.grid(visible=False)
bars.set(xlabel="latent", ylabel="kl (nats)")
bars.set_title(f"{active} of {NUM_LATENTS} latents are active", loc="left")
plot.latent_map(mean[:, order[:2]], data.target, ax=map_of_classes)
plot.image_grid(dreams.reshape(-1, 8, 8), title="Digits drawn from the prior", ax=digits)

# %%
# What was claimed
# ----------------
assert np.mean(kl[-100:]) > np.min(kl) + 1
assert np.mean(reconstruction[-100:]) > np.mean(reconstruction[:10]) + 5
assert 0 < active < NUM_LATENTS
