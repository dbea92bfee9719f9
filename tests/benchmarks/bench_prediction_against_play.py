"""The critical learning rate as predicted, and as training finds it, on twelve networks.

Each network is trained in float64 on all of its data until its gradient is rounding: at a rate,
then at a quarter of it; that of Adam goes on to fall, no faster than the second moment that it
divides by. From the point that it has reached, with the state that its optimizer is in, training
goes on by plain optax at a constant rate, pushed once by 1e-10 in a random direction. It *leaves*
where in the last ten of 300 steps it is ever farther than ten pushes from that point. Adam has 40
steps: in 300 it would forget a quarter of the second moment that the prediction holds. The first
rate that leaves is found among rates from half to twice the predicted one, to 0.2 %. Run with
``--save`` for the docs.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from equipoise import attention, games
from tests.benchmarks._report import Row, save

# The optimizer at rate 1 with a memory, the rate at which it begins, how much that falls a step in
# the end, and for how many steps play is watched.
OPTIMIZERS = {
    "SGD": (lambda beta: optax.sgd(1.0), 0.2, 1.0, 300),
    "momentum": (lambda beta: optax.sgd(1.0, momentum=beta), 0.1, 1.0, 300),
    "Adam": (lambda beta: optax.adam(1.0, b1=beta), 0.02, 0.9995, 40),
}
PUSH, MOST_STEPS = 1e-10, 400_000


def decayed(decay, params):
    return decay / 2 * optax.tree.norm(params, squared=True)


def layers(sizes, random):
    return [
        {"w": jnp.asarray(random.normal(size=(a, b)) / np.sqrt(a)), "b": jnp.zeros((1, b))}
        for a, b in itertools.pairwise(sizes)
    ]


def applied(params, activation, x):
    for layer in params[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def perceptron(sizes, activation, error, decay=0.01, rows=32):
    """Parameters, and the loss of one player."""
    random = np.random.default_rng(0)
    params = layers(sizes, random)
    inputs = jnp.asarray(random.normal(size=(rows, sizes[0])))

    def loss(params):
        return error(applied(params, activation, inputs), inputs) + decayed(decay, params)

    return (params,), loss


def squares(out, x):
    return jnp.mean((out[:, 0] - jnp.sin(2 * x[:, 0])) ** 2)


def huber(out, x):
    return jnp.mean(optax.huber_loss(out[:, 0], jnp.sin(2 * x[:, 0]) + x[:, -1], delta=0.5))


def classes(out, x):
    labels = jnp.argmax(x[:, :3], axis=1)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, labels))


def logistic(out, x):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(out[:, 0], x[:, 0] * x[:, 1] > 0))


def transformer(decay=0.02):
    """One block that reads the next of six letters, held near its start as in fine-tuning."""
    random = np.random.default_rng(1)
    letters = jnp.asarray(random.integers(0, 6, size=(4, 7)))
    shapes = {"embed": (6, 6), "place": (6, 6), "qkv": (6, 18), "up": (6, 8), "down": (8, 6)}
    begun = {k: jnp.asarray(random.normal(size=s) / np.sqrt(s[0])) for k, s in shapes.items()}

    def loss(params):
        x = params["embed"][letters[:, :-1]] + params["place"][None]
        query, key, value = (
            part.reshape(4, 6, 2, 3) for part in jnp.split(x @ params["qkv"], 3, axis=-1)
        )
        mixed = attention.dot_product_attention(query, key, value, is_causal=True)
        x = x + mixed.reshape(x.shape)
        x = x + jax.nn.gelu(x @ params["up"]) @ params["down"]
        logits = x @ params["embed"].T
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, letters[:, 1:])
        change = jax.tree.map(jnp.subtract, params, begun)
        return jnp.mean(errors) + decayed(decay, change)

    return (begun,), loss


def adversaries():
    """A generator that moves draws against a discriminator, and the payoff of the first."""
    random = np.random.default_rng(2)
    players = layers((1, 4, 1), random), layers((1, 6, 1), random)
    draws = jnp.asarray(random.normal(size=(32, 1)))
    data = 0.5 + 0.5 * jnp.asarray(random.normal(size=(32, 1)))

    def payoff(made, judge):
        fake = draws + 0.5 * applied(made, jnp.tanh, draws)
        right = applied(judge, jnp.tanh, data), -applied(judge, jnp.tanh, fake)
        gained = sum(jnp.mean(jax.nn.log_sigmoid(score)) for score in right)
        return gained + decayed(0.1, made) - decayed(0.03, judge)

    return players, payoff


# How much faster than others it is trained: its loss is that much flatter.
NETWORKS = {
    "1-8-1, tanh, squares": (1.0, lambda: perceptron((1, 8, 1), jnp.tanh, squares)),
    "1-32-1, tanh, squares": (0.5, lambda: perceptron((1, 32, 1), jnp.tanh, squares)),
    "4-16-1, relu, squares of 12, no decay": (
        1.0,
        lambda: perceptron((4, 16, 1), jax.nn.relu, squares, 0.0, 12),
    ),
    "3-8-8-1, gelu, squares": (1.0, lambda: perceptron((3, 8, 8, 1), jax.nn.gelu, squares)),
    "3-8-8-8-1, silu, squares": (1.0, lambda: perceptron((3, 8, 8, 8, 1), jax.nn.silu, squares)),
    "4-24-1, softplus, Huber": (1.0, lambda: perceptron((4, 24, 1), jax.nn.softplus, huber)),
    "4-12-3, tanh, cross-entropy": (5.0, lambda: perceptron((4, 12, 3), jnp.tanh, classes)),
    "6-20-3, gelu, cross-entropy": (5.0, lambda: perceptron((6, 20, 3), jax.nn.gelu, classes)),
    "4-8-8-3, sigmoid, cross-entropy": (
        5.0,
        lambda: perceptron((4, 8, 8, 3), jax.nn.sigmoid, classes),
    ),
    "4-16-1, elu, logistic": (5.0, lambda: perceptron((4, 16, 1), jax.nn.elu, logistic)),
    "transformer, cross-entropy": (3.0, transformer),
    "GAN of 1-4-1 and 1-6-1, β = 0.5": (1.0, adversaries),
}


def moved(optimizer, gradients, players, states, rate):
    """One step of all players at once."""
    pairs = [optimizer.update(*triple) for triple in zip(gradients, states, players, strict=True)]
    after = [
        jax.tree.map(lambda x, u: x + rate * u, x, u)
        for x, (u, _) in zip(players, pairs, strict=True)
    ]
    return tuple(after), tuple(state for _, state in pairs)


def trained(field, optimizer, players, rate, fall):
    """Where training arrives, its states, the gradient there, and the number of steps."""

    def unfinished(carry):
        return (carry[2] > 1e-13) & (carry[3] < MOST_STEPS)

    def step(carry):
        players, states, _, k = carry
        gradients = field(players)
        now = rate * jnp.where(k < 2000, 1.0, 0.25) * fall ** jnp.maximum(k - 2000, 0)
        moves = moved(optimizer, gradients, players, states, now)
        return *moves, optax.tree.norm(gradients), k + 1

    start = players, tuple(optimizer.init(x) for x in players), jnp.inf, 0
    return jax.lax.while_loop(unfinished, step, start)


def first_that_leaves(leaves, predicted):
    """The first rate that leaves, over the predicted one: a grid, and one in its interval."""
    low, high = 0.5, 2.0
    for _ in range(2):
        ratios = np.geomspace(low, high, 27)
        left = np.asarray(leaves(ratios * predicted))
        k = int(np.argmax(left))
        if k == 0:
            return np.nan
        low, high = ratios[k - 1], ratios[k]
    return np.sqrt(low * high)


def measured(name, kind):
    """The gradient that is left after training, the predicted rate, and that of play over it."""
    speed, make = NETWORKS[name]
    players, payoff = make()
    new, rate, fall, num_steps = OPTIMIZERS[kind]
    # Play of two that remembers more goes round and round.
    optimizer = new(0.9 if len(players) == 1 else 0.5)
    make_game = games.general_sum if len(players) == 1 else games.zero_sum
    game = make_game(payoff)
    field = lambda players: games.vector_field(game, players)  # noqa: E731
    rate = rate * (1.0 if kind == "Adam" else speed)
    here, states, left, _ = jax.jit(lambda x: trained(field, optimizer, x, rate, fall))(players)
    if len(players) == 1:
        found = games.critical_learning_rate(payoff, *here, optimizer, optimizer_state=states[0])
        predicted = float(found.learning_rate)
    else:
        rule = games.from_optax(optimizer, state=states)
        found = games.critical_step_size(game, rule, here, max_step_size=100 * rate)
        predicted = float(found.attracted_step_size)
    flat, unravel = ravel_pytree(here)
    push = np.random.default_rng(3).normal(size=flat.size)
    start = unravel(flat + PUSH * push / np.linalg.norm(push))

    @jax.jit
    @jax.vmap
    def leaves(rate):
        def step(carry, _):
            carry = moved(optimizer, field(carry[0]), *carry, rate)
            gap = jax.tree.map(jnp.subtract, carry[0], here)
            return carry, optax.tree.norm(gap)

        _, distances = jax.lax.scan(step, (start, states), length=num_steps)
        return ~(jnp.max(distances[-10:]) <= 10 * PUSH)

    return float(left), predicted, first_that_leaves(leaves, predicted)


def main():
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in NETWORKS:
        for kind in OPTIMIZERS:
            left, predicted, ratio = measured(name, kind)
            note = f"predicted {predicted:.4g}; gradient {left:.0e}"
            print(f"{name}, {kind}: {note}; play over it {ratio:.3f}", flush=True)
            rows.append(Row(name, kind, None, ours=True, ratio=ratio, note=note))
    save("prediction", rows)


if __name__ == "__main__":
    main()
