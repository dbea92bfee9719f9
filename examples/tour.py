"""A tour of Equipoise: four questions, each computed, printed, drawn and asserted.

Run ``python examples/tour.py --out DIR``. Nothing below is typed in: what is printed was computed
by the lines around it, and asserted against a closed form or within its own error.
"""

import argparse
import concurrent.futures
import functools
import os
import pathlib
import sys
import tempfile
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.stats import norm

from equipoise import attention, cost, games, layers, plot, vi
from equipoise.plot import COLORS

jax.config.update("jax_enable_x64", val=True)

STL = "sticking_the_landing"
compilers = functools.partial(concurrent.futures.ThreadPoolExecutor, 2)


# --- 1: RNN against transformer ---------------------------------------------------------------


WIDTH, LENGTHS = 256, (128, 256, 512, 1024, 2048)
CAUSAL = {"RNN": {}, "transformer": {"is_causal": True}}
# Sublayers, and what each reads: in words here, from the code itself below.
READERS = {
    "attention": layers.self_attention(8),
    "causal attention": layers.self_attention(8, is_causal=True),
    "feed-forward": layers.feed_forward(8),
    "layer norm": layers.layer_norm(8),
    "GRU": layers.gru(8),
}
KINDS = ("all-to-all", "lower triangular", "identity", "identity", "lower triangular")


def initialized(layer, dtype=None):
    """The layer's first parameters, compiled as one program."""
    return jax.jit(lambda key: layer.init(key, dtype))(jax.random.key(0))


def programs(layer):
    """The layer compiled for the CPU, its parameters and a sequence of each length, in float32."""
    with jax.default_device(jax.devices("cpu")[0]):
        params, run = initialized(layer, jnp.float32), jax.jit(layer.apply)
        waves = [np.sin(np.arange(n * WIDTH, dtype=np.float32)) for n in LENGTHS]
        inputs = [jnp.asarray(wave.reshape(-1, WIDTH)) for wave in waves]
        return [(run.lower(params, x).compile(), params, x) for x in inputs]


def seconds(run, params, x):
    """Best of five runs."""
    times = []
    jax.block_until_ready(run(params, x))
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(params, x))
        times.append(time.perf_counter() - start)
    return min(times)


def pattern(layer):
    """Which of twelve output positions read which input positions."""
    params = initialized(layer)
    return cost.dependencies(lambda x: layer.apply(params, x), jnp.zeros((12, 8)))


def slope(sizes, values):
    """Exponent of growth: the slope of the least-squares line in logarithms."""
    return np.polyfit(np.log(np.asarray(sizes)), np.log(np.asarray(values, float)), 1)[0]


