"""Independent NumPy arithmetic of play on batches: every batch listed, every rule written out."""

import itertools

import jax.numpy as jnp
import numpy as np

from equipoise import games

N = 7
_random = np.random.default_rng(0)
_roots = _random.normal(size=(N, 3, 3))
H = np.einsum("nab,ncb->nac", _roots, _roots) * 0.3 + np.eye(3) * 0.2
PULLS = _random.normal(size=(N, 3))
G = PULLS - PULLS.mean(0)
S = _random.normal(size=(N, 2, 1)) * 0.7
DATA = jnp.array(H), jnp.array(S), jnp.array(G)


def descent(batch_size, replacement):
    """One player on random quadratics, with its minimum at 0."""
    return games.sampled(
        lambda x, d: x @ d[0] @ x / 2 + d[2] @ x,
        DATA,
        batch_size=batch_size,
        replacement=replacement,
    ), (jnp.zeros(3),)


def saddle(batch_size, replacement):
    """Two players, of two coordinates and of one, with random coupling."""

    def payoff(x, y, d):
        h, s, g = d
        own = x @ h[:2, :2] @ x / 2 - y @ h[2:, 2:] @ y / 2
        return own + x @ s @ y + g @ jnp.concatenate([x, y])

    game = games.sampled(payoff, DATA, batch_size=batch_size, replacement=replacement)
    return game, (jnp.zeros(2), jnp.zeros(1))


def fields(make):
    """J and F(0) of each row."""
    if make is descent:
        return H, G
    j = np.zeros((N, 3, 3))
    j[:, :2, :2], j[:, :2, 2:] = H[:, :2, :2], S
    j[:, 2:, :2], j[:, 2:, 2:] = -S.transpose(0, 2, 1), H[:, 2:, 2:]
    return j, G * np.array([1, 1, -1])


def step(rule, j, g, eta):
    """Φ and u of one step on a batch with these means."""
    one, zero = np.eye(3), np.zeros((3, 3))
    if rule == "simultaneous":
        return one - eta * j, -eta * g
    if rule == "extragradient":
        return one - eta * j @ (one - eta * j), -eta * (g - eta * j @ g)
    if rule == "momentum":
        return np.block([[one - eta * j, one / 2], [-eta * j, one / 2]]), np.tile(-eta * g, 2)
    if rule == "optimistic":
        return np.block([[one - 2 * eta * j, eta * one], [j, zero]]), np.append(-2 * eta * g, g)
    both = np.eye(4)
    for block in ([0, 1], [2]):
        move = np.eye(4)
        move[block] -= eta * np.column_stack([j, g])[block]
        both = move @ both
    return both[:3, :3], both[:3, 3]


RULES = {
    "simultaneous": games.simultaneous(),
    "momentum": games.momentum(0.5),
    "optimistic": games.optimistic(),
    "extragradient": games.extragradient(),
    "alternating": games.alternating(),
}


BATCHES = [(1, False), (3, False), (2, True)]  # sizes, and whether rows are replaced


def second_moment(make, rule, batch_size, replacement, eta):
    """E[A ⊗ A] over all batches, of the step on the state with a 1 appended; its size."""
    j, g = fields(make)
    rows = range(N)
    if replacement:
        batches = list(itertools.product(rows, repeat=batch_size))
    else:
        batches = list(itertools.combinations(rows, batch_size))
    total = 0
    for batch in map(list, batches):
        phi, u = step(rule, j[batch].mean(0), g[batch].mean(0), eta)
        affine = np.eye(len(u) + 1)
        affine[:-1, :-1], affine[:-1, -1] = phi, u
        total = total + np.kron(affine, affine) / len(batches)
    return total, len(u)


def radius(make, rule, batch_size, replacement, eta):
    """The spectral radius of E[Φ ⊗ Φ]."""
    total, n = second_moment(make, rule, batch_size, replacement, eta)
    kept = [a * (n + 1) + b for a in range(n) for b in range(n)]
    return np.abs(np.linalg.eigvals(total[np.ix_(kept, kept)])).max()


def stationary(make, rule, batch_size, replacement, eta):
    """The covariance and mean that a step leaves as they are."""
    total, n = second_moment(make, rule, batch_size, replacement, eta)
    values, vectors = np.linalg.eig(total)
    fixed = vectors[:, np.abs(values - 1).argmin()]
    moments = (fixed / fixed[-1]).real.reshape(n + 1, n + 1)
    mean = moments[:3, -1]
    return moments[:3, :3] - np.outer(mean, mean), mean
