"""Ways to posterior draws, ours and those of peers, each started from a seed and asked for more.

A way is made for a target (`_targets.py`), and what it compiles is compiled once; peers are given
the log density of flat vectors. Started from
a seed, it yields all draws so far and how often it has evaluated the density or its gradient, as
often as it is asked; it ends where more effort would not change its answer.
"""

import functools

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.hmc import hmc

from equipoise import vi

WARM_UP, CHUNK = 500, 500  # steps of a chain
SVI_STEPS, PARTICLES = 1000, 8
DRAWS = 8000  # of an approximation


@functools.partial(jax.jit, static_argnums=0)
def _flat(family, positions):
    return jax.vmap(family.ravel)(positions)


def ours(target):
    """A default fit, whose answer is final."""

    def start(seed):
        key, log_density = jax.random.key(seed), target.named or target.log_density
        fit = vi.fit(log_density, target.example, key, support=target.support)
        draws = _flat(fit.family, vi.posterior_draws(fit, jax.random.key(seed + 1), DRAWS))
        said = f"{'trusted' if fit.trusted else 'not trusted'}, {fit.source}, "
        yield draws, fit.evaluations, said

    return start


def _chain(adapt, sample):
    """One chain: its state and steps after warming up, then draws in chunks."""

    def start(seed):
        state, spent = adapt(jax.random.key(seed))
        spent, all_draws, key = int(spent), [], jax.random.key(seed + 1)
        while True:
            key, here = jax.random.split(key)
            state, draws, steps = sample(state, here)
            spent += int(steps)
            all_draws.append(np.asarray(draws))
            yield np.concatenate(all_draws), spent, ""

    return start


def numpyro_nuts(target):
    """NumPyro's NUTS, one chain, every step in a compiled scan."""
    log_density, size = target.log_density, target.size
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

    return _chain(adapt, jax.jit(lambda state, _: steps(state, CHUNK)))  # it has a key of its own


def blackjax_nuts(target):
    """BlackJAX's NUTS after its window adaptation, one chain."""
    log_density, size = target.log_density, target.size
    windows = blackjax.window_adaptation(blackjax.nuts, log_density)

    @jax.jit
    def adapt(key):
        adapted, info = windows.run(key, jnp.zeros(size), WARM_UP)
        return tuple(adapted), jnp.sum(info.info.num_integration_steps)

    @jax.jit
    def sample(adapted, key):
        state, settings = adapted
        kernel = blackjax.nuts(log_density, **settings)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        state, (draws, steps) = jax.lax.scan(step, state, jax.random.split(key, CHUNK))
        return (state, settings), draws, jnp.sum(steps)

    return _chain(adapt, sample)


def blackjax_pathfinder(target):
    """BlackJAX's Pathfinder from more and more places, draws resampled by their weights."""
    log_density, size = target.log_density, target.size

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


def numpyro_svi(target):
    """NumPyro's SVI of a full-rank normal by Adam."""
    log_density, size = target.log_density, target.size
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