def sequence_models():
    """Both models as expressions, then by the clock: growth, crossover, who reads across tokens."""
    models = {"RNN": layers.gru, "transformer": layers.transformer_block}
    state = {"RNN": "f32[L,d]", "transformer": ("f32[L,n,1,d]", "f32[L,n,1,d]", "i32[L]")}
    used, trained, once, memory = {}, {}, {}, {}
    for name, layer in models.items():
        model = layers.stack(layer("d"), "L")
        used[name] = cost.analyze(model.apply, model.shapes(), "f32[n,d]")
        trained[name] = cost.analyze_training(model.apply, model.shapes(), "f32[n,d]")
        causal = layers.stack(layer("d", **CAUSAL[name]), "L")
        once[name] = cost.analyze(causal.step, causal.shapes(), state[name], "f32[d]")
        memory[name] = cost.analyze(lambda s: s, state[name]).input_bytes
    rows = {
        "work in use, sequence": {m: used[m].flops.leading("n", "d") for m in models},
        "work in use, one token": {m: once[m].flops.leading("n", "d") for m in models},
        "work in training": {m: trained[m].total.flops.leading("n", "d") for m in models},
        "bytes of state in use": memory,
        "bytes kept in training": {m: trained[m].residual_bytes.leading("n", "d") for m in models},
        "sequential operations": {m: used[m].depth for m in models},
    }
    print("1  RNN (GRU) against transformer: L layers of width d on n positions, leading terms")
    print(f"   {'':24}{'RNN':26}transformer")
    for row, value in rows.items():
        print(f"   {row:24}{value['RNN']!s:26}{value['transformer']}")
    degrees = {row: [value[m].degree("n") for m in models] for row, value in rows.items()}
    assert list(degrees.values()) == [[1, 2], [0, 1], [1, 2], [0, 1], [1, 2], [1, 0]]

    timed = {
        "GRU": layers.gru,
        "self-attention": layers.self_attention,
        "transformer block": layers.transformer_block,
    }
    work = {m: cost.analyze(f("d").apply, f("d").shapes(), "f32[n,d]") for m, f in timed.items()}
    products = {m: work[m].matmul_flops for m in timed}
    equal = cost.crossover(products["self-attention"], products["GRU"], "n", d=WIDTH)
    print(f"   in matrix products self-attention outgrows the GRU at n = {equal.root:.0f} = d")
    assert equal.root == WIDTH  # 8nd² + 4n²d = 12nd²

    with compilers() as pool:  # side by side, then the clock runs alone
        compiled = pool.map(programs, [layer(WIDTH) for layer in timed.values()])
        reads = dict(zip(READERS, pool.map(pattern, READERS.values()), strict=True))
    clock = {m: [seconds(*p) for p in ps] for m, ps in zip(timed, compiled, strict=True)}
    flops = {m: work[m].flops.substitute(d=WIDTH) for m in timed}
    counts = {m: [flops[m].evaluate(n=n) for n in LENGTHS] for m in timed}
    print(f"   exponent of growth from n = {LENGTHS[0]} to {LENGTHS[-1]} at d = {WIDTH}")
    for m in timed:
        predicted, measured = slope(LENGTHS, counts[m]), slope(LENGTHS, clock[m])
        print(f"      {m:17} measured time {measured:.2f}, predicted work {predicted:.2f}")
        assert abs(measured - predicted) < 0.5
    # Seconds an operation at one length in the middle turn work into time at all lengths.
    rate = {m: Fraction(clock[m][2]) / counts[m][2] for m in timed}
    priced = {m: flops[m] * rate[m] for m in timed}
    predicted = cost.crossover(priced["self-attention"], priced["GRU"], "n").root
    ahead = np.log(clock["self-attention"]) - np.log(clock["GRU"])
    measured = np.exp(np.interp(0, ahead, np.log(LENGTHS)))
    print(
        f"   self-attention takes longer than the GRU from n = {measured:.0f} on, predicted "
        f"{predicted:.0f} from work and speed"
    )
    assert 1 / 3 < measured / predicted < 3

    assert tuple(found.kind for found in reads.values()) == KINDS
    assert all(found.confirmed for found in reads.values())
    print("   reads across tokens")
    for name, found in reads.items():
        print(f"      {name:17} {found.kind}")

    figure = plt.figure(figsize=(10.5, 4.2))
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    ax = left.subplots()
    for index, m in enumerate(timed):
        ax.loglog(LENGTHS, clock[m], "o-", color=COLORS[index], label=m)
        ax.loglog(LENGTHS, np.array(counts[m]) * float(rate[m]), "--", color=COLORS[index])
    ax.set_xticks(LENGTHS, map(str, LENGTHS))
    ax.minorticks_off()
    ax.axvline(measured, color="black", linewidth=1, linestyle=":")
    ax.set(xlabel="length n (positions)", ylabel="time of one layer (s); dashed: from its work")
    ax.set_title(f"Self-attention overtakes the GRU at n ≈ {measured:.0f} (d = {WIDTH})")
    ax.legend()
    for ax, (name, found) in zip(right.subplots(2, 3).flat, reads.items(), strict=False):
        ax.imshow(found.structural, cmap="Blues", vmin=0, vmax=1.4)
        ax.set_title(name, fontsize=9)
        ax.set(xlabel="input", ylabel="output", xticks=[], yticks=[])
        ax.grid(visible=False)
    right.axes[-1].set_axis_off()
    right.suptitle("Attention and recurrence read across tokens, the rest does not", fontsize=10)
    return figure


