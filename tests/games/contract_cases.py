import jax
import jax.numpy as jnp
import optax

from equipoise import games
from tests.contract import Case, Pytree, Static

X, Y = jnp.array([1.0, -0.5]), jnp.array([0.7, 0.3])
MU, SIGMA = jnp.asarray(0.5), jnp.asarray(1.0)
ORIGIN = (0.0, 0.0)


def quadratic(mu, sigma):
    """μ/2·x² + σxy − μ/2·y², the game of which everything is known."""
    return games.zero_sum(lambda x, y: mu / 2 * x**2 + sigma * x * y - mu / 2 * y**2)


def noisy(mu, sigma):
    """The quadratic game on batches of two of three rows, which differ in coupling and in pull."""

    def payoff(x, y, d):
        return mu / 2 * x**2 + d[0] * sigma * x * y - mu / 2 * y**2 + d[1] * (x + y)

    rows = jnp.array([[1.0, 1.0], [0.5, -2.0], [1.5, 1.0]]).astype(mu.dtype)
    return games.sampled(payoff, rows, batch_size=2)


def cubic(c):
    """A nonlinear zero-sum game on vectors."""
    return games.zero_sum(lambda x, y: jnp.sum(x * y + c * x**3 - c * y**4))


def played(rule, num_steps=3):
    """Three steps of a rule on the nonlinear game, as a function of the start and the game."""
    return Case(
        lambda x, y, c: games.simulate(cubic(c), rule, (x, y), step_size=0.1, num_steps=num_steps),
        (X, Y, jnp.asarray(0.2)),
    )


def built(make):
    """A game made inside the function, differentiated through its vector field."""
    return Case(lambda x, y, c: games.vector_field(make(c), (x, y)), (X, Y, jnp.asarray(0.2)))


def logistic(r):
    """The map whose periods and exponents are known."""
    return lambda x: r * x * (1 - x)


def step_of_map(flat):
    step, ravel, unravel = games.update_map(
        cubic(0.2), games.momentum(0.5), 0.1, (jnp.zeros(2), jnp.zeros(2))
    )
    return ravel(unravel(step(flat)))


def swept(x, y, c):
    """Only the distance: the other results are verdicts, counts and a rate of undecided lanes."""
    return games.sweep(
        cubic(c), games.extragradient(), (x, y), step_sizes=jnp.array([0.1, 0.2]), num_steps=32
    ).final_distance


CONSTANT = Static("an integer that stands for a verdict or a kind of loss")
ENUM = Static("an enumeration of integers, each with a word and a sentence")


def mean_square(mu, sigma):
    return games.mean_square_critical_step_size(
        noisy(mu, sigma), games.simultaneous(), ORIGIN, max_step_size=4.0
    )


def floor(mu, sigma):
    return games.noise_floor(noisy(mu, sigma), games.alternating(), ORIGIN, step_size=0.1)


def compared(mu, sigma):
    rules = {"plain": games.simultaneous()}
    return games.compare(rules, quadratic(mu, sigma), ORIGIN, max_step_size=3.0)


