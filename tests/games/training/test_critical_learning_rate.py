"""The critical learning rate against the thresholds that are known, on quadratics and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equipoise import games


@pytest.fixture(autouse=True)
def _promotion_that_optax_needs():
    with jax.numpy_dtype_promotion("standard"):
        yield


# Curvatures of every sign, a second moment of every size.
CURVATURE = np.array([0.1, 0.5, 3.0, 0.0, -0.02])
NU = np.array([1e-4, 4.0, 2.0, 0.1, 1.0])
HERE = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
PLAIN = CURVATURE.max()
SCALED = (CURVATURE / (np.sqrt(NU) + 1e-8)).max()
BETA, DECAY = 0.9, 0.01


def quadratic(x):
    return 0.5 * jnp.sum(CURVATURE * x**2)


def with_second_moment(state, nu=NU):
    """The state with every second moment exchanged."""

    def exchanged(part):
        return part._replace(nu=jnp.asarray(nu)) if hasattr(part, "nu") else part

    return jax.tree.map(exchanged, state, is_leaf=lambda part: hasattr(part, "nu"))


TABLE = {
    "descent": (optax.sgd(1.0), 2 / PLAIN),
    "heavy ball": (optax.sgd(1.0, momentum=BETA), 2 * (1 + BETA) / PLAIN),
    "nesterov": (
        optax.sgd(1.0, momentum=BETA, nesterov=True),
        2 * (1 + BETA) / (1 + 2 * BETA) / PLAIN,
    ),
    "average": (
        optax.chain(optax.ema(BETA, debias=False), optax.scale(-1.0)),
        2 * (1 + BETA) / (1 - BETA) / PLAIN,
    ),
    "rmsprop": (optax.rmsprop(1.0, eps_in_sqrt=False), 2 / SCALED),
    "adam": (optax.adam(1.0, b1=BETA), 38 / SCALED),
    "adamw": (optax.adamw(1.0, b1=BETA, weight_decay=DECAY), 2 / (SCALED / 19 + DECAY)),
    "clipped": (optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1.0)), 38 / SCALED),
}


@pytest.mark.parametrize("name", TABLE)
def test_critical_learning_rate_matches_the_threshold_of_each_optimizer(name):
    optimizer, expected = TABLE[name]
    state = with_second_moment(optimizer.init(HERE))
    found = games.critical_learning_rate(quadratic, HERE, optimizer, optimizer_state=state)
    np.testing.assert_allclose(found.learning_rate, expected, rtol=1e-12)
    assert int(found.kind) == games.FLIP
    np.testing.assert_allclose(found.eigenvalue, -1, atol=1e-6)
    sharpness = SCALED if name in ("rmsprop", "adam", "adamw", "clipped") else PLAIN
    np.testing.assert_allclose(found.sharpness, sharpness, rtol=1e-12)
    # Decay attracts what is flat or repelled, in decoupled units.
    counts = (0, 0) if name == "adamw" else (1, 1)
    assert (int(found.num_flat), int(found.num_repelling)) == counts


def late(now, past):
    """The update −(now·g + past·g_before)."""
    return optax.GradientTransformation(
        lambda x: jnp.zeros_like(x), lambda g, m, x=None: (-(now * g + past * m), g)
    )


def test_critical_learning_rate_is_lost_by_a_spiral_where_two_eigenvalues_meet_first():
    found = games.critical_learning_rate(lambda x: 0.5 * jnp.sum(x**2), jnp.ones(2), late(2.0, 1.0))
    # λ² − (1 − 2η)λ + η = 0: a pair of modulus √η, where the flip comes at η = 2. The circle is
    # left by ε^0.4 = 6e-7.
    np.testing.assert_allclose(found.learning_rate, 1.0, rtol=1e-5)
    assert int(found.kind) == games.NEIMARK_SACKER
    np.testing.assert_allclose(found.eigenvalue, -0.5 + 0.75**0.5 * 1j, rtol=1e-5)


def test_critical_learning_rate_does_not_depend_on_noise_that_an_optimizer_adds():
    def update(g, key, x=None):
        noise = 1e-3 * jax.random.normal(key, g.shape, g.dtype)
        return -(g + noise), jax.random.split(key)[0]

    noisy = optax.GradientTransformation(lambda x: jax.random.key(0), update)
    found = games.critical_learning_rate(lambda x: 0.5 * jnp.sum(x**2), jnp.ones(2), noisy)
    np.testing.assert_allclose(found.learning_rate, 2.0, rtol=1e-12)


def test_critical_learning_rate_rejects_an_optimizer_that_goes_uphill_where_gradients_alternate():
    with pytest.raises(ValueError, match="a gradient that alternates"):
        games.critical_learning_rate(quadratic, HERE, late(0.1, 1.0))


def test_critical_learning_rate_holds_where_groups_have_different_optimizers_and_decay():
    labels = {"a": "heavy", "b": "plain"}
    mask = {"a": True, "b": False}
    optimizer = optax.chain(
        optax.multi_transform(
            {"heavy": optax.trace(0.9), "plain": optax.trace(0.5, nesterov=True)}, labels
        ),
        optax.add_decayed_weights(0.1, mask),
        optax.scale(-1.0),
    )
    root = np.random.default_rng(0).normal(size=(5, 5))
    matrix = root @ root.T

    def loss(params):
        x = jnp.concatenate([params["a"], params["b"]])
        return 0.5 * x @ matrix @ x

    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    found = games.critical_learning_rate(loss, params, optimizer)
    gain = np.array([1 / 1.9] * 2 + [2 / 1.5] * 3)
    decay = np.array([0.1] * 2 + [0.0] * 3)
    top = np.linalg.eigvals(gain[:, None] * matrix + np.diag(decay)).real.max()
    np.testing.assert_allclose(found.learning_rate, 2 / top, rtol=1e-10)
    # The dense spectrum of the rule says the same.
    game, rule = games.general_sum(loss), games.from_optax(optimizer)
    at_rest = jax.tree.map(jnp.zeros_like, params)
    lost = games.critical_step_size(game, rule, (at_rest,), max_step_size=10.0)
    np.testing.assert_allclose(lost.step_size, 2 / top, rtol=1e-8)


@pytest.mark.slow
def test_critical_learning_rate_holds_for_optimizers_that_mix_coordinates():
    root = np.random.default_rng(1).normal(size=(12, 12))
    matrix = root @ root.T
    optimizer = optax.chain(optax.centralize(), optax.sgd(1.0, momentum=0.9))
    here = jnp.arange(12.0).reshape(4, 3)
    found = games.critical_learning_rate(
        lambda x: 0.5 * x.ravel() @ matrix @ x.ravel(), here, optimizer
    )
    centered = np.kron(np.eye(4), np.eye(3) - 1 / 3)
    top = np.linalg.eigvals(centered @ matrix).real.max()
    np.testing.assert_allclose(found.learning_rate, 3.8 / top, rtol=1e-3)  # the tolerance


def network(sizes, key):
    keys = jax.random.split(key, len(sizes))
    pairs = zip(sizes[:-1], sizes[1:], keys[:-1], strict=True)
    return [(jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b)) for a, b, k in pairs]


def fit(params, x, y):
    for weight, bias in params[:-1]:
        x = jnp.tanh(x @ weight + bias[None])
    weight, bias = params[-1]
    return jnp.mean(((x @ weight + bias[None])[:, 0] - y) ** 2)


@pytest.mark.slow
def test_critical_learning_rate_without_a_matrix_matches_the_matrix():
    params = network((5, 16, 8, 1), jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (32, 5))
    loss = lambda p: fit(p, x, jnp.sin(x[:, 0]))  # noqa: E731
    optimizer = optax.adam(1.0)
    dense = games.critical_learning_rate(loss, params, optimizer)
    free = games.critical_learning_rate(
        loss, params, optimizer, method="matrix_free", tolerance=1e-8, subspace=12
    )
    np.testing.assert_allclose(free.learning_rate, dense.learning_rate, rtol=1e-8)
    assert float(free.error) <= 1e-8
    assert int(free.num_flat) == -1
    cosine = sum(
        jnp.vdot(a, b)
        for a, b in zip(
            jax.tree.leaves(free.direction), jax.tree.leaves(dense.direction), strict=True
        )
    )
    # The square of the residual is 1e-8 of the gap.
    np.testing.assert_allclose(abs(cosine), 1, atol=1e-6)


@pytest.mark.slow
def test_critical_learning_rate_of_a_large_perceptron_needs_no_matrix():
    params = network((300, 200, 150, 20, 1), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 93_000
    x = jax.random.normal(jax.random.key(2), (256, 300))
    loss = lambda p: fit(p, x, jnp.sin(x[:, 0]))  # noqa: E731
    found = games.critical_learning_rate(loss, params, optax.sgd(1.0))
    vector = jax.tree.map(jnp.ones_like, params)
    for _ in range(300):
        vector = jax.jvp(jax.grad(loss), (params,), (vector,))[1]
        size = optax.tree.norm(vector)
        vector = jax.tree.map(lambda v: v / size, vector)  # noqa: B023
    np.testing.assert_allclose(found.learning_rate, 2 / size, rtol=1e-3)


def test_critical_learning_rate_differentiates_by_what_the_loss_closes_over():
    def critical(a):
        return games.critical_learning_rate(
            lambda x: a * x**2 + x**4, jnp.asarray(0.5), optax.adam(1.0)
        ).learning_rate

    step = 1e-4
    expected = (critical(1 + step) - critical(1 - step)) / (2 * step)
    # The square of the step, times a third derivative of the order of the value.
    np.testing.assert_allclose(jax.grad(critical)(1.0), expected, rtol=1e-6)


def test_critical_learning_rate_is_nowhere_where_nothing_is_attracted():
    found = games.critical_learning_rate(lambda x: -(x**2), jnp.asarray(1.0), optax.sgd(1.0))
    assert found.learning_rate == jnp.inf
    assert int(found.kind) == games.NOT_LOST
    assert int(found.num_repelling) == 1


def test_critical_learning_rate_beyond_the_largest_is_not_lost():
    found = games.critical_learning_rate(
        quadratic, HERE, optax.sgd(1.0), max_step_size=0.5 * 2 / PLAIN
    )
    assert found.learning_rate == jnp.inf


def test_critical_learning_rate_says_where_the_gradient_is_clipped():
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    found = games.critical_learning_rate(quadratic, HERE, clipped)
    np.testing.assert_allclose(found.learning_rate, 2 / PLAIN, rtol=1e-12)
    assert found.bend > 0.9
    assert "clipped" in str(found)
    assert "clipped" not in str(games.critical_learning_rate(quadratic, HERE, optax.sgd(1.0)))


def test_critical_learning_rate_compiles_nothing_for_other_values():
    def ask(a, state):
        optimizer = optax.sgd(1.0, momentum=0.9)
        loss = lambda x: a * jnp.sum(x**2)  # noqa: E731
        return games.critical_learning_rate(loss, HERE * a, optimizer, optimizer_state=state)

    count = [0]

    def compiled(event, duration, **_):
        count[0] += event.endswith("backend_compile_duration")

    state = optax.sgd(1.0, momentum=0.9).init(HERE)
    other = jax.tree.map(lambda m: m + 1.0, state)
    ask(1.0, state)
    jax.monitoring.register_event_duration_secs_listener(compiled)
    try:
        found = ask(2.0, other)
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled)
    assert count == [0]
    np.testing.assert_allclose(found.learning_rate, 3.8 / 4, rtol=1e-12)


def test_critical_learning_rate_takes_a_step_count_as_it_stands():
    optimizer = optax.adam(1.0)
    state = with_second_moment(optimizer.init(HERE))
    counted = jax.tree.map(
        lambda part: part._replace(count=jnp.asarray(1000)) if hasattr(part, "nu") else part,
        state,
        is_leaf=lambda part: hasattr(part, "nu"),
    )
    found = games.critical_learning_rate(quadratic, HERE, optimizer, optimizer_state=counted)
    scaled = CURVATURE / (np.sqrt(NU / (1 - 0.999**1000)) + 1e-8)
    expected = 38 / scaled.max() * (1 - 0.9**1000)
    np.testing.assert_allclose(found.learning_rate, expected, rtol=1e-10)


MISTAKES = {
    "vector": (lambda x: x, optax.sgd(1.0), ValueError, "`loss` must be a scalar"),
    "infinite": (
        lambda x: jnp.sum(jnp.sqrt(x - 0.1)),
        optax.sgd(1.0),
        ValueError,
        "finite gradient by params",
    ),
    "value": (quadratic, optax.polyak_sgd(1.0), ValueError, "missing .* 'value'"),
    "wrapper": (
        quadratic,
        optax.MultiSteps(optax.sgd(1.0), 2),
        TypeError,
        r"MultiSteps\(\.\.\.\)\.gradient_transformation\(\)",
    ),
    "turns": (
        quadratic,
        optax.MultiSteps(optax.sgd(1.0), 3).gradient_transformation(),
        ValueError,
        "turns of 3 steps",
    ),
    "lion": (quadratic, optax.lion(1.0), ValueError, "in proportion"),
    "sign": (quadratic, optax.sign_sgd(1.0), ValueError, "in proportion"),
    "lamb": (quadratic, optax.lamb(1.0), ValueError, "in proportion"),
    "nothing": (quadratic, optax.set_to_zero(), ValueError, "must move the parameters"),
    "ended": (
        quadratic,
        optax.sgd(optax.cosine_decay_schedule(1.0, 10)),
        ValueError,
        "update is 0 there",
    ),
    "none": (quadratic, "adam", TypeError, "must be an optax.GradientTransformation"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_critical_learning_rate_rejects(name):
    loss, optimizer, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        games.critical_learning_rate(loss, HERE, optimizer)


def test_critical_learning_rate_says_that_a_loss_has_reverse_mode_alone():
    @jax.custom_vjp
    def bent(x):
        return jnp.tanh(x)

    bent.defvjp(lambda x: (bent(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))
    words = "games.critical_learning_rate: takes derivatives in forward mode"
    with pytest.raises(TypeError, match=words):
        games.critical_learning_rate(lambda w: bent(w) ** 2, jnp.ones(()), optax.sgd(1.0))


def test_critical_learning_rate_rejects_a_state_of_another_optimizer():
    with pytest.raises(ValueError, match="`optimizer_state` must have the structure"):
        games.critical_learning_rate(
            quadratic, HERE, optax.adam(1.0), optimizer_state=optax.sgd(1.0).init(HERE)
        )


def test_critical_learning_rate_rejects_an_optimizer_of_traced_numbers():
    @jax.jit
    def critical(beta):
        return games.critical_learning_rate(
            quadratic, HERE, optax.sgd(1.0, momentum=beta)
        ).learning_rate

    with pytest.raises(TypeError, match="inject_hyperparams"):
        critical(0.9)