# --- 2: attention as look-up ------------------------------------------------------------------


def look_up():
    """Copying, averaging, and what noisy keys do to one head and to two."""
    n = 16
    keys, values = jnp.eye(n), jax.random.normal(jax.random.key(1), (n, 4))
    targets = {"copy v_0": keys[0], "average v_0, v_1": (keys[0] + keys[1]) / 2}

    @jax.jit
    def read(target):
        """β(k_a + k_b), with β the margin that leaks 0.1 % at most; one key alone copies."""
        margin = attention.lookup_sharpness(target, leaked_weight=1e-3)
        query = margin * (target > 0) @ keys
        output = attention.dot_product_attention(
            query[None, None], keys[:, None], values[:, None], scale=1.0
        )[0, 0]
        error = jnp.linalg.norm(output - target @ values)
        m = jnp.sum(target > 0)
        leak = (n - m) / (m * jnp.exp(margin) + n - m)
        others = jnp.where(target > 0, 0.0, 1.0) @ values / (n - m)
        exact = leak * jnp.linalg.norm(others - target @ values)
        return attention.lookup_query(keys, target, sharpness=margin), margin, error, exact

    print(f"\n2  Attention as look-up: {n} orthonormal keys, scale 1, 99.9 % of the weight")
    for name, target in targets.items():
        found, margin, error, exact = read(target)
        m = np.sum(target > 0)
        print(
            f"   {name:17} margin β = {margin:.4f}, weight {found.weights @ (target > 0):.6f}, "
            f"error {error:.6e} (formula {exact:.6e})"
        )
        np.testing.assert_allclose(margin, jnp.log((n - m) / m * 999.0), rtol=1e-12)
        np.testing.assert_allclose(found.weights @ (target > 0), 0.999, rtol=1e-12)
        np.testing.assert_allclose(found.margin, margin, rtol=1e-9)
        np.testing.assert_allclose(error, exact, rtol=1e-9)

    # Key a is g·μ_a with g ~ N(1, 1/2): its length fluctuates, and with it one head's choice.
    mu = jnp.eye(2)
    noise = jnp.zeros((2, 2, 1)).at[0, 0, 0].set(jnp.sqrt(0.5))
    g = np.linspace(-5, 7, 20_001)
    density = np.exp(-((g - 1) ** 2)) / np.sqrt(np.pi) * (g[1] - g[0])

    def swing(beta, weight, queries):
        """Variance of the weight on key a: exact, measured, and the error of the measurement."""
        exact = density @ (weight - density @ weight) ** 2
        found = attention.noisy_lookup(
            mu, beta * queries, jax.random.key(2), noise=noise, num_samples=200_000
        )
        return exact, found.variance[0], found.variance_standard_error[0]

    @jax.jit
    def heads(beta):
        split = (jax.nn.sigmoid(beta * g) + jax.nn.sigmoid(-beta)) / 2
        return {
            "one head": swing(beta, jax.nn.sigmoid(beta * (g - 1)), mu.sum(0, keepdims=True)),
            "two heads": swing(beta, split, mu),
        }

    print("   noisy key a: variance of the weight on a, measured ± standard error (exact)")
    betas, measured = (1.0, 5.0, 20.0), {"one head": [], "two heads": []}
    for beta in betas:
        line = f"      β = {beta:<4.0f}"
        for name, (exact, value, error) in heads(beta).items():
            measured[name].append((value, error))
            line += f"  {name} {value:.4f} ± {error:.4f} ({exact:.4f})"
            assert abs(value - exact) < 4 * error + 1e-6
        print(line)

    figure, (left, right) = plot.new_grid(1, 2, size=(9.5, 3.8))
    margins = np.linspace(0, 14, 200)
    for index, m in enumerate((4, 16, 256)):
        leaks = 1 / (1 + np.exp(margins) / (m - 1))
        left.semilogy(margins, leaks, color=COLORS[index], label=f"{m} keys")
    left.axhline(1e-3, color="black", linewidth=1, linestyle=":")
    left.set(xlabel="margin of the score (nats)", ylabel="weight on other keys")
    left.set_title("99.9 % of the weight takes a margin of log(n − 1) + 6.9")
    left.legend()
    for index, (name, pairs) in enumerate(measured.items()):
        value, error = np.transpose(pairs)
        right.errorbar(betas, value, 4 * error, marker="o", color=COLORS[index], label=name)
    right.set(xlabel="sharpness β", ylabel="variance of the weight on the noisy key")
    right.set_title("Two heads average noisy keys, one head swings")
    right.legend()
    return figure