CASES: dict = {
    "zero_sum": built(cubic),
    "general_sum": built(lambda c: games.general_sum(lambda x, y: c * x @ y, lambda x, y: y @ y)),
    "sampled": built(
        lambda c: games.sampled(
            lambda x, y, d: jnp.sum(d * x * y + c * x**3), jnp.array([0.5, 1.5]), batch_size=1
        )
    ),
    "Game": Pytree(lambda: cubic(0.2)),
    "vector_field": built(cubic),
    "Rule": Pytree(lambda: games.simultaneous()),
    "State": Pytree(lambda: games.State((X, Y), ())),
    "simultaneous": played(games.simultaneous()),
    "alternating": played(games.alternating()),
    "extragradient": played(games.extragradient()),
    "optimistic": played(games.optimistic()),
    "momentum": played(games.momentum(-0.3)),
    "consensus": played(games.consensus(0.3)),
    "symplectic_adjustment": played(games.symplectic_adjustment(0.3)),
    "lola": played(games.lola(0.3)),
    "competitive": played(games.competitive()),
    "primal_dual_hybrid": played(games.primal_dual_hybrid()),
    "alternating_extrapolation": played(games.alternating_extrapolation(1.5, 1.2)),
    "lookahead": played(games.lookahead(games.optimistic(), 2, 0.5)),
    "from_optax": played(games.from_optax(optax.sgd(1.0, momentum=0.5))),
    "proximal_point": played(games.proximal_point()),
    "find_equilibrium": Case(
        lambda c: (
            games.find_equilibrium(
                games.zero_sum(lambda x, y: jnp.sum(x * y - c * x + y) + 0.1 * x @ x), (X, Y)
            ).players
        ),
        (jnp.asarray(0.2),),
    ),
    "Equilibrium": Pytree(lambda: games.Equilibrium((X, Y), jnp.asarray(0.0), jnp.asarray(True))),
    "sweep": Case(
        swept,
        (X, Y, jnp.asarray(0.2)),
        grad=False,
        why="runs in a loop of unknown length",
        rtol_float32=1e-3,
    ),
    "Sweep": Pytree(
        lambda: games.sweep(
            cubic(0.2),
            games.simultaneous(),
            (X, Y),
            step_sizes=jnp.array([0.1, 0.2]),
            num_steps=32,
        )
    ),
    "simulate": played(games.simultaneous()),
    "update_map": Case(step_of_map, (jnp.linspace(-1, 1, 8),)),
    "UpdateMap": Static("a named tuple of three functions, that `update_map` makes"),
    "dominant_eigenvalues": Case(
        lambda weights: (
            games.dominant_eigenvalues(
                lambda v: weights * v, jnp.ones(4), jax.random.key(0), num=1
            ).values.real
        ),
        (jnp.array([-2.0, 0.5, 1.0, 0.1]),),
        grad=False,
        why="runs in a loop of unknown length",
    ),
    "DominantEigenvalues": Pytree(
        lambda: games.DominantEigenvalues(
            values=jnp.array([1j]),
            vectors=jnp.full((1, 2), 1j),
            residuals=jnp.zeros(1),
            conditions=jnp.ones(1),
            converged=jnp.array([True]),
            num_products=jnp.asarray(2),
        )
    ),
    "spectral_radius": Case(
        lambda mu, sigma: games.spectral_radius(
            quadratic(mu, sigma), games.simultaneous(), ORIGIN, step_size=0.3
        ),
        (MU, SIGMA),
    ),
    "stability": Case(
        lambda mu, sigma: (
            games.stability(
                quadratic(mu, sigma), games.simultaneous(), ORIGIN, step_size=0.3
            ).spectral_radius
        ),
        (MU, SIGMA),
    ),
    "Stability": Pytree(
        lambda: games.stability(quadratic(MU, SIGMA), games.simultaneous(), ORIGIN, step_size=0.3)
    ),
    "Verdict": ENUM,
    **dict.fromkeys(["CONVERGES", "NEUTRAL", "DIVERGES", "UNDEFINED"], CONSTANT),
    "critical_step_size": Case(
        lambda mu, sigma: (
            games.critical_step_size(
                quadratic(mu, sigma), games.simultaneous(), ORIGIN, max_step_size=4.0
            ).step_size
        ),
        (MU, SIGMA),
        rtol=1e-11,
    ),
    "CriticalStep": Pytree(
        lambda: games.critical_step_size(
            quadratic(MU, SIGMA), games.simultaneous(), ORIGIN, max_step_size=4.0
        )
    ),
    "stable_step_sizes": Static("as many intervals as there are, which no program knows"),
    "StableStepSizes": Pytree(
        lambda: games.stable_step_sizes(
            quadratic(0.5, 1.0), games.simultaneous(), ORIGIN, max_step_size=4.0
        )
    ),
    "normal_form": Case(
        lambda mu, sigma: (
            games.normal_form(
                games.general_sum(lambda x: mu * x**2 + sigma * x**3),
                games.simultaneous(),
                ORIGIN[:1],
                games.critical_step_size(
                    games.general_sum(lambda x: mu * x**2 + sigma * x**3),
                    games.simultaneous(),
                    ORIGIN[:1],
                    max_step_size=4.0,
                ),
            ).coefficient
        ),
        (MU, SIGMA),
        grad=False,
        why="a constant of differentiation",
    ),
    "NormalForm": Pytree(
        lambda: games.normal_form(
            quadratic(MU, SIGMA),
            games.simultaneous(),
            ORIGIN,
            games.critical_step_size(
                quadratic(MU, SIGMA), games.simultaneous(), ORIGIN, max_step_size=4.0
            ),
        )
    ),
    "Outcome": ENUM,
    "simulated_critical_step_size": Case(
        lambda mu: (
            games.simulated_critical_step_size(
                games.general_sum(lambda x: mu * x**2),
                games.simultaneous(),
                (jnp.ones(()),),
                max_step_size=3.0,
                num_steps=64,
                num_rounds=2,
            ).low
        ),
        (MU,),
        grad=False,
        why="runs in a loop of unknown length",
    ),
    "SimulatedCriticalStep": Pytree(lambda: games.SimulatedCriticalStep(*jnp.ones(4))),
    "critical_learning_rate": Case(
        lambda mu, sigma: (
            games.critical_learning_rate(
                lambda x: mu * x[0] ** 2 + sigma * x[1] ** 4,
                jnp.ones(2),
                optax.sgd(1.0, momentum=0.9),
            ).learning_rate
        ),
        (MU, SIGMA),
    ),
    "CriticalLearningRate": Pytree(
        lambda: games.critical_learning_rate(lambda x: x @ x, jnp.ones(2), optax.sgd(1.0))
    ),
    "Kind": ENUM,
    **dict.fromkeys(["NOT_LOST", "FOLD", "FLIP", "NEIMARK_SACKER"], CONSTANT),
    "period": Case(
        lambda x, r: games.period(logistic(r), x),
        (jnp.asarray(0.3), jnp.asarray(3.2)),
        grad=False,
        why="an integer",
    ),
    "cycle": Case(
        lambda x, r: games.cycle(logistic(r), x).multipliers.real,
        (jnp.asarray(0.6), jnp.asarray(2.9)),
    ),
    "Cycle": Pytree(lambda: games.cycle(logistic(2.9), 0.6)),
    "rotation_number": Case(
        lambda x, y, eta: games.rotation_number(
            lambda z: (z[0] - eta * z[1], z[1] + eta * z[0]), (x, y), num_steps=20
        ),
        (jnp.asarray(1.0), jnp.asarray(0.5), jnp.asarray(0.3)),
    ),
    "lyapunov_exponents": Case(
        lambda x, r: games.lyapunov_exponents(logistic(r), x, num_steps=50, num_transient=5).values,
        (jnp.asarray(0.3), jnp.asarray(2.8)),
    ),
    "LyapunovExponents": Pytree(lambda: games.lyapunov_exponents(logistic(2.8), 0.3, num_steps=50)),
    "orbit_diagram": Case(
        lambda x, r: games.orbit_diagram(
            lambda z, r: r * z * (1 - z), x, r, num_transient=5, num_states=4
        ),
        (jnp.asarray(0.3), jnp.array([2.5, 2.9])),
    ),
    "OrbitDiagram": Pytree(
        lambda: games.orbit_diagram(lambda z, r: r * z * (1 - z), 0.3, jnp.array([2.5, 3.2]))
    ),
    "basins": Case(
        lambda xs, eta: games.basins(
            lambda x: x - eta * (x**3 - x), [xs], embed=lambda x: x, num_steps=60
        ),
        (jnp.array([-1.2, -0.4, 0.5, 1.3]), jnp.asarray(0.4)),
        grad=False,
        why="labels; an attractor does not depend on where its basin was entered",
    ),
    "Basins": Pytree(
        lambda: games.basins(
            lambda x: x / 2, [jnp.linspace(-1, 1, 3)], embed=lambda x: x, num_steps=60
        )
    ),
    "mean_square_critical_step_size": Case(
        lambda mu, sigma: mean_square(mu, sigma).step_size, (MU, SIGMA), rtol=1e-11
    ),
    "MeanSquareCriticalStep": Pytree(lambda: mean_square(MU, SIGMA)),
    "noise_floor": Case(lambda mu, sigma: floor(mu, sigma).covariance, (MU, SIGMA), rtol=1e-11),
    "NoiseFloor": Pytree(lambda: floor(MU, SIGMA)),
    "compare": Case(
        lambda mu, sigma: compared(mu, sigma).step_size,
        (MU, SIGMA),
        grad=False,
        why="the derivative is that of critical_step_size, whose case holds it",
    ),
    "Comparison": Pytree(lambda: compared(MU, SIGMA)),
}
