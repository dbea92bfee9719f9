"""Seconds to a right posterior, and steps a second, against NumPyro and BlackJAX.

Run ``python -m tests.benchmarks.bench_vi [--save] [--quick] [NAME ...]`` from the repository root
on a quiet machine, with the reference posteriors beside it or their folder in
``EQUIPOISE_REFERENCE``; a name is a part of a target's. Targets are those posteriors and the hard
ones of the tests, in float64. A way to draws is right when every mean is within a quarter of an sd
and every sd within a tenth, for each of two seeds. The seconds are the mean of both seeds,
compiled, and without the checks; a way that is not right in ``LIMIT`` seconds is given up.
``--quick`` allows one seed and five seconds.
"""

import functools
import statistics
import sys
import time
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from equipoise import vi
from tests.benchmarks import _report
from tests.benchmarks._samplers import WAYS
from tests.benchmarks._targets import targets

STEPS, PARTICLES, REPEATS = 10_000, 8, 5
SEEDS, LIMIT = (0, 1), 60.0
QUICK_SEEDS, QUICK_LIMIT = (0,), 5.0
FLAGS = "--save", "--quick"


def timed(run):
    """What was found, and the seconds of the first call, which compiles, and of the others."""
    start = time.perf_counter()
    value = jax.block_until_ready(run(0))
    first = time.perf_counter() - start
    times = []
    for repeat in range(1, REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(repeat))
        times.append(time.perf_counter() - start)
    return value, first, times


def numpyro_svi(log_density, size):
    """SVI with a mean-field guide, as its users run it."""

    def model():
        z = numpyro.sample("z", numpyro.distributions.ImproperUniform(
            numpyro.distributions.constraints.real_vector, (), (size,)))  # fmt: skip
        numpyro.factor("target", log_density(z))

    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO(PARTICLES))

    def run(seed, steps=STEPS):
        result = svi.run(jax.random.key(seed), steps, progress_bar=False)
        params = result.params
        return params["z_auto_loc"], params["z_auto_scale"], result.losses

    return run


def blackjax_scan(log_density, size):
    """Mean-field VI, every step in one compiled scan."""
    method = blackjax.meanfield_vi(log_density, optax.adam(0.01), PARTICLES)

    @functools.partial(jax.jit, static_argnames="steps")
    def scan(key, steps):
        state = method.init(jnp.zeros(size))
        return jax.lax.scan(
            lambda state, k: (method.step(k, state)[0], None), state, jax.random.split(key, steps)
        )[0]

    def run(seed, steps=STEPS):
        state = scan(jax.random.key(seed), steps)
        return state.mu, jnp.exp(state.rho), None

    return run


def ours(log_density, size):
    """The plain Adam loop of fit, closed-form entropy, without its start and its verdict."""
    from equipoise.vi._steps.gradient import fit_gradient, plan
    from equipoise.vi._target.target import trace

    family = vi.mean_field(jnp.zeros(size))
    optimizer = optax.adam(0.01)
    target = trace(log_density, family)
    settings = plan(family, optimizer, PARTICLES, "closed_form_entropy", "iid")

    def run(seed, steps=STEPS):
        key, params = jax.random.key(seed), family.init()
        found = fit_gradient(target, family, optimizer, settings, key, params, steps, None)
        return found.params["mean"], jnp.exp(found.params["log_scale"]), found.state.history

    return run


def steps_a_second():
    """The plain loop on a well-scaled normal, after a look at the results."""
    size = 5
    rates, rows = {}, []
    title = f"{STEPS:,} steps of Adam on a mean-field normal, {PARTICLES} draws per step"
    for name, make in (("ours", ours), ("numpyro", numpyro_svi), ("blackjax", blackjax_scan)):
        run = make(lambda z: -0.5 * jnp.sum((z - 1) ** 2 / jnp.arange(1.0, 6.0)), size)
        (mean, scale, _), first, times = timed(run)
        np.testing.assert_allclose(mean, 1.0, atol=0.3)
        np.testing.assert_allclose(scale, jnp.arange(1.0, 6.0) ** 0.5, rtol=0.2)
        found = _report.of(times)
        rates[name] = STEPS / found["seconds"]
        note = f"{rates[name]:,.0f} steps a second"
        row = _report.Row(title, name, first_seconds=first, ours=name == "ours", note=note, **found)
        rows.append(row)
        print(f"{name:9} {note}, first call {first:.2f} s")
    for peer in ("numpyro", "blackjax"):
        print(f"  {rates['ours'] / rates[peer]:.2f} times {peer}")
    return rows


class Arrival(NamedTuple):
    """How a way went: seconds until it was right or ended, the error there, and what it says."""

    seconds: float
    error: float
    evaluations: int | None
    said: str


def followed(way, target, seed, limit):
    """A way asked for more until it is right, ends, or is out of time."""
    seconds, asked = 0.0, way(seed)
    while True:
        start = time.perf_counter()
        found = next(asked, None)
        if found is None:
            return arrival
        draws, evaluations, said = jax.block_until_ready(found)
        seconds += time.perf_counter() - start
        arrival = Arrival(seconds, target.error(draws), evaluations, said)
        if arrival.error < 1 or seconds > limit:
            return arrival


def time_until_it_is_right(name, target, seeds, limit):
    """A row for each way to draws of one target."""
    rows = []
    for who, make in WAYS.items():
        way = make(target)
        start = time.perf_counter()
        jax.block_until_ready(next(way(seeds[0]))[0])  # which compiles
        first = time.perf_counter() - start
        for seed in seeds[1:]:
            next(way(seed))  # which may go on to other stages
        found = [followed(way, target, seed, limit) for seed in seeds]
        worst = max(one.error for one in found)
        seconds = statistics.mean(one.seconds for one in found)
        spent = [one.evaluations for one in found if one.evaluations is not None]
        counts = f"{statistics.mean(spent):,.0f} evaluations" if spent else ""
        verdict = "" if worst < 1 else f"error {worst:.2g} of what is allowed, "
        note = f"{verdict}{found[-1].said}{counts}"
        print(f"{name:50} {who:20} {seconds:8.3f} s  {note}, first {first:.2f} s", flush=True)
        arrived = seconds if worst < 1 else None
        title = f"{name}, {target.size} coordinates: until means and sds are right"
        row = _report.Row(title, who, arrived, ours=who == "ours", note=note)
        rows.append(row._replace(first_seconds=first))
    return rows


def main():
    """All rows, kept after each target."""
    words = [word for word in sys.argv[1:] if word not in FLAGS]
    seeds, limit = (QUICK_SEEDS, QUICK_LIMIT) if "--quick" in sys.argv else (SEEDS, LIMIT)
    rows = [] if words else steps_a_second()
    with jax.enable_x64(True):
        for name, target in targets(words):
            rows += time_until_it_is_right(name, target, seeds, limit)
            jax.clear_caches()
            _report.save("vi", rows)


if __name__ == "__main__":
    main()
