"""Speed of variational fits against NumPyro and BlackJAX, results compared first.

Run ``python -m tests.benchmarks.bench_vi [--save]`` from the repository root on a quiet machine,
with the reference posteriors beside it or their folder in ``EQUIPOISE_REFERENCE``.
"""

import functools
import statistics
import time

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
from tests.vi.fit.test_posteriors import reference

STEPS, PARTICLES, REPEATS = 10_000, 8, 5
LIMIT = 60.0
FIVE = (
    "eight_schools-eight_schools_noncentered",
    "nes1980-nes",
    "kidiq_with_mom_work-kidscore_interaction_z",
    "mesquite-logmesquite_logvas",
    "garch-garch11",
)


def timed(run):
    """First call, which compiles, and the median and spread of the others, in seconds."""
    start = time.perf_counter()
    value = jax.block_until_ready(run(0))
    first = time.perf_counter() - start
    times = []
    for repeat in range(1, REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(repeat))
        times.append(time.perf_counter() - start)
    return value, first, statistics.median(times), max(times) - min(times)


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
    from equipoise.vi._fit.gradient import fit_gradient, plan
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


def error(posterior, draws):
    """Largest error of a mean and of an sd, as parts of what passes."""
    values = np.asarray(jax.vmap(posterior["constrain"])(draws))
    mean = np.max(np.abs(values.mean(0) - posterior["mean"]) / posterior["sd"]) / 0.25
    return max(mean, np.max(np.abs(values.std(0) / posterior["sd"] - 1)) / 0.1)


def steps_a_second():
    """The plain loop on a well-scaled posterior, after a look at the results."""
    posterior = reference().build(FIVE[2])
    rates, rows = {}, []
    title = f"{STEPS:,} steps of Adam on a mean-field normal, {PARTICLES} draws per step"
    for name, make in (("ours", ours), ("numpyro", numpyro_svi), ("blackjax", blackjax_scan)):
        run = make(lambda z: -0.5 * jnp.sum((z - 1) ** 2 / jnp.arange(1.0, 6.0)), posterior["dim"])
        (mean, scale, _), first, median, spread = timed(run)
        np.testing.assert_allclose(mean, 1.0, atol=0.3)
        np.testing.assert_allclose(scale, jnp.arange(1.0, 6.0) ** 0.5, rtol=0.2)
        rates[name] = STEPS / median
        rows.append(
            _report.Row(
                title,
                name,
                median,
                ours=name == "ours",
                spread=spread,
                note=f"{rates[name]:,.0f} steps a second, first call {first:.2f} s",
            )
        )
        print(
            f"{name:9} {rates[name]:9.0f} steps/s, first call {first:.2f} s, spread {spread:.3f} s"
        )
    for peer in ("numpyro", "blackjax"):
        print(f"  {rates['ours'] / rates[peer]:.2f} times {peer}")
    return rows


def time_until_it_passes(name):
    """Seconds until the posterior passes, of a first call and of a second."""
    posterior = reference().build(name)
    log_density, size = posterior["logp"], posterior["dim"]
    title, rows = f"{name}: until means and sds are right", []
    for call in ("first", "second"):
        start = time.perf_counter()
        fit = vi.fit(log_density, jnp.zeros(size), jax.random.key(0))
        draws = jax.block_until_ready(vi.posterior_draws(fit, jax.random.key(1), 8000))
        seconds = time.perf_counter() - start
        worst = error(posterior, draws)
        print(f"{name:42} ours {call:6} {seconds:7.2f} s  error {worst:.2f}  trusted {fit.trusted}")
        passes = "passes" if worst < 1 else "does not pass"
        note = f"{passes}, {'trusted' if fit.trusted else 'not trusted'}"
        rows.append(_report.Row(title, f"ours, {call} call", seconds, ours=True, note=note))
    for peer, make in (("numpyro", numpyro_svi), ("blackjax", blackjax_scan)):
        run, steps, spent = make(log_density, size), 1000, 0.0
        while True:
            start = time.perf_counter()
            mean, scale, _ = jax.block_until_ready(run(0, steps))
            spent = time.perf_counter() - start
            draws = mean + scale * jax.random.normal(jax.random.key(1), (8000, size))
            worst = error(posterior, draws)
            if worst < 1 or spent > LIMIT / 2:
                break
            steps *= 2
        verdict = "passes" if worst < 1 else f"does not pass within {LIMIT:.0f} s"
        print(f"{'':42} {peer:9} {steps} steps {spent:7.2f} s  error {worst:.2f}  {verdict}")
        arrived = spent if worst < 1 else None
        rows.append(_report.Row(title, peer, arrived, note=f"{verdict}, {steps} steps"))
    return rows


if __name__ == "__main__":
    results = steps_a_second()
    for which in FIVE:
        results += time_until_it_passes(which)
    _report.save("vi", results)
