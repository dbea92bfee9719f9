r"""A Hessian-vector product at long context, in linear memory
============================================================

Second derivatives of attention have blockwise forms as the first have: every row statistic is a
number. So a curvature vector,

.. math:: H u = \frac{d}{d\epsilon} \nabla L(x + \epsilon u) \Big|_{\epsilon = 0},

needs no T × T matrix either, by forward-over-reverse differentiation of
:func:`equipoise.attention.dot_product_attention`.

**What you will see.** Left, temporary memory of value, gradient and Hessian-vector product against
T, as the compiler counts it: each grows in proportion to T, while that of
:func:`jax.nn.dot_product_attention` grows as T² and is more than a hundred times ours at 32768
tokens. Right, the product agrees with a finite difference of gradients down to its rounding.
"""

# %%
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention, plot

lengths = [512, 2048, 8192, 32768]
shape = (1, 1, 16)


def loss(attend, x):
    return jnp.sum(jnp.sin(attend(x, x, x, is_causal=True)))


def hessian_vector_product(attend, x, u):
    return jax.jvp(jax.grad(lambda x: loss(attend, x)), (x,), (u,))[1]


def ours(*args, **options):
    return attention.dot_product_attention(*args, **options, block_size=128)


programs = {
    "value": lambda x: loss(ours, x),
    "gradient": jax.grad(lambda x: loss(ours, x)),
    "Hessian-vector product": lambda x: hessian_vector_product(ours, x, x),
    "jax.nn, Hessian-vector product": lambda x: hessian_vector_product(
        jax.nn.dot_product_attention, x, x
    ),
}


def temporary(name, length):
    x = jax.ShapeDtypeStruct((1, length, *shape[1:]), jnp.float32)
    return jax.jit(programs[name]).lower(x).compile().memory_analysis().temp_size_in_bytes


with ThreadPoolExecutor() as pool:  # they compile side by side
    memory = {name: list(pool.map(temporary, [name] * len(lengths), lengths)) for name in programs}

# %%
# Against finite differences of the gradient, at steps where truncation and rounding trade places.
x, u = jax.random.normal(jax.random.key(0), (2, 1, 256, *shape[1:]))
exact = jax.jit(lambda x, u: hessian_vector_product(ours, x, u))(x, u)
gradient = jax.jit(jax.grad(lambda x: loss(ours, x)))
steps = 10.0 ** np.arange(-4, 0.1, 0.5)
errors = [
    float(
        jnp.linalg.norm((gradient(x + e * u) - gradient(x - e * u)) / (2 * e) - exact)
        / jnp.linalg.norm(exact)
    )
    for e in steps
]

# %%
figure, (left, right) = plot.new_grid(1, 2, size=(8.2, 3.6))
plot.attention_costs(lengths, memory, {}, ax=(left, right))
curvature = "Hessian-vector product"
times = memory[f"jax.nn, {curvature}"][-1] / memory[curvature][-1]
with plot.styled():
    left.set_title(f"{times:.0f} times less memory at T = {lengths[-1]}")
    left.legend(loc="upper left")
    right.clear()
    right.loglog(steps, errors, "o-")
    right.set(xlabel="step ε", ylabel="relative difference to the exact product")
    right.set_title("Finite differences agree down to rounding")

# %%
# Every claim above.
for name, values in memory.items():
    growth = np.array(values[1:]) / values[:-1]
    assert np.all(growth > 14) if name.startswith("jax.nn") else np.all(growth < 4.2), name
assert times > 100
assert min(errors) < 2e-3
assert errors[0] > min(errors)
assert errors[-1] > min(errors)
