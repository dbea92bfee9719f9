"""Speed of games against NumPy and numba, each peer checked for equal results first.

Run ``python -m tests.benchmarks.bench_games [--save]``. Peers run in the same
process and in turns with ours; times are medians, compile time is apart. numba is optional.
"""

import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import games
from tests.benchmarks import _report

try:
    import numba
except ImportError:
    numba = None


def seconds(call):
    start = time.perf_counter()
    value = jax.block_until_ready(call())
    return time.perf_counter() - start, value


def in_turns(calls, repeats):
    """Seconds of each call as fields of a row; taken in turns, so that noise meets all alike."""
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call)[0])
    return {name: _report.of(t) for name, t in times.items()}


def compiled(fn, *args):
    taken, program = seconds(lambda: jax.jit(fn).lower(*args).compile())
    return taken, program


def report(title, times, ours, compile_time):
    print(f"\n{title} (compiled in {compile_time:.2f} s)")
    for name, t in times.items():
        ratio = t["seconds"] / times[ours]["seconds"]
        print(f"  {name:24s} {t['seconds'] * 1e3:12.2f} ms   ours is {ratio:8.2f} × as fast")
    compiling = {ours: compile_time}
    return [
        _report.Row(title, name, ours=name == ours, compile_seconds=compiling.get(name), **t)
        for name, t in times.items()
    ]


def numpy_sweep(eta, num_steps):
    x, y = np.ones_like(eta), np.ones_like(eta)
    scratch = np.empty_like(eta)
    for _ in range(num_steps):
        np.multiply(eta, y, out=scratch)
        np.subtract(x, scratch, out=x)
        np.multiply(eta, x, out=scratch)
        np.add(y, scratch, out=y)
    return np.sqrt(x * x + y * y)


