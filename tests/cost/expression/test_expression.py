import pickle
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import cost
from equipoise.cost import Expression
from equipoise.cost._expression.expression import apply
from equipoise.cost._expression.extremes import largest
from equipoise.cost._expression.order import is_nonnegative
from equipoise.cost._expression.printing import folded
from equipoise.cost._program.sizes import parse, size_of

n, d, k = (Expression(name) for name in "ndk")

LEAVES = st.one_of(
    st.integers(-3, 5).map(lambda c: (Expression(c), str(c))),
    st.sampled_from("ndk").map(lambda name: (Expression(name), name)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(
        lambda t: (
            {"+": t[0][0] + t[2][0], "-": t[0][0] - t[2][0], "*": t[0][0] * t[2][0]}[t[1]],
            f"({t[0][1]} {t[1]} {t[2][1]})",
        )
    ),
    max_leaves=8,
)
SIZES = st.fixed_dictionaries({name: st.integers(1, 40) for name in "ndk"})


@given(TREES, SIZES)
def test_expression_arithmetic_is_that_of_integers(tree, sizes):
    expression, text = tree
    assert expression.evaluate(**sizes) == eval(text, {}, sizes)


@given(TREES, SIZES)
def test_expression_text_reads_back(tree, sizes):
    expression, _ = tree
    assert parse(str(expression)) == expression
    assert expression.substitute(**sizes) == expression.evaluate(**sizes)


@given(TREES, TREES, SIZES)
def test_expression_order_holds_at_every_size(a, b, sizes):
    try:
        below = a[0] <= b[0]
    except ValueError:
        return
    if below:
        assert a[0].evaluate(**sizes) <= b[0].evaluate(**sizes)
    else:
        assert not is_nonnegative(b[0] - a[0])


@given(st.lists(TREES, min_size=1, max_size=6), SIZES)
def test_expression_largest_is_the_maximum(trees, sizes):
    expressions = [tree[0] for tree in trees]
    expected = max(expression.evaluate(**sizes) for expression in expressions)
    assert largest(expressions).evaluate(**sizes) == expected


@given(TREES, st.integers(1, 7), SIZES)
def test_expression_floor_and_remainder_are_those_of_integers(tree, divisor, sizes):
    expression, value = tree[0], tree[0].evaluate(**sizes)
    assert (expression // divisor).evaluate(**sizes) == value // divisor
    assert (expression % divisor).evaluate(**sizes) == value % divisor


def test_expression_equal_ones_are_one():
    assert (n + d) ** 2 == n**2 + 2 * n * d + d**2
    assert hash(n + d) == hash(d + n)
    assert n * d / d == n
    assert n - n == 0
    assert (4 * n + 3) // 2 == 2 * n + Expression(3) // 2
    assert pickle.loads(pickle.dumps(n * d + 1)) == n * d + 1
    assert n != "n"


def test_expression_degree_and_leading():
    cost_ = 3 * n**2 * d + n * d**2 + 7 * n + 1
    assert [cost_.degree(name) for name in "nd"] == [2, 2]
    assert cost_.leading("n") == 3 * n**2 * d
    assert cost_.leading("d") == n * d**2
    assert cost_.leading() == 3 * n**2 * d + n * d**2
    assert Expression(0).degree("n") == 0
    assert (n**2 // 3).degree("n") == 2
    assert (n % d).degree("n") == 0
    assert largest([n**2, n * d]).degree("n") == 2
    assert (n**2 / (n + d)).degree("n") == 1


def test_expression_degree_of_an_unknown_size_is_an_error_and_of_a_known_one_is_not():
    with pytest.raises(
        ValueError, match=r"cost\.Expression\.degree: `name` must be one of .* d, n;"
    ):
        (n * d).degree("k")
    depth = cost.analyze(lambda x: jnp.tanh(x) + 1, "f32[n,d]").depth
    for known in (depth, 2 * depth, depth + 1, depth**2):
        assert known.degree("n") == 0
        with pytest.raises(ValueError, match="k"):
            known.degree("k")


@pytest.mark.parametrize(
    ("expression", "at_most", "expected"),
    [
        (n**2 * 4, 400, 10),
        (n**2 * 4, 399, 9),
        (n**2 * 4, 3, 0),
        (4 * n**2 * d, "1 kB", 5),
        (4 * n**2 * d, "1 KiB", 5),
        (4 * n, "2 GiB", 2**29),
        (4 * n, "1.5 GB", 375_000_000),
    ],
)
def test_largest_is_the_last_size_within_the_bound(expression, at_most, expected):
    assert expression.largest("n", at_most=at_most, d=10) == expected


def test_largest_refuses_what_does_not_grow():
    with pytest.raises(ValueError, match="must be one of the sizes d, n"):
        (n * d).largest("k", at_most=10)
    with pytest.raises(ValueError, match="must be a size that the expression grows with"):
        (n // n + n % 2).largest("n", at_most=10)
    with pytest.raises(ValueError, match="`d` must be given a size"):
        (n * d).largest("n", at_most=10)
    with pytest.raises(ValueError, match="`at_most` must be an amount of memory; got '8 gigs'"):
        n.largest("n", at_most="8 gigs")
    with pytest.raises(TypeError, match="`at_most` must be a number"):
        n.largest("n", at_most=None)


def test_expression_prints():
    assert str(2 * n**2 * d - n / 2 + 1) == "2*d*n^2 - n/2 + 1"
    assert str(Expression(0)) == "0"
    assert (2 * n**2 * d - n / 2).latex() == r"2 \, d \, n^{2} - \frac{n}{2}"
    assert (Expression("trips_1") + n // 2).latex() == (
        r"\mathrm{trips}_{\mathrm{1}} + \left\lfloor \frac{n}{2} \right\rfloor"
    )
    assert "max" in largest([n, d]).latex()
    assert repr(n + 1) == "Expression(n + 1)"


def test_expression_order():
    assert n <= n * d
    assert n < n + 1
    assert not n < n
    assert n * d >= n
    assert not n > d
    # True at every integer, though a real size between 2 and 3 would refute it.
    with pytest.raises(ValueError, match=r"must be decidable for all sizes; got the sign of"):
        _ = 5 * n <= n**2 + 6


def test_expression_evaluate_is_exact():
    assert (n / 3).evaluate(n=4) == Fraction(4, 3)
    assert isinstance((n / 2).evaluate(n=4), int)
    assert (n**20 + 1).evaluate(n=10) == 10**20 + 1
    assert n.evaluate(n=2, unused=3) == 2
    assert Expression("trips_1").evaluate(trips_1=0) == 0


def test_expression_evaluate_rejects_missing_and_bad_sizes():
    with pytest.raises(ValueError, match=r"`d` must be given a size; got sizes for n. Call eval"):
        (n * d).evaluate(n=1)
    with pytest.raises(ValueError, match="`n` must be at least 1; got int 0"):
        n.evaluate(n=0)
    with pytest.raises(TypeError, match="`n` must be a Python integer"):
        n.evaluate(n=1.5)
    with pytest.raises(ValueError, match="must be the name of a size"):
        Expression("2n")
    with pytest.raises(ZeroDivisionError):
        n / 0
    with pytest.raises(AttributeError, match="immutable"):
        n.value = 3


@pytest.mark.parametrize(
    "dimension",
    [
        lambda n, d: n * d + 3,
        lambda n, d: -n * n * d + 2 * d,
        lambda n, d: (n * d + 3) // 2,
        lambda n, d: ((n + 3) // 2) % 7,
        lambda n, d: jax.core.max_dim(n, d),
        lambda n, d: jax.core.min_dim(n * n - d, 3),
        lambda n, d: n - 4 * d,
    ],
)
def test_expression_reads_every_dimension_that_jax_writes(dimension):
    size = dimension(*jax.export.symbolic_shape("n,d"))
    found = size_of(size)
    for values in ((1, 1), (5, 2), (4, 9)):
        assert found.at(dict(zip("nd", values, strict=True))) == int(dimension(*values))


def test_expression_is_what_costs_are_made_of():
    found = cost.analyze(lambda a, b: a @ b, "f32[n,d]", "f32[d,k]")
    assert found.flops == 2 * n * d * k
    assert found.flops / (n * k) == 2 * d


def test_a_maximum_drops_logarithms_of_less():
    n, d = Expression("n"), Expression("d")

    def log(x):
        return apply("ceil_log2", x)

    found = largest([log(64 * n) + 16, log(1024 * n) + 47, log(256 * n) + 32, log(n)])
    assert str(found) == "ceil_log2(1024*n) + 47"
    assert largest([2 * log(4 * n), log(n) + log(2 * n)]) == 2 * log(4 * n)
    # Neither is larger for all sizes.
    assert str(largest([log(64 * n), log(n) + 7])) == "max(ceil_log2(64*n), ceil_log2(n) + 7)"
    assert str(largest([log(n), log(d)])) == "max(ceil_log2(d), ceil_log2(n))"


def test_a_long_maximum_is_folded_where_a_cost_is_printed():
    long = largest([Expression(name) ** 2 for name in "abcdef"])
    assert str(long) == "max(a^2, b^2, c^2, d^2, e^2, f^2)"
    assert folded(2 * long) == "2*max(a^2, b^2, c^2, d^2, … 2 more)"
    assert folded(largest([Expression("a"), Expression("b")])) == "max(a, b)"