# --- 3: the ELBO -------------------------------------------------------------------------------


def evidence_bound():
    """The bound and its two terms, its gap, and what a family that is too small cannot close."""
    key = jax.random.key(3)
    family = vi.mean_field(0.0)

    def log_likelihood(z):
        return norm.logpdf(10.0, z, 0.5)

    def log_joint(z):
        return norm.logpdf(z) + log_likelihood(z)

    evidence = norm.logpdf(10.0, 0.0, jnp.sqrt(1.25))
    posterior = family.init(position=8.0, scale=jnp.sqrt(0.2))
    fit = vi.fit(log_joint, 0.0, key, family=family)

    @jax.jit
    def split(params):
        terms = vi.elbo_terms(
            log_likelihood, (family, family.init()), family, params, key, num_samples=20_000
        )
        return terms, vi.kl_divergence(family, params, family, posterior)

    print("\n3  The ELBO of z ~ N(0, 1), y = 10 ~ N(z, 1/4)")
    print(f"   log evidence {evidence:.6f}, posterior N(8, 1/5)")
    for name, params in {"q = N(7, 1)": family.init(position=7.0), "q fitted": fit.params}.items():
        terms, gap = split(params)
        print(
            f"   {name:11} reconstruction {terms.reconstruction.value:.4f} ± "
            f"{terms.reconstruction.standard_error:.4f}, KL {terms.kl.value:.4f}, ELBO "
            f"{terms.elbo.value:.4f} ± {terms.elbo.standard_error:.4f}, gap {gap:.4f}"
        )
        assert abs(evidence - terms.elbo.value - gap) < 4 * terms.elbo.standard_error
    # At q = posterior, log p − log q is the same at every draw: the bound has no error left.
    tight = jax.jit(
        lambda params: vi.elbo(log_joint, family, params, key, num_samples=100, gradient=STL)
    )(fit.params)
    print(f"   fitted, entropy without noise: {tight.value:.6f} ± {tight.standard_error:.0e}")
    np.testing.assert_allclose(tight.value, evidence, rtol=1e-7)
    assert fit.trusted

    r = 0.9
    factor = np.linalg.cholesky(np.array([[1.0, r], [r, 1.0]]))

    def log_correlated(z):
        whitened = jax.scipy.linalg.solve_triangular(factor, z, lower=True)
        return norm.logpdf(whitened).sum() - np.log(np.diag(factor)).sum()

    narrow = vi.fit(log_correlated, jnp.zeros(2), key, family=vi.mean_field)

    @jax.jit
    def measure(params):
        bound = vi.elbo(
            log_correlated, narrow.family, params, key, num_samples=4096, draws="antithetic"
        )
        return bound, jnp.std(narrow.family.sample(params, key, 20_000), axis=0)

    bound, sd = measure(narrow.params)
    loss = -0.5 * np.log(1 - r**2)
    print(f"   a posterior with correlation {r}, outside of the mean-field family: ELBO")
    print(
        f"   {bound.value:.4f} ± {bound.standard_error:.4f} for log evidence 0; the best "
        f"there is has {-loss:.4f}, all of it lost to the correlation"
    )
    assert abs(bound.value + loss) < 4 * bound.standard_error + 1e-6

    figure, (left, right) = plot.new_grid(1, 2, size=(9.5, 3.8))
    scales = np.geomspace(0.15, 1.3, 60)

    @jax.jit
    @jax.vmap
    def gaps(mean):
        inits = jax.vmap(lambda s: family.init(position=mean, scale=s))(scales)
        return jax.vmap(lambda q: vi.kl_divergence(family, q, family, posterior))(inits)

    means = np.array([8.0, 7.5, 7.0])
    for index, (mean, gap) in enumerate(zip(means, gaps(means), strict=True)):
        left.plot(scales, evidence - gap, color=COLORS[index], label=f"mean {mean}")
    left.axhline(evidence, color="black", linewidth=1, linestyle=":", label="log evidence")
    left.set(xlabel="standard deviation of q", ylabel="ELBO (nats)")
    left.set_title("The bound touches the evidence at the posterior alone")
    left.legend()
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(sd, jnp.sqrt(1 - r**2), rtol=0.03)
    for name, shape, style in (
        ("posterior", factor, "k:"),
        (f"mean-field, ELBO {bound.value:.3f}", np.diag(sd), "-"),
    ):
        right.plot(*(shape @ circle), style, label=name)
    right.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
    right.set_title("A mean-field q pays for the correlation")
    right.legend(loc="upper left")
    return figure


