"""Functions as data: what is shared between closures made anew, and what never is."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise._jax import traced as module
from equipoise._jax.programs import primitive_names
from equipoise._jax.traced import traced
from equipoise._jax.tracing.outline import outlines

X = np.linspace(0.5, 1.5, 3)


class Counted:
    """The gradient of a function that travels as an argument; counts how often it is traced."""

    def __init__(self):
        self.traces = 0
        self.gradient = jax.jit(self.traced_gradient)

    def traced_gradient(self, function, x):
        self.traces += 1
        return jax.grad(function)(x)

    def __call__(self, function, x=X):
        return self.gradient(traced(function, x), x)


@pytest.fixture
def gradient():
    return Counted()


def with_array(a):
    weights = jnp.full((3, 2), a)
    return lambda x: jnp.sum(jnp.sin(x @ weights))


def with_number(a):
    return lambda x: jnp.sum(a * x**2)


def with_custom_rules(a):
    return lambda x: a * jnp.sum(jax.nn.relu(x) * jax.nn.softplus(x))


def with_compiled_function(a):
    weights = jnp.full((3, 2), a)
    inner = jax.jit(lambda x: 0.5 * x @ weights)
    return lambda x: a * jnp.sum(inner(x) ** 2)


def with_unhashable_state(a):
    state = {"weights": [np.full(3, a)], "seen": {1, 2}}
    return lambda x: jnp.sum(x**2 * state["weights"][0])


@pytest.mark.parametrize(
    "closure",
    [with_array, with_number, with_custom_rules, with_compiled_function, with_unhashable_state],
)
def test_closures_made_anew_share_a_program_and_keep_their_own_values(closure, gradient):
    for a in (1.0, 2.0, 3.0):
        np.testing.assert_allclose(gradient(closure(a)), jax.grad(closure(a))(X), rtol=1e-12)
    assert gradient.traces == 1


def test_a_changed_global_is_seen(gradient):
    state = {"a": 1.0}

    def function(x):
        return state["a"] * jnp.sum(x)

    assert gradient(function)[0] == 1
    state["a"] = 2.0
    assert gradient(function)[0] == 2
    assert gradient.traces == 1


def test_other_equations_shapes_and_dtypes_are_other_programs(gradient):
    gradient(lambda x: jnp.sum(jnp.sin(x)))
    gradient(lambda x: jnp.sum(jnp.cos(x)))
    gradient(lambda x: jnp.sum(jnp.cos(x)), X[:2])
    gradient(lambda x: jnp.sum(jnp.cos(x)), X.astype(np.float32))
    assert gradient.traces == 4


def test_a_number_that_decides_between_equations_makes_another_program(gradient):
    def power(n):
        return lambda x: jnp.sum(x**n)

    np.testing.assert_allclose(gradient(power(2)), 2 * X)
    np.testing.assert_allclose(gradient(power(3)), 3 * X**2)
    assert gradient.traces == 2


def test_numbers_that_are_kept_are_told_apart():
    def kept(number):
        return number == 1

    ones = [traced(with_number(a), X, kept=kept) for a in (1.0, 2.0, 3.0)]
    assert [f.shared is ones[1].shared for f in ones] == [False, True, True]
    np.testing.assert_allclose([f(X) for f in ones], np.sum(X**2) * np.arange(1, 4))


def test_numbers_inside_of_loops_are_told_apart(gradient):
    def loop(a):
        body = lambda x, _: (a * x, None)  # noqa: E731
        return lambda x: jnp.sum(jax.lax.scan(body, x, length=2)[0])

    for a in (2.0, 3.0, 2.0):
        np.testing.assert_allclose(gradient(loop(a)), np.full(3, a**2))
    assert gradient.traces == 2


def rounding(slope):
    """A straight-through estimator: one value, derivatives by choice."""

    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (slope * g,))
    return lambda x: jnp.sum(rounded(x))


def test_rules_of_derivation_tell_functions_of_equal_value_apart(gradient):
    for slope in (1, 2, 1):
        np.testing.assert_allclose(gradient(rounding(slope)), np.full(3, slope))
    assert gradient.traces == 2


def test_rules_that_close_over_an_array_share_a_program(gradient):
    weights = jnp.arange(1.0, 4.0)

    def scaled(slope):
        @jax.custom_vjp
        def function(x):
            return weights * x

        function.defvjp(lambda x: (weights * x, None), lambda _, g: (slope * weights * g,))
        return lambda x: jnp.sum(function(x))

    for slope in (1, 2, 1, 2):
        np.testing.assert_allclose(gradient(scaled(slope)), slope * weights)
    assert gradient.traces == 2


def test_rules_that_refuse_an_operand_are_told_apart_by_the_others(gradient):
    def refusing(slope):
        """Differentiable by its first operand alone, as solvers of equations are."""

        @jax.custom_jvp
        def function(x, scale):
            return x * scale

        @function.defjvp
        def rule(primals, tangents):
            if type(tangents[1]) is not jax.custom_derivatives.SymbolicZero:
                raise RuntimeError("cannot be differentiated by its scale")
            x, scale = primals
            return x * scale, slope * tangents[0] * scale

        function.defjvp(rule, symbolic_zeros=True)
        return lambda x: jnp.sum(function(x, jnp.full(3, 2.0)))

    for slope in (1, 3, 1, 3):
        np.testing.assert_allclose(gradient(refusing(slope)), np.full(3, 2 * slope))
    assert gradient.traces == 2


def test_captured_values_are_differentiated_and_mapped():
    def value(a):
        function = traced(lambda x: a * jnp.sum(x**2), X)
        return jax.jit(lambda f, x: f(x))(function, X)

    square = np.sum(X**2)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(2.0), square)
    np.testing.assert_allclose(jax.jvp(value, (2.0,), (1.0,))[1], square)
    np.testing.assert_allclose(jax.vmap(value)(np.arange(3.0)), np.arange(3) * square)


def test_what_captured_values_decide_alone_is_prepared_once():
    counts, data = jnp.arange(3.0), jnp.arange(4.0)

    def density(x):
        jax.debug.callback(lambda _: None, counts)
        constant = jnp.sum(jax.lax.lgamma(counts + 1.0)) + jax.lax.lgamma(5.0)
        return jnp.sum(jnp.cos(data[:, None]) * x[None]) - constant + jnp.sum(jnp.sin(x))

    function = traced(density, X)
    prepared = function.prepared()
    np.testing.assert_allclose(prepared(X), density(X), rtol=1e-15)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(prepared))(X[None]), jax.grad(density)(X)[None], rtol=1e-15
    )
    # Both ways agree where the captured values are differentiated too.
    by_captured = lambda f: jax.grad(lambda c: f(traced_with(function, c))(X))(function.captured)  # noqa: E731
    for one, other in zip(
        by_captured(lambda f: f), by_captured(lambda f: f.prepared()), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-15)
    names = set(primitive_names(prepared.shared.program))
    assert {"lgamma"} <= set(primitive_names(function.shared.program)) - names
    # What grows is made where it is used, what has an effect happens there, and the rest is due.
    assert {"broadcast_in_dim", "debug_callback", "sin"} <= names
    assert len(prepared.captured) > len(function.captured)


def traced_with(function, captured):
    return dataclasses.replace(function, captured=captured)


def test_results_keep_their_structure():
    function = traced(lambda x, y: {"sum": x + y[0], "first": y[1]}, 1.0, (2.0, 3.0))
    assert function(1.0, (2.0, 3.0)) == {"sum": 3.0, "first": 3.0}


def test_programs_are_bounded_and_hold_no_captured_array(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PROGRAMS", 4)
    module.seen.clear()
    before = len(jax.live_arrays())
    for n in range(1, 9):
        traced(lambda x, n=n: jnp.sum(x**n) + jnp.zeros(1000).sum(), X)
        captured = jnp.zeros(1000)
        traced(lambda x, c=captured: jnp.sum(x) + c.sum(), X)
        del captured
    assert len(module.seen) == 4
    assert len(jax.live_arrays()) == before


def test_functions_of_jax_are_outlined_once_and_other_programs_leave_nothing(monkeypatch):
    def trace(scale):
        def summed(x):
            _, found = jax.lax.scan(lambda c, y: (c, jax.nn.log_sigmoid(scale * y)), 0.0, x)
            return found.sum()

        return traced(summed, jnp.ones(3))

    traces, make_jaxpr = [], jax.make_jaxpr
    monkeypatch.setattr(
        jax, "make_jaxpr", lambda *args, **kw: traces.append(None) or make_jaxpr(*args, **kw)
    )
    trace(jnp.full((), 0.5))
    traces.clear()
    gc.collect()
    before = len(outlines)
    for scale in (1.0, 2.0, 3.0):
        trace(jnp.full((), scale))
    gc.collect()
    assert len(traces) == 3
    assert len(outlines) == before


def with_matrices(x):
    return jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(jnp.outer(x, x) + jnp.eye(len(x))))))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK is that of the CPU")
def test_over_factorizes_large_matrices_one_after_the_other():
    """A batch is divided among threads that wait for each other, for ever where they are few."""
    points = np.random.default_rng(0).standard_normal((5, 12))
    for function, together in ((with_matrices, False), (lambda x: jnp.sum(x**2), True)):
        slope = jax.grad(function)
        over = traced(function, points[0]).over(slope)
        np.testing.assert_allclose(over(points), jax.vmap(slope)(points), rtol=1e-12)
        names = set(primitive_names(jax.make_jaxpr(over)(points).jaxpr))
        assert ("scan" not in names) == together
    small = traced(with_matrices, points[0, :3])
    assert "scan" not in primitive_names(jax.make_jaxpr(small.over(with_matrices))(points).jaxpr)
