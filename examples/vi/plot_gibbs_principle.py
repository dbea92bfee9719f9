r"""Attention's log-sum-exp is an ELBO
==================================

Softmax attention and variational inference solve one problem. For any scores :math:`s`,

.. math::

    \log \sum_i e^{s_i} = \max_p \Bigl( \sum_i p_i s_i + H(p) \Bigr),
    \qquad \text{attained at } p = \operatorname{softmax}(s).

The right-hand side is the ELBO of a latent variable with finitely many values, whose log joint is
:math:`s`. You will see the balance for three keys: at every temperature, expected score and
entropy trade places, and their sum peaks at the softmax, where it equals the log-sum-exp that
attention divides by. At the peak every single draw gives the bound exactly.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from equipoise import vi
from equipoise.plot._style import COLORS, new_grid, styled

# %%
# Distributions around the softmax
# --------------------------------
# The path p(β) = softmax(β s) runs from the uniform distribution to the one that picks the best
# key. Its balance of score and entropy is an ELBO, which we compute exactly and by drawing.
scores = jnp.array([0.0, 1.0, 2.5])
family = vi.categorical(3)
sharpness = jnp.linspace(0.0, 3.0, 61)


def balance(beta):
    params = {"logits": beta * scores}
    expected_score = jax.nn.softmax(params["logits"]) @ scores
    return expected_score, family.entropy(params)


@jax.jit
def drawn(beta, key):
    return vi.elbo(
        lambda i: scores[i],
        family,
        {"logits": beta * scores},
        key,
        num_samples=64,
        gradient="score_function",
    )


expected_score, entropy = jax.vmap(balance)(sharpness)
bounds = jax.vmap(drawn)(sharpness, jax.random.split(jax.random.key(0), sharpness.size))
log_sum_exp = jax.nn.logsumexp(scores)

figure, (left, right) = new_grid(1, 2, size=(10, 4))
with styled():
    left.plot(sharpness, expected_score, color=COLORS[0], label="expected score Σ p s")
    left.plot(sharpness, entropy, "--", color=COLORS[1], label="entropy H(p)")
    left.plot(sharpness, expected_score + entropy, color=COLORS[2], label="their sum, the ELBO")
    left.axhline(log_sum_exp, color="black", lw=1, ls=":", label="log Σ exp s")
    left.axvline(1.0, color="#808080", lw=1)
    left.set(
        xlabel="sharpness β of softmax(β s)", ylabel="nats", title="The balance peaks at β = 1"
    )
    left.legend()
    error = 2 * bounds.standard_error
    right.fill_between(
        sharpness, bounds.value - error, bounds.value + error, color=COLORS[5], alpha=0.5
    )
    right.plot(sharpness, bounds.value, color=COLORS[0], label="64 draws ± 2 standard errors")
    right.axhline(log_sum_exp, color="black", lw=1, ls=":")
    right.set(
        xlabel="sharpness β", ylabel="ELBO (nats)", title="At the softmax draws agree exactly"
    )
    right.legend(loc="lower right")
plt.show()

# %%
# What was claimed
# ----------------
total = np.asarray(expected_score + entropy)
peak = int(np.argmax(total))
np.testing.assert_allclose(sharpness[peak], 1.0, atol=1e-6)
np.testing.assert_allclose(total[peak], log_sum_exp, rtol=1e-6)
assert np.all(total <= log_sum_exp + 1e-6)
# Score and entropy trade places.
assert np.all(np.diff(expected_score) > 0)
assert np.all(np.diff(entropy) < 0)
# At the peak the draws have no error; elsewhere they do.
assert bounds.standard_error[peak] < 1e-6
assert bounds.standard_error[0] > 0.05
np.testing.assert_allclose(bounds.value[peak], log_sum_exp, rtol=1e-6)