# --- 4: descent-ascent on f(p, q) = pq ----------------------------------------------------------

GAMMA, BETA = 0.5, -0.25
LIMIT = 2 * GAMMA / (1 + GAMMA**2)
# Rule, the step size up to which it attracts, and up to which it stays bounded, on f = pq.
RULES = {
    "simultaneous": (games.simultaneous(), 0, 0),
    "alternating": (games.alternating(), 0, 2),
    "simultaneous, momentum 0.5": (games.momentum(0.5), 0, 0),
    "alternating, momentum −0.25": (
        games.momentum(BETA, order=(0, 1)),
        2 * (1 + BETA),
        2 * (1 + BETA),
    ),
    "extragradient": (games.extragradient(), 1, 1),
    "optimistic": (games.optimistic(), 1 / np.sqrt(3), 1 / np.sqrt(3)),
    "consensus γ = 0.5": (games.consensus(GAMMA), LIMIT, LIMIT),
    "symplectic λ = 0.5": (games.symplectic_adjustment(GAMMA), LIMIT, LIMIT),
    "proximal point": (games.proximal_point(), np.inf, np.inf),
    "competitive": (games.competitive(), np.inf, np.inf),
}


game = games.zero_sum(lambda p, q: p * q)  # p descends, q ascends
start, nash = (1.0, 1.0), (0.0, 0.0)


def critical(row):
    """The critical step size of a row's rule; what runs once is not worth optimizing."""
    search = functools.partial(games.critical_step_size, game, row[0], nash, max_step_size=10.0)
    return jax.jit(search, compiler_options={"xla_backend_optimization_level": 0})()


