"""The critical learning rate as predicted, and as play finds it, on twelve networks.

Each network is trained for 300 steps; from there two runs of full-batch training start that differ
by 1e-7 along the predicted direction. A learning rate leaves where they are farther apart along it
in the last ten of 60 steps than in the last ten of 30, and at least 1e-10; the first that does is
found among rates from a quarter to four times the predicted one, to 0.5 %. *Pinned* play subtracts
the gradient of the reached point, so that it is at rest there, and holds Adam's second moment and
step count; *free* play is training as it is. The game's play starts at 1e-6 from its
equilibrium, and it is the distance that shrinks or grows. Run with ``--save`` for the docs.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import attention, games
from tests.benchmarks._report import Row, save

OPTIMIZERS = {
    "SGD": (optax.sgd(1.0), 0.03),
    "momentum": (optax.sgd(1.0, momentum=0.9), 0.005),
    "Adam": (optax.adam(1.0), 0.003),
}
STEPS, APART = 60, 1e-7


def perceptron(sizes, activation, error):
    """Parameters, and their loss on 32 inputs."""
    random = np.random.default_rng(0)
    params = [
        {"w": jnp.asarray(random.normal(size=(a, b)) / np.sqrt(a)), "b": jnp.zeros((1, b))}
        for a, b in itertools.pairwise(sizes)
    ]
    inputs = jnp.asarray(random.normal(size=(32, sizes[0])))

    def loss(params):
        x = inputs
        for layer in params[:-1]:
            x = activation(x @ layer["w"] + layer["b"])
        return error(x @ params[-1]["w"] + params[-1]["b"], inputs)

    return params, loss


def squares(out, x):
    return jnp.mean((out[:, 0] - jnp.sin(2 * x[:, 0])) ** 2)


def huber(out, x):
    return jnp.mean(optax.huber_loss(out[:, 0], jnp.sin(2 * x[:, 0]) + x[:, -1], delta=0.5))


def classes(out, x):
    labels = jnp.argmax(x[:, :3], axis=1)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, labels))


def logistic(out, x):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(out[:, 0], x[:, 0] * x[:, 1] > 0))


def transformer():
    """One block that reads the next of eight letters."""
    random = np.random.default_rng(1)
    letters = jnp.asarray(random.integers(0, 8, size=(8, 9)))
    shapes = {"embed": (8, 8), "place": (8, 8), "qkv": (8, 24), "up": (8, 16), "down": (16, 8)}
    params = {k: jnp.asarray(random.normal(size=s) / np.sqrt(s[0])) for k, s in shapes.items()}

    def loss(params):
        x = params["embed"][letters[:, :-1]] + params["place"][None]
        query, key, value = (
            part.reshape(8, 8, 2, 4) for part in jnp.split(x @ params["qkv"], 3, axis=-1)
        )
        mixed = attention.dot_product_attention(query, key, value, is_causal=True)
        x = x + mixed.reshape(x.shape)
        x = x + jax.nn.gelu(x @ params["up"]) @ params["down"]
        logits = x @ params["embed"].T
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, letters[:, 1:]))

    return params, loss


NETWORKS = {
    "1-8-1, tanh, squares": lambda: perceptron((1, 8, 1), jnp.tanh, squares),
    "1-64-1, tanh, squares": lambda: perceptron((1, 64, 1), jnp.tanh, squares),
    "4-16-1, relu, squares": lambda: perceptron((4, 16, 1), jax.nn.relu, squares),
    "4-16-16-1, gelu, squares": lambda: perceptron((4, 16, 16, 1), jax.nn.gelu, squares),
    "4-12-12-12-1, silu, squares": lambda: perceptron((4, 12, 12, 12, 1), jax.nn.silu, squares),
    "4-24-1, softplus, Huber": lambda: perceptron((4, 24, 1), jax.nn.softplus, huber),
    "4-16-3, tanh, cross-entropy": lambda: perceptron((4, 16, 3), jnp.tanh, classes),
    "6-32-3, gelu, cross-entropy": lambda: perceptron((6, 32, 3), jax.nn.gelu, classes),
    "4-12-12-3, elu, cross-entropy": lambda: perceptron((4, 12, 12, 3), jax.nn.elu, classes),
    "4-16-1, silu, logistic": lambda: perceptron((4, 16, 1), jax.nn.silu, logistic),
    "transformer, cross-entropy": transformer,
}


def updated(optimizer, rate, gradient, params, state):
    updates, state = optimizer.update(gradient, state, params)
    return jax.tree.map(lambda x, u: x + rate * u, params, updates), state


def held(state, slow):
    """The state with the second moment and the step count of the other."""

    def taken(part, old):
        return part._replace(nu=old.nu, count=old.count) if hasattr(part, "nu") else part

    return jax.tree.map(taken, state, slow, is_leaf=lambda part: hasattr(part, "nu"))


def first_that_leaves(leaves, predicted):
    """The first rate that leaves, over the predicted one: a grid, and one in its interval."""
    low, high = 0.25, 4.0
    for _ in range(2):
        ratios = np.geomspace(low, high, 33)
        left = np.asarray(leaves(jnp.asarray(ratios) * predicted))
        k = int(np.argmax(left))
        if k == 0:
            return np.nan
        low, high = ratios[k - 1], ratios[k]
    return np.sqrt(low * high)


def network(name, optimizer, rate):
    """What is predicted after training, and the ratios to it of pinned and of free play."""
    params, loss = NETWORKS[name]()

    @jax.jit
    def trained(params):
        def step(carry, _):
            return updated(optimizer, rate, jax.grad(loss)(carry[0]), *carry), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=300)[0]

    here, state = trained(params)
    found = games.critical_learning_rate(
        loss, here, optimizer, optimizer_state=state, method="matrix_free", tolerance=1e-8
    )
    along = found.direction
    drift = jax.grad(loss)(here)
    # Away from the gradient of the reached point its average is 0 too.
    rest = held(jax.tree.map(jnp.zeros_like, state), state)

    @jax.jit
    def leaves(rates, pinned):
        def one(rate):
            def move(x, memory):
                gradient = jax.tree.map(lambda g, d: g - pinned * d, jax.grad(loss)(x), drift)
                x, memory = updated(optimizer, rate, gradient, x, memory)
                pick = lambda a, b: jnp.where(pinned, a, b)  # noqa: E731
                return x, jax.tree.map(pick, held(memory, state), memory)

            def step(runs, _):
                runs = jax.vmap(move)(*runs)
                parts = jax.tree.map(lambda x, v: jnp.vdot(x[1] - x[0], v), runs[0], along)
                return runs, jnp.abs(sum(jax.tree.leaves(parts)))

            both = jax.tree.map(lambda x, v: jnp.stack([x, x + APART * v]), here, along)
            start = jax.tree.map(lambda r, s: jnp.stack(2 * [jnp.where(pinned, r, s)]), rest, state)
            _, apart = jax.lax.scan(step, (both, start), length=STEPS)
            # Of the last ten steps, as a pair of eigenvalues turns; and above rounding.
            late, early = jnp.max(apart[-10:]), jnp.max(apart[STEPS // 2 - 10 : STEPS // 2])
            return ~(late <= jnp.maximum(early, 1e-3 * APART))

        return jax.vmap(one)(rates)

    predicted = float(found.learning_rate)
    ratios = [first_that_leaves(lambda r: leaves(r, p), predicted) for p in (True, False)]  # noqa: B023
    return predicted, *ratios


def adversaries(optimizer):
    """The same of a generator of normal draws against a discriminator of two features."""
    draws = jnp.asarray(np.random.default_rng(2).normal(size=64))
    data = 1.0 + 0.5 * jnp.asarray(np.random.default_rng(3).normal(size=64))

    def payoff(made, judge):
        def score(x):
            hidden = jnp.tanh(x[:, None] * jnp.asarray([[1.0, -0.5]]) + jnp.asarray([[0.0, 1.0]]))
            return hidden @ judge

        fake = made[0] + made[1] * draws
        gained = jnp.mean(jax.nn.log_sigmoid(score(data)) + jax.nn.log_sigmoid(-score(fake)))
        return gained - 0.2 * jnp.sum(judge**2) + 0.05 * jnp.sum(made**2)

    game = games.zero_sum(payoff)
    best = games.find_equilibrium(game, (jnp.asarray([1.0, 0.5]), jnp.zeros(2))).players
    rule = games.from_optax(optimizer, optimizer)
    lost = games.critical_step_size(game, rule, best, max_step_size=1e3)
    start = tuple(b + 1e-6 * d for b, d in zip(best, jnp.eye(2), strict=True))

    @jax.jit
    def leaves(rates):
        def one(rate):
            path = games.simulate(game, rule, start, step_size=rate, num_steps=400)
            gaps = [p - b[None] for p, b in zip(path, best, strict=True)]
            sizes = jnp.sqrt(sum(jnp.sum(g**2, axis=1) for g in gaps))
            late, early = jnp.max(sizes[-50:]), jnp.max(sizes[150:200])
            return ~(late <= jnp.maximum(early, 1e-9))

        return jax.vmap(one)(rates)

    predicted = float(lost.attracted_step_size)
    ratio = first_that_leaves(leaves, predicted)
    return predicted, ratio, ratio


def main():
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in (*NETWORKS, "GAN, at its equilibrium"):
        for kind, (optimizer, rate) in OPTIMIZERS.items():
            if name in NETWORKS:
                predicted, pinned, free = network(name, optimizer, rate)
            else:
                # At rest the second moment is 0: ε alone divides.
                at_rest = optax.adam(1.0, eps=0.1) if kind == "Adam" else optimizer
                predicted, pinned, free = adversaries(at_rest)
            note = f"predicted {predicted:.4g}; play over it {pinned:.3f} pinned, {free:.3f} free"
            print(f"{name}, {kind}: {note}", flush=True)
            rows.append(Row(name, kind, None, ours=True, note=note))
    save("prediction", rows)


if __name__ == "__main__":
    main()
