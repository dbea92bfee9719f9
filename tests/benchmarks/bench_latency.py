"""Time to the first result, as a person meets it: fresh processes, nothing kept on disk.

Run ``python -m tests.benchmarks.bench_latency [--save] [--runs N] [NAME ...]`` from the repository
root on a quiet machine; a name is a part of a case's name, such as ``fit`` or ``jax.nn``. Each
process imports jax, then ours or a peer, and calls once, again, and ("other") with other captured
values or, for fits, another model of the same shapes. The medians over processes are printed, with
the programs that the first call compiled and the seconds that XLA took for them. Each result is
checked before it counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from tests.benchmarks import _report

RUNS, STEPS = 5, 2000
COMPILED = "/jax/core/compile/backend_compile_duration"
STAGES = ("first", "again", "other")


def fit_readme():
    """The log density of the README, and one with another equation."""
    from jax import numpy as jnp

    narrow = lambda z: -0.5 * (z[0] ** 2 + 100 * (z[1] - z[0]) ** 2)  # noqa: E731
    curved = lambda z: -0.5 * (z[0] ** 2 + (z[1] - 0.1 * z[0] ** 2) ** 2)  # noqa: E731
    return fits(jnp.zeros(2), narrow, narrow, curved)


def fits(example, *log_densities):
    """A fit of each log density, trusted or with its reason."""
    import jax

    from equipoise import vi

    def run(log_density):
        fit = vi.fit(log_density, example, jax.random.key(0))
        assert fit.trusted or str(fit.reason)
        return fit

    return [lambda f=f: run(f) for f in log_densities]


def fit_posterior(name):
    """One of the reference posteriors, again, and with its density shifted."""
    from jax import numpy as jnp

    from tests.vi.fit.test_posteriors import build

    posterior, log_density = build(name)
    shifted = lambda u: log_density(u - 0.01) - 0.5 * jnp.sum(u**2) * 1e-3  # noqa: E731
    return fits(jnp.zeros(posterior["dim"]), log_density, log_density, shifted)


def ten_dimensions(shift):
    """A hierarchy of one scale and nine means."""
    from jax import numpy as jnp

    def log_density(z):
        spread = jnp.exp(0.3 * z[0])
        return -0.5 * z[0] ** 2 - 0.5 * jnp.sum(((z[1:] - shift) / spread) ** 2) - 2.7 * z[0]

    return log_density


def fit_ten():
    """``vi.fit`` of ten dimensions."""
    from jax import numpy as jnp

    return fits(jnp.zeros(10), *map(ten_dimensions, (0.0, 0.0, 1.0)))


def fit_ten_numpyro():
    """NumPyro's SVI with AutoNormal on the same density."""
    import jax
    import numpyro
    from jax import numpy as jnp
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    real = numpyro.distributions.constraints.real_vector

    def run(shift):
        log_density = ten_dimensions(shift)

        def model():
            prior = numpyro.distributions.ImproperUniform(real, (), (10,))
            numpyro.factor("target", log_density(numpyro.sample("z", prior)))

        svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO(8))
        found = svi.run(jax.random.key(0), STEPS, progress_bar=False)
        assert jnp.all(jnp.abs(found.params["z_auto_loc"][1:] - shift) < 0.5)
        return found.losses

    return [lambda s=s: run(s) for s in (0.0, 0.0, 1.0)]


def fit_ten_blackjax():
    """BlackJAX's mean-field VI on the same density, all steps in one scan."""
    import blackjax
    import jax
    import optax
    from jax import numpy as jnp

    def run(shift):
        method = blackjax.meanfield_vi(ten_dimensions(shift), optax.adam(0.01), 8)
        step = lambda state, key: (method.step(key, state)[0], None)  # noqa: E731
        scan = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])
        keys = jax.random.split(jax.random.key(0), STEPS)
        state = scan(method.init(jnp.zeros(10)), keys)
        assert jnp.all(jnp.abs(state.mu[1:] - shift) < 0.5)
        return state.mu

    return [lambda s=s: run(s) for s in (0.0, 0.0, 1.0)]


def plain_gradient():
    """What jax alone takes to compile a gradient, as a unit."""
    import jax
    from jax import numpy as jnp

    def run(shift):
        gradient = jax.jit(jax.grad(ten_dimensions(shift)))(jnp.zeros(10))
        assert gradient.shape == (10,)
        return gradient

    return [lambda s=s: run(s) for s in (0.0, 0.0, 1.0)]


def scalar_game(coupling):
    """A saddle whose critical step is known: gradient descent–ascent on a·p²/2 + b·p·q − a·q²/2."""
    from equipoise import games

    return games.zero_sum(lambda p, q: 0.5 * p**2 + coupling * p * q - 0.5 * q**2)


def critical_step():
    """``critical_step_size`` of a scalar game, again, and at another coupling."""
    from equipoise import games

    def run(game, coupling):
        lost = games.critical_step_size(game, games.simultaneous(), (0.0, 0.0), max_step_size=10.0)
        assert abs(float(lost.step_size) - 2 / (1 + coupling**2)) < 1e-4
        return lost

    first, other = scalar_game(1.0), scalar_game(2.0)
    return [lambda: run(first, 1.0), lambda: run(first, 1.0), lambda: run(other, 2.0)]


