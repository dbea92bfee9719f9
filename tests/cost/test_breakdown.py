"""Where the work is asked for: parts by line, function, scope, primitive and dtype."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from equipoise import cost
from tests.cost import programs

KINDS = ("line", "function", "scope", "primitive", "dtype")
MEASURES = ("flops", "matmul_flops", "elementwise_flops", "bytes_read", "bytes_written")


def dense(w, x):
    with jax.named_scope("dense"):
        return x @ w


def activated(x):
    return jnp.where(x > 0, jax.nn.relu(x), jnp.tanh(x))


@jax.jit
def layer(w, x):
    return activated(dense(w, x))


def loss(w, x):
    for _ in range(2):
        with jax.named_scope("layer"):
            x = layer(w, x)
    return jnp.sum(x**2)


ARGS = ("f32[d,d]", "f32[n,d]")


def line_of(function, text):
    """The label of the line of a function that holds a text."""
    lines, first = inspect.getsourcelines(function)
    number = next(i for i, line in enumerate(lines) if text in line)
    return f"tests/cost/test_breakdown.py:{first + number}"


def same(parts, whole):
    return sum(parts.values()) == whole


@pytest.mark.parametrize("name", list(programs.ALL))
@pytest.mark.parametrize("kind", KINDS)
def test_by_sums_to_the_whole(name, kind):
    fn, *args = programs.ALL[name]
    found = cost.analyze(fn, *args)
    for measure in MEASURES:
        assert same(found.by(kind, measure=measure), getattr(found, measure)), measure


def test_by_line_finds_the_line_through_compiled_functions_and_loops():
    found = cost.analyze(loss, *ARGS).by("line")
    n, d = cost.Expression("n"), cost.Expression("d")
    assert found[line_of(dense, "x @ w")] == 4 * d**2 * n
    # Twice a comparison, a selection, a maximum and a hyperbolic tangent.
    assert found[line_of(activated, "jnp.where")] == 2 * 4 * n * d
    assert set(found) <= {
        line_of(dense, "x @ w"),
        line_of(activated, "jnp.where"),
        line_of(loss, "x**2"),
    }

    def looped(w, x):
        return jax.lax.scan(lambda x, _: (dense(w, x), None), x, length=5)[0]

    assert cost.analyze(looped, *ARGS).by("line")[line_of(dense, "x @ w")] == 10 * d**2 * n


def test_a_library_function_counts_at_each_line_that_calls_it():
    def twice(x):
        x = jax.nn.softplus(x)
        return jax.nn.softplus(x)

    found = cost.analyze(twice, "f32[n]").by("line")
    assert len(found) == 2
    assert len(set(found.values())) == 1


def test_the_backward_pass_counts_at_the_line_that_it_differentiates():
    trained = cost.analyze_training(loss, *ARGS)
    n, d = cost.Expression("n"), cost.Expression("d")
    line = line_of(dense, "x @ w")
    assert trained.backward.by("line", measure="matmul_flops")[line] == 8 * d**2 * n
    assert trained.backward.by("scope", measure="matmul_flops")["layer/dense"] == 8 * d**2 * n
    assert same(trained.total.by("line"), trained.total.flops)


def test_by_scope_primitive_and_dtype():
    found = cost.analyze(loss, *ARGS)
    n, d = cost.Expression("n"), cost.Expression("d")
    assert found.by("scope")["layer/dense"] == 4 * d**2 * n
    assert found.by("primitive")["dot_general"] == 4 * d**2 * n
    assert set(found.by("dtype")) == {"float32", "bool"}
    assert found.by("function")["dense in tests/cost/test_breakdown.py"] == 4 * d**2 * n


def test_by_several_kinds_divides_each_part():
    found = cost.analyze(loss, *ARGS)
    both = found.by("scope", "primitive")
    assert same(both, found.flops)
    assert both["layer/dense", "dot_general"] == found.by("scope")["layer/dense"]
    assert "layer/dense · dot_general" in str(both)


def test_a_branch_that_is_not_largest_in_all_counts_as_one():
    def either(x):
        return jax.lax.cond(x[0, 0] > 0, jnp.sum, lambda x: x[0, 0] * 3 * 2 * 5 * 7, x)

    found = cost.analyze(either, "f32[n,d]")
    assert same(found.by("line"), found.flops)
    # d·n − 1 additions, or four products: beside it a comparison and what the branch follows from.
    assert str(found.by("primitive")["cond"]) == "max(4, d*n - 1)"


def test_lines_of_installed_packages_count_at_yours_unless_asked_for():
    model = nn.Dense(8)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 4), jnp.float32))

    def apply(params, x):
        return model.apply(params, x)

    found = cost.analyze(apply, params, "f32[n,4]")
    assert set(found.by("line")) == {line_of(apply, "model.apply")}
    inside = found.by("line", libraries=True)
    assert all(label.startswith("linen/linear.py:") for label in inside)
    assert same(inside, found.flops)


def test_print_shows_the_ten_largest_and_the_rest_as_one():
    def many(x):
        for name in "abcdefghijkl":
            with jax.named_scope(name):
                x = x + 1
        with jax.named_scope("product"):
            return x @ x

    text = str(cost.analyze(many, "f32[n,n]").by("scope"))
    lines = text.splitlines()
    assert lines[1].split() == ["scope", "at", "1024", "flops"]
    assert lines[2].split()[0] == "product"
    assert len(lines) == 2 + 10 + 1
    assert lines[-1].split()[:2] == ["3", "more"]


def test_by_refuses_other_kinds_and_measures():
    found = cost.analyze(loss, *ARGS)
    with pytest.raises(ValueError, match=r"cost\.Cost\.by: `kinds` must be one of"):
        found.by("file")
    with pytest.raises(ValueError, match="`kinds` must be some of"):
        found.by()
    with pytest.raises(ValueError, match="`measure` must be one of"):
        found.by("line", measure="peak_bytes")
    with pytest.raises(KeyError):
        found.by("scope")["nowhere"]