def descent_ascent(steps):
    """Six steps of play, what they conserve, and the step sizes at which each rule converges."""
    turns = games.alternating(order=(1, 0))  # q moves first
    p, q = games.simulate(game, turns, start, step_size=1.0, num_steps=600)
    conserved = p**2 + q**2 + p * q
    length = games.period(games.update_map(game, turns, 1.0).step, jnp.ones(2))
    print("\n4  Descent-ascent on f(p, q) = pq from (1, 1), step 1, q moves first")
    print("   step" + "".join(f"{t:5d}" for t in range(7)))
    print("   q   " + "".join(f"{x:5.0f}" for x in q[:7]))
    print("   p   " + "".join(f"{x:5.0f}" for x in p[:7]))
    print(f"   back after {length} steps: p² + q² + pq stays {conserved[0]:.0f}, but is 0 at Nash")
    assert length == 6
    np.testing.assert_array_equal(conserved, 3.0)

    print(
        "   the usual answer, a smaller step, is wrong: least spectral radius over steps in (0, 3]:"
    )
    etas = np.linspace(0.01, 3, 300)
    radius = {
        name: jax.jit(
            jax.vmap(lambda e, r=RULES[name][0]: games.spectral_radius(game, r, nash, step_size=e))
        )
        for name in ("simultaneous", "alternating", "extragradient", "optimistic", "proximal point")
    }
    radius = {name: np.asarray(function(etas)) for name, function in radius.items()}
    least = {name: radius[name].min() for name in ("simultaneous", "alternating")}
    print(
        "   " + ", ".join(f"{n} {r:.6f}" for n, r in least.items()) + ": neither converges at any"
    )
    assert all(r > 1 - 1e-12 for r in least.values())

    print(f"   {'rule':28}{'converges below':>16}{'bounded up to':>16}   eigenvalue there")
    for (name, (_, attracts, bounded)), step in zip(RULES.items(), steps, strict=True):
        value = f"{step.eigenvalue:.3f}" if 0 < step.neutral_step_size < np.inf else "-"
        print(f"   {name:28}{step.step_size:16.6f}{step.neutral_step_size:16.6f}   {value}")
        np.testing.assert_allclose(step.step_size, attracts, atol=1e-9)
        np.testing.assert_allclose(step.neutral_step_size, bounded, atol=1e-9)

    figure, (left, right) = plot.new_grid(1, 2, size=(11.5, 4.0))
    for index, (name, num) in enumerate(
        {"alternating": 6, "simultaneous": 5, "extragradient": 40}.items()
    ):
        rule, step = (turns, 1.0) if name == "alternating" else (RULES[name][0], 0.5)
        path = games.simulate(game, rule, start, step_size=step, num_steps=num)
        left.plot(*path, "o-", markersize=3, color=COLORS[index], label=f"{name}, step {step}")
    left.plot(0, 0, "k*", markersize=10, label="Nash")
    left.set(xlabel="p", ylabel="q", aspect="equal")
    left.set_title("Taking turns circles Nash, moving at once leaves it")
    left.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    for index, (name, values) in enumerate(radius.items()):
        right.plot(etas, values, color=COLORS[index], label=name)
    right.axhline(1, color="black", linewidth=1, linestyle=":")
    right.set(xlabel="step size η", ylabel="spectral radius ρ", ylim=(0.4, 2.2))
    right.set_title("Only below ρ = 1 does play converge")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


# --- Command line ------------------------------------------------------------------------------


def sections():
    """Name and figure of each section."""
    yield "1_rnn_against_transformer", sequence_models()
    with compilers() as pool:  # the table of section 4 compiles while the others run
        steps = pool.map(critical, RULES.values())
        yield "2_attention_as_lookup", look_up()
        yield "3_evidence_bound", evidence_bound()
        yield "4_descent_ascent", descent_ascent(steps)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are a single line."""

    def error(self, message):
        """Say what is wrong, without the usage text, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def writable_folder(parser, path):
    """The folder, made if it is missing, after a test that a file can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        return parser.error(f"cannot write to --out {path}: {error.strerror}")


def save(figure, path):
    """Write beside the target, then rename: an interruption leaves the old file or the new one."""
    part = path.with_suffix(".part")
    try:
        figure.savefig(part, format="png", bbox_inches="tight")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main(arguments=None):
    """Answer the four questions, and write a figure for each."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("tour"), help="folder of the figures"
    )
    out = writable_folder(parser, parser.parse_args(arguments).out)
    started = time.perf_counter()
    with plot.styled():
        for name, figure in sections():
            save(figure, out / f"{name}.png")
    print(f"\nAll of it asserted, in {time.perf_counter() - started:.0f} s; figures in {out}/")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