def sweep():
    """``sweep`` of a scalar game over 1000 step sizes."""
    from jax import numpy as jnp

    from equipoise import games

    def run(game):
        swept = games.sweep(
            game, games.simultaneous(), (1.0, 1.0), step_sizes=jnp.linspace(0.1, 2, 1000),
            num_steps=1000,
        )  # fmt: skip
        assert swept.verdict[0] == games.CONVERGES
        assert swept.verdict[-1] == games.DIVERGES
        return swept

    first, other = scalar_game(1.0), scalar_game(2.0)
    return [lambda: run(first), lambda: run(first), lambda: run(other)]


def critical_network(rule_of):
    """``critical_step_size`` of a trained perceptron of 65 parameters, and on other data."""
    import jax
    import numpy as np
    from jax import numpy as jnp

    from equipoise import games

    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    params = {
        "first": jnp.asarray(rng.normal(size=(6, 8)) / 2, jnp.float32),
        "bias": jnp.zeros(8),
        "last": jnp.asarray(rng.normal(size=8) / 3, jnp.float32),
        "shift": jnp.zeros(()),
    }

    def run(targets):
        def loss(p):
            hidden = jnp.tanh(inputs @ p["first"] + p["bias"])
            return jnp.mean((hidden @ p["last"] + p["shift"] - targets) ** 2) + 0.01 * sum(
                jnp.sum(x**2) for x in jax.tree.leaves(p)
            )

        lost = games.critical_step_size(
            games.general_sum(loss), rule_of(games), (params,), max_step_size=10.0
        )
        assert not np.isnan(lost.step_size)
        return lost

    first, other = jnp.sin(inputs[:, 0]), jnp.cos(inputs[:, 1])
    return [lambda: run(first), lambda: run(first), lambda: run(other)]


def adam(games):
    """Adam as a rule of play."""
    import optax

    return games.from_optax(optax.adam(1.0))


def attention_step(module, length):
    """Forward and backward of causal attention, eight heads of 64."""
    import importlib

    import jax
    from jax import numpy as jnp

    attend = importlib.import_module(module).dot_product_attention
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, length, 8, 64))

    def run(scale):
        loss = lambda q, k, v: jnp.sum(attend(q, k, v, scale=scale, is_causal=True) ** 2)  # noqa: E731
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
        assert jnp.isfinite(gradients[0][0, 0, 0, 0])
        return gradients

    return [lambda s=s: run(s) for s in (0.125, 0.125, 0.25)]


def cases():
    """(what is asked, who answers, how) of every case."""
    ten = "a fit in ten dimensions"
    yield "`vi.fit` of the README", "ours", fit_readme
    yield ten, "ours", fit_ten
    yield ten, "numpyro", fit_ten_numpyro
    yield ten, "blackjax", fit_ten_blackjax
    yield "a gradient in ten dimensions", "jax", plain_gradient
    yield "`critical_step_size`, a scalar game", "ours", critical_step
    rules = (
        ("SGD", lambda games: games.simultaneous()),
        ("momentum", lambda games: games.momentum(0.9)),
        ("Adam", adam),
    )
    for name, rule in rules:
        title = f"`critical_step_size`, perceptron of 65 parameters, {name}"
        yield title, "ours", lambda rule=rule: critical_network(rule)
    yield "`sweep`, a scalar game", "ours", sweep
    for length in (256, 1024, 4096):
        title = f"attention, forward and backward, {length} positions"
        for name, module in (("ours", "equipoise.attention"), ("jax.nn", "jax.nn")):
            yield title, name, lambda m=module, t=length: attention_step(m, t)
    from tests.vi.fit.test_posteriors import names

    for name in names():
        yield f"posterior {name}", "ours", lambda name=name: fit_posterior(name)


def measure(index):
    """Seconds of each stage of a case in this process, and what the first one compiled."""
    start = time.perf_counter()
    import jax

    from equipoise import attention, games, vi

    del attention, games, vi
    seconds = {"import": time.perf_counter() - start}
    compiled = []
    listen = lambda event, duration, **_: event == COMPILED and compiled.append(duration)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    stages = list(cases())[index][2]()
    compiled.clear()
    for stage, run in zip(STAGES, stages, strict=True):
        start = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(run()))
        seconds[stage] = time.perf_counter() - start
        if stage == "first":
            seconds |= {"programs": len(compiled), "compilation": sum(compiled)}
    return seconds


def fresh(index):
    """What a fresh process measures of a case."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_latency", "--case", str(index)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(runs, words):
    """Print and keep the rows of the cases whose names hold one of the words, or of all."""
    rows = []
    for index, (title, who, _) in enumerate(cases()):
        if words and not any(word in f"{title} {who}" for word in words):
            continue
        found = [fresh(index) for _ in range(runs)]
        median = {name: statistics.median(run[name] for run in found) for name in found[0]}
        first = _report.of([run["first"] for run in found])
        note = (
            f"again {median['again']:.3f} s, other {median['other']:.3f} s, "
            f"{median['programs']:.0f} programs"
        )
        rows.append(
            _report.Row(
                title,
                who,
                ours=who == "ours",
                compile_seconds=median["compilation"],
                note=note,
                **first,
            )
        )
        print(
            f"{title} · {who}: import {median['import']:.2f} s, first {median['first']:.2f} s "
            f"({first['low']:.2f} to {first['high']:.2f}), "
            f"compilation {median['compilation']:.2f} s, {note}",
            flush=True,
        )
    _report.save("latency", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of cases; default: all")
    parser.add_argument("--runs", type=int, default=RUNS, help="processes a case")
    parser.add_argument("--save", action="store_true", help="keep the rows for the docs")
    parser.add_argument("--case", type=int, help="measure one case in this process")
    options = parser.parse_args()
    if options.case is None:
        main(options.runs, options.names)
    else:
        print(json.dumps(measure(options.case)))