def numba_sweep():
    @numba.njit(parallel=True, fastmath=True)
    def run(eta, num_steps):
        n, block = eta.size, 64
        out = np.empty_like(eta)
        for b in numba.prange((n + block - 1) // block):
            low, high = b * block, min(n, (b + 1) * block)
            x, y = np.ones(block, eta.dtype), np.ones(block, eta.dtype)
            for _ in range(num_steps):
                for i in range(high - low):
                    x[i] -= eta[low + i] * y[i]
                    y[i] += eta[low + i] * x[i]
            for i in range(high - low):
                out[low + i] = np.sqrt(x[i] * x[i] + y[i] * y[i])
        return out

    return run


def bilinear_sweep(lanes=10**6, num_steps=1000, repeats=3):
    """Alternating play is neutral, so that no lane ends early and all do the same work."""
    eta = np.linspace(0.01, 1.5, lanes, dtype=np.float32)
    game, rule = games.zero_sum(lambda p, q: p * q), games.alternating()
    start = (jnp.float32(1), jnp.float32(1))

    def ours(steps):
        return games.sweep(
            game, rule, start, step_sizes=steps, num_steps=num_steps, equilibrium=(0.0, 0.0)
        )

    steps = jnp.asarray(eta)
    compile_time, program = compiled(ours, steps)
    calls = {"equipoise sweep": lambda: program(steps)}
    calls["vectorized NumPy"] = lambda: numpy_sweep(eta, num_steps)
    if numba is not None:
        blocked = numba_sweep()
        calls["hand-blocked numba"] = lambda: blocked(eta, num_steps)
    swept = program(steps)
    for name, call in list(calls.items())[1:]:
        # Rounding of 1000 steps in single precision, at most 1000·ε.
        np.testing.assert_allclose(call(), swept.final_distance, rtol=1000 * 1.2e-7, err_msg=name)
    neutral = np.mean(swept.verdict == games.NEUTRAL)
    assert neutral > 0.99, neutral
    title = f"Sweep of {lanes} step sizes × {num_steps} steps of pq, float32"
    return report(title, in_turns(calls, repeats), "equipoise sweep", compile_time)


def quadratic(n, seed=0):
    """A random strongly monotone game of n + n dimensions, and its Jacobian."""
    rng = np.random.default_rng(seed)
    a, b = (m @ m.T / n + 0.3 * np.eye(n) for m in rng.normal(size=(2, n, n)))
    c = rng.normal(size=(n, n)) / np.sqrt(n)
    jacobian = np.block([[a, c], [-c.T, b]])
    game = games.zero_sum(lambda x, y: x @ a @ x / 2 + x @ c @ y - y @ b @ y / 2)
    return game, jacobian, (jnp.zeros(n), jnp.zeros(n))


def numpy_bisection(jacobian, high, precision):
    """The largest converging step by simulation; near it, 1/precision steps decide a run."""
    low, start = 0.0, np.ones(len(jacobian))
    while high - low > precision * high:
        middle = (low + high) / 2
        z = start.copy()
        for t in range(int(10 / precision)):
            z = z - middle * (jacobian @ z)
            if t % 64 == 0 and not 1e-8 < np.abs(z).max() < 1e8:
                break
        low, high = (middle, high) if np.abs(z).max() < 1 else (low, middle)
    return (low + high) / 2


def critical_step(n=10, precision=1e-4, repeats=3):
    with jax.enable_x64(True):
        game, jacobian, zero = quadratic(n)
        values = np.linalg.eigvals(jacobian)
        exact = np.min(2 * values.real / np.abs(values) ** 2)

        def ours(limit):
            return games.critical_step_size(
                game, games.simultaneous(), zero, max_step_size=limit
            ).step_size

        limit = jnp.asarray(4 * exact)
        compile_time, program = compiled(ours, limit)
        np.testing.assert_allclose(program(limit), exact, rtol=1e-8)
        peer = numpy_bisection(jacobian, 4 * exact, precision)
        np.testing.assert_allclose(peer, exact, rtol=3 * precision)
        calls = {
            "equipoise, to 1e-8": lambda: program(limit),
            f"NumPy bisection, to {precision:g}": lambda: numpy_bisection(
                jacobian, 4 * exact, precision
            ),
        }
        title = f"Critical step size of a random {n} + {n} game, float64"
        return report(title, in_turns(calls, repeats), "equipoise, to 1e-8", compile_time)


def growth(dimensions=(1, 5, 10, 25, 50), lanes=(10**3, 10**4, 10**5, 10**6)):
    rows = []
    print("\nGrowth of critical_step_size with the dimension, float64")
    with jax.enable_x64(True):
        for n in dimensions:
            game, _, zero = quadratic(n)
            compile_time, program = compiled(
                lambda limit, game=game, zero=zero: (
                    games.critical_step_size(
                        game, games.simultaneous(), zero, max_step_size=limit
                    ).step_size
                ),
                jnp.asarray(4.0),
            )
            taken = in_turns({"": lambda p=program: p(jnp.asarray(4.0))}, 3)[""]
            milliseconds = 1e3 * taken["seconds"]
            print(f"  {n:4d} + {n:<4d} {milliseconds:10.2f} ms   compiled in {compile_time:.2f} s")
            title = "Critical step size by dimension, float64"
            row = _report.Row(title, f"{n} + {n}", ours=True, **taken)
            rows.append(row._replace(compile_seconds=compile_time))
    print("\nGrowth of sweep with the number of step sizes, 1000 steps of pq, float32")
    game, rule = games.zero_sum(lambda p, q: p * q), games.alternating()
    for count in lanes:
        steps = jnp.linspace(0.01, 1.5, count, dtype=jnp.float32)
        _, program = compiled(
            lambda s: games.sweep(game, rule, (1.0, 1.0), step_sizes=s, num_steps=1000), steps
        )
        taken = in_turns({"": lambda p=program, s=steps: p(s)}, 3)[""]
        once = taken["seconds"]
        print(f"  {count:8d} {once * 1e3:10.2f} ms   {once / count / 1000 * 1e9:.3f} ns per step")
        title = "Sweep by number of step sizes, 1000 steps of pq, float32"
        rows.append(_report.Row(title, f"{count:,}", ours=True, **taken))
    return rows


def stability_map(size=200, num_steps=1000, repeats=3):
    """Verdicts of the Dirac GAN over step size and penalty, from one start."""

    def row(gamma, steps):
        game = games.zero_sum(lambda a, b: jax.nn.log_sigmoid(a * b) - gamma / 2 * b**2)
        return games.sweep(
            game,
            games.alternating(),
            (jnp.float32(0.1), jnp.float32(0.1)),
            step_sizes=steps,
            num_steps=num_steps,
            equilibrium=(0.0, 0.0),
        ).verdict

    gammas = jnp.linspace(0.05, 1.5, size, dtype=jnp.float32)
    steps = jnp.linspace(0.02, 4.0, size, dtype=jnp.float32)
    compile_time, program = compiled(jax.vmap(row, (0, None)), gammas, steps)
    verdicts = np.asarray(program(gammas, steps))
    local = 4 * (np.sqrt(gammas**2 + 1) - gammas)
    inside = np.asarray(steps)[None] < 0.5 * local[:, None]
    agree = np.mean(verdicts[inside] == games.CONVERGES)
    assert agree > 0.95, agree
    taken = in_turns({"": lambda: program(gammas, steps)}, repeats)[""]
    print(
        f"\nMap of {size} × {size} verdicts, {num_steps} steps each: {taken['seconds']:.2f} s "
        f"(compiled in {compile_time:.2f} s)"
    )
    title = f"Map of {size} × {size} verdicts of the Dirac GAN, {num_steps} steps each"
    row = _report.Row(title, "equipoise sweep", ours=True, **taken)
    return [row._replace(compile_seconds=compile_time)]


if __name__ == "__main__":
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = [*bilinear_sweep(), *critical_step(), *stability_map(), *growth()]
    _report.save("games", rows)
