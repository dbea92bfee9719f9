r"""The ELBO is the log evidence less a gap, and a small family keeps a gap
=======================================================================

.. math:: \underbrace{\mathbb{E}_q[\log p(y \mid z)] - \mathrm{KL}(q \,\|\, p(z))}_{\mathrm{ELBO}}
    = \log p(y) - \mathrm{KL}(q \,\|\, p(z \mid y))

You will see every term of this for z ~ N(0, 1) and y = 10 ~ N(z, 1/4), exactly and from draws: the
gap closes at the posterior N(8, 1/5) alone, which the fit finds. For a posterior with correlation r
the best mean-field bound stays ½ log(1 − r²) below the evidence, and no fit is above it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from equipoise import plot, vi

jax.config.update("jax_enable_x64", val=True)

key = jax.random.key(3)
family = vi.mean_field(0.0)
prior, posterior = family.init(), family.init(position=8.0, scale=jnp.sqrt(0.2))
evidence = norm.logpdf(10.0, 0.0, jnp.sqrt(1.25))


def log_likelihood(z):
    return norm.logpdf(10.0, z, 0.5)


def mean_and_sd(params):
    return params["mean"], jnp.exp(params["log_scale"])


# %%
# Every term, exactly and from draws
# ----------------------------------


@jax.jit
def split(params):
    """Reconstruction, KL and gap in closed form, and the reconstruction from draws."""
    mean, sd = mean_and_sd(params)
    reconstruction = jnp.sum(log_likelihood(mean) - sd**2 / (2 * 0.5**2))  # it is a parabola in z
    kl, gap = (vi.kl_divergence(family, params, family, p) for p in (prior, posterior))
    terms = vi.elbo_terms(log_likelihood, (family, prior), family, params, key, num_samples=20_000)
    return reconstruction, kl, gap, terms.reconstruction


def log_joint(z):
    return norm.logpdf(z) + log_likelihood(z)


fit = vi.fit(log_joint, 0.0, key, family=family)
print("\n3  The ELBO of z ~ N(0, 1), y = 10 ~ N(z, 1/4)")
print(f"   log evidence {evidence:.6f}, posterior N(8, 1/5); ± marks what is from 20 000 draws")
for name, params in {"q = N(7, 1)": family.init(position=7.0), "q fitted": fit.params}.items():
    reconstruction, kl, gap, drawn = split(params)
    bound = reconstruction - kl
    print(
        f"   {name:11} reconstruction {reconstruction:.4f}, KL {kl:.4f}, ELBO {bound:.4f}, "
        f"gap {gap:.4f}; reconstruction drawn {drawn.value:.4f} ± {drawn.standard_error:.4f}"
    )
    np.testing.assert_allclose(bound + gap, evidence, rtol=1e-12)
    assert abs(drawn.value - reconstruction) < 4 * drawn.standard_error

# %%
# At q = posterior, log p − log q is the same at every draw: the bound has no error left.

tight = jax.jit(
    lambda params: vi.elbo(
        log_joint, family, params, key, num_samples=100, gradient="sticking_the_landing"
    )
)(fit.params)
print(f"   fitted, entropy without noise: {tight.value:.6f} ± {tight.standard_error:.0e}")
np.testing.assert_allclose(tight.value, evidence, rtol=1e-7)
assert fit.trusted

# %%
# A posterior outside of the family
# ---------------------------------

r = 0.9
factor = np.linalg.cholesky(np.array([[1.0, r], [r, 1.0]]))
normal = vi.full_rank(jnp.zeros(2))
correlated = normal.init(scale=jnp.asarray(factor))
narrow = vi.fit(lambda z: normal.log_prob(correlated, z), jnp.zeros(2), key, family=vi.mean_field)
_, sd = mean_and_sd(narrow.params)
bound = -vi.kl_divergence(narrow.family, narrow.params, normal, correlated)
best = 0.5 * np.log(1 - r**2)
print(f"   a posterior with correlation {r}, outside of the mean-field family: the fit has ELBO")
print(
    f"   {bound:.6f} for log evidence 0, exactly; the best there is has {best:.6f}, all of it "
    "lost to the correlation"
)
assert best - 1e-3 < bound <= best + 1e-12
np.testing.assert_allclose(sd, np.sqrt(1 - r**2), rtol=0.03)

# %%
figure, (left, right) = plot.new_grid(1, 2, size=(9.5, 3.8))
scales = np.geomspace(0.15, 1.3, 60)
for mean in (8.0, 7.5, 7.0):
    wider = jax.vmap(lambda sd, mean=mean: family.init(position=mean, scale=sd))(scales)
    gaps = jax.vmap(lambda q: vi.kl_divergence(family, q, family, posterior))(wider)
    left.plot(scales, evidence - gaps, label=f"mean {mean}")
left.axhline(evidence, color="black", linewidth=1, linestyle=":", label="log evidence")
left.set(xlabel="standard deviation of q", ylabel="ELBO (nats)")
left.set_title("The bound touches the evidence at the posterior alone")
angle = np.linspace(0, 2 * np.pi, 200)
circle = np.stack([np.cos(angle), np.sin(angle)])
right.plot(*(factor @ circle), "k:", label="posterior")
right.plot(*(np.diag(sd) @ circle), label=f"mean-field, ELBO −{-bound:.3f}")
right.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
right.set_title("A mean-field q pays for the correlation")
left.legend()
right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
