r"""Linear attention is a recurrent network
=========================================

Replace the exponential of q·k by φ(q)·φ(k) and the sum over the past becomes a state that is
updated once per token:

.. math:: S_i = S_{i-1} + \phi(k_i) v_i^\top, \quad z_i = z_{i-1} + \phi(k_i), \quad
    y_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i}.

**What you will see.** Left, the weights that both forms amount to: positive, causal, and summing to
one, but smoother than those of softmax. Middle, the two forms agree to rounding at every position.
Right, the memory of training: linear in T, where the matrix of weights would grow with T².
"""

# %%
import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention, plot
from equipoise.plot import new_grid

t, h = 48, 8
q, k, v = jax.random.normal(jax.random.key(0), (3, t, 1, h))
forms = {
    form: attention.linear_attention(q, k, v, is_causal=True, form=form, chunk_size=16)
    for form in ("parallel", "recurrent")
}
difference = jnp.abs(forms["parallel"] - forms["recurrent"]).max(axis=(1, 2))

# %%
# Reading the identity instead of the values shows the weights themselves.
identity = jnp.eye(t)[:, None, :]
linear = attention.linear_attention(q, k, identity, is_causal=True)[:, 0]
softmax = attention.dot_product_attention(q, k, identity, is_causal=True)[:, 0]


def entropy(weights):
    return -jnp.sum(weights * jnp.log(jnp.where(weights > 0, weights, 1)), axis=-1)


# %%
# Temporary memory of a training step, from the compiler.
lengths = [512, 1024, 2048, 4096]


def temporary(length):
    x = jax.ShapeDtypeStruct((length, 1, h), jnp.float32)

    def loss(q, k, v):
        return attention.linear_attention(q, k, v, is_causal=True).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


memory = np.array([temporary(length) for length in lengths])

# %%
figure, (left, middle, right) = new_grid(1, 3, size=(13.0, 3.8))
plot.attention_weights(linear, ax=left)
middle.semilogy(jnp.maximum(difference, 1e-9), "o", markersize=4)
middle.axhline(np.finfo(np.float32).eps, color="#888888", linestyle=":")
middle.set(xlabel="position", ylabel="difference of the two forms", ylim=(5e-10, 1e-4))
middle.set_title("Both forms agree to float32 rounding (dotted)", loc="left")
right.loglog(lengths, memory / 2**20, "o-", label="linear attention")
right.loglog(lengths, 4 * np.array(lengths) ** 2 / 2**20, "s:", label="one T × T matrix")
right.set(xlabel="sequence length T", ylabel="memory (MiB)")
right.set_xticks(lengths, lengths)
right.minorticks_off()
right.set_title("Training needs memory linear in T", loc="left")
right.legend()

# %%
# Every claim above.
assert difference.max() < 64 * np.finfo(np.float32).eps
assert np.all(linear >= 0)
assert np.all(np.triu(linear, 1) == 0)
np.testing.assert_allclose(linear.sum(axis=1), 1, rtol=1e-5)
np.testing.assert_allclose(linear @ v[:, 0], forms["recurrent"][:, 0], atol=1e-5)
assert entropy(linear).mean() > entropy(softmax).mean()
assert np.all(memory[1:] < 2.2 * memory[:-1])
