"""Ways to posterior draws, ours and those of peers, each started from a seed and asked for more.

A way is made for a log density of flat vectors, and what it compiles is compiled once. Started from
a seed, it yields all draws so far and how often it has evaluated the density or its gradient, as
often as it is asked; it ends where more effort would not change its answer.
"""

import contextlib

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.hmc import hmc

from equipoise import vi
from equipoise.vi._target.target import Target

WARM_UP, CHUNK = 500, 500  # steps of a chain
SVI_STEPS, PARTICLES = 1000, 8
DRAWS = 8000  # of an approximation


@contextlib.contextmanager
def counted():
    """Counts points at which a fit asks its log density, each column of a curvature as one."""
    ask, found = Target._ask, [0]

    def counting(self, order, points):
        found[0] += len(points) * (1 + points.shape[1] if order == 2 else 1)
        return ask(self, order, points)

    Target._ask = counting
    try:
        yield found
    finally:
        Target._ask = ask


def ours(log_density, size):
    """A default fit, whose answer is final; stages after the first evaluate by themselves."""

    def start(seed):
        with counted() as evaluations:
            fit = vi.fit(log_density, np.zeros(size), jax.random.key(seed))
        draws = vi.posterior_draws(fit, jax.random.key(seed + 1), DRAWS)
        more = "at least " if len(fit.stages) > 1 else ""
        said = f"{'trusted' if fit.trusted else 'not trusted'}, {fit.source}, {more}"
        yield draws, evaluations[0], said

    return start


def numpyro_nuts(log_density, size):
    """NumPyro's NUTS, one chain, every step in a compiled scan."""
    init, step = hmc(potential_fn=lambda z: -log_density(z), algo="NUTS")

    def steps(state, number):
        def one(state, _):
            state = step(state)
            return state, (state.z, state.num_steps)

        state, (draws, counts) = jax.lax.scan(one, state, length=number)
        return state, draws, jnp.sum(counts)

    @jax.jit
    def adapt(key):
        state, _, spent = steps(init(jnp.zeros(size), WARM_UP, rng_key=key), WARM_UP)
        return state, spent

    sample = jax.jit(lambda state: steps(state, CHUNK))

    def start(seed):
        state, spent = adapt(jax.random.key(seed))
        spent, all_draws = int(spent), []
        while True:
            state, draws, counts = sample(state)
            spent += int(counts)
            all_draws.append(np.asarray(draws))
            yield np.concatenate(all_draws), spent, ""

    return start


def blackjax_nuts(log_density, size):
    """BlackJAX's NUTS after its window adaptation, one chain."""
    windows = blackjax.window_adaptation(blackjax.nuts, log_density)

    @jax.jit
    def adapt(key):
        (state, settings), info = windows.run(key, jnp.zeros(size), WARM_UP)
        return state, settings, jnp.sum(info.info.num_integration_steps)

    @jax.jit
    def sample(state, settings, key):
        kernel = blackjax.nuts(log_density, **settings)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        state, (draws, steps) = jax.lax.scan(step, state, jax.random.split(key, CHUNK))
        return state, draws, jnp.sum(steps)

    def start(seed):
        state, settings, spent = adapt(jax.random.key(seed))
        spent, all_draws, key = int(spent), [], jax.random.key(seed + 1)
        while True:
            key, here = jax.random.split(key)
            state, draws, steps = sample(state, settings, here)
            spent += int(steps)
            all_draws.append(np.asarray(draws))
            yield np.concatenate(all_draws), spent, ""

    return start


def blackjax_pathfinder(log_density, size):
    """BlackJAX's Pathfinder from more and more places, draws resampled by their weights."""

    @jax.jit
    def path(key):
        of_start, of_path, of_draws = jax.random.split(key, 3)
        first = jax.random.uniform(of_start, (size,), minval=-2, maxval=2)
        state, _ = blackjax.vi.pathfinder.approximate(of_path, log_density, first)
        draws, log_q = blackjax.vi.pathfinder.sample(of_draws, state, DRAWS)
        return draws, jax.vmap(log_density)(draws) - log_q

    def start(seed):
        rng, draws, ratios = np.random.default_rng(seed), [], []
        for index in range(10_000):
            found, ratio = path(jax.random.fold_in(jax.random.key(seed), index))
            draws.append(np.asarray(found))
            ratios.append(np.nan_to_num(np.asarray(ratio), nan=-np.inf, posinf=-np.inf))
            together = np.concatenate(ratios)
            weights = np.exp(together - np.max(together, initial=-1e300))
            if not weights.sum() > 0:
                weights = np.ones_like(weights)
            chosen = rng.choice(len(weights), DRAWS, p=weights / weights.sum())
            yield np.concatenate(draws)[chosen], None, f"{index + 1} paths"

    return start


def numpyro_svi(log_density, size):
    """NumPyro's SVI of a full-rank normal by Adam."""
    real = numpyro.distributions.constraints.real_vector

    def model():
        prior = numpyro.distributions.ImproperUniform(real, (), (size,))
        numpyro.factor("target", log_density(numpyro.sample("z", prior)))

    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO(PARTICLES))
    state = svi.init(jax.random.key(0))

    @jax.jit
    def more(state):
        return jax.lax.scan(lambda s, _: svi.update(s), state, length=SVI_STEPS)[0]

    @jax.jit
    def sample(state, key):
        return guide.sample_posterior(key, svi.get_params(state), sample_shape=(DRAWS,))["z"]

    def start(seed):
        now, steps = state._replace(rng_key=jax.random.key(seed)), 0
        while True:
            now, steps = more(now), steps + SVI_STEPS
            yield sample(now, jax.random.key(seed)), steps * PARTICLES, ""

    return start


WAYS = {
    "ours": ours,
    "NumPyro NUTS": numpyro_nuts,
    "BlackJAX NUTS": blackjax_nuts,
    "BlackJAX Pathfinder": blackjax_pathfinder,
    "NumPyro SVI": numpyro_svi,
}
