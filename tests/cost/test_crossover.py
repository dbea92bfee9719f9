import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import cost
from equipoise.cost import Expression
from equipoise.cost._expression.extremes import largest

n, d = Expression("n"), Expression("d")


def changes(values):
    """By definition: the sizes at which the sign is the opposite of the last that was not 0."""
    found, last = [], 0
    for size, value in enumerate(values, 1):
        sign = int(np.sign(value))
        if sign and last and sign != last:
            found.append(size)
        last = sign or last
    return tuple(found)


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=5))
def test_crossover_of_polynomials_matches_every_size(coefficients):
    difference = sum((c * n**i for i, c in enumerate(coefficients)), Expression(0))
    found = cost.crossover(difference, 0, "n")
    # Cauchy's bound: beyond 1 + max |cᵢ| no root, as the leading coefficient is an integer.
    expected = changes([difference.evaluate(n=size) for size in range(1, 70)])
    assert found.crossings == expected
    assert found.exists == bool(expected)
    assert found.size == (expected[-1] if expected else None)


def test_crossover_of_attention_and_recurrence_is_at_the_width():
    attention, recurrence = 4 * n**2 * d, 4 * n * d**2
    found = cost.crossover(attention, recurrence, "n", d=512)
    assert (found.size, found.root, found.larger) == (513, 512.0, "a")
    swapped = cost.crossover(recurrence, attention, "n", d=512)
    assert (swapped.size, swapped.larger) == (513, "b")


def test_crossover_says_never():
    found = cost.crossover(n**2 + 1, n**2, "n")
    assert not found.exists
    assert found.size is None
    assert found.root is None
    assert found.larger == "a"
    assert cost.crossover(n, n, "n").larger == "neither"
    assert cost.crossover(n, 3, "d", n=4).larger == "a"


def test_crossover_finds_an_even_root_between_integers():
    # Negative at 3 alone.
    found = cost.crossover((2 * n - 5) * (2 * n - 7), 0, "n")
    assert found.crossings == (3, 4)


def test_crossover_of_expressions_that_round():
    found = cost.crossover(largest([n // 2, d]), 100, "n", d=7)
    assert found.crossings == (202,)
    assert cost.crossover(n // 3, 10**9, "n").size == 3 * (10**9 + 1)
    found = cost.crossover(1000 / n, 1, "n")
    assert (found.size, found.larger) == (1001, "b")


def test_crossover_rejects_bad_input():
    with pytest.raises(ValueError, match="`d` must be given a size"):
        cost.crossover(n * d, n, "n")
    with pytest.raises(ValueError, match=r"cost.crossover: `n` must be left open"):
        cost.crossover(n, 3, "n", n=4)
    with pytest.raises(ValueError, match="`d` must be at least 1"):
        cost.crossover(n * d, n, "n", d=0)
    with pytest.raises(TypeError, match="`a` must be an expression or a number"):
        cost.crossover("n", n, "n")
    with pytest.raises(TypeError, match="`d` must be a Python integer"):
        cost.crossover(n * d, n, "n", d=1.5)


def test_sizes_may_have_the_names_of_arguments():
    a, b, name, self = map(Expression, ("a", "b", "name", "self"))
    found = cost.crossover(name * a, b * self, "name", a=2, b=3, self=6)
    assert (found.root, found.size, found.larger) == (9, 10, "a")
    assert (a * b * name * self).evaluate(a=2, b=3, name=4, self=5) == 120
    assert (a + self).substitute(a=b, self=2) == b + 2
    table = cost.compare(
        {"loop": cost.analyze(jnp.sin, "f32[costs,a]")}, measures=("flops",), costs=3, a=2
    )
    assert table.flops == (6,)


def test_larger_is_a_word_and_a_sentence():
    for word in cost.Larger:
        assert word == str(word) == word.value
        assert word.sentence.endswith(".")
    assert cost.Larger("a").sentence == "The first cost is larger from some size on."
