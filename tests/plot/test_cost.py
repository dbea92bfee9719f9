import matplotlib.pyplot as plt
import numpy as np
import pytest

from equipoise import plot
from equipoise.cost import Expression

n, d = Expression("n"), Expression("d")
LAYERS = {"attention": 4 * n**2 * d, "recurrence": 4 * n * d**2}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_cost_curves_draws_the_expressions_and_marks_the_crossover():
    sizes = [64, 128, 256, 1024]
    axes = plot.cost_curves(LAYERS, "n", at=sizes, d=256)
    attention, recurrence, mark = axes.lines
    np.testing.assert_allclose(attention.get_ydata(), [4 * s**2 * 256 for s in sizes])
    np.testing.assert_allclose(recurrence.get_ydata(), [4 * s * 256**2 for s in sizes])
    assert mark.get_xdata()[0] == 256
    assert "n* = 256" in [text.get_text() for text in axes.texts]
    assert axes.get_title(loc="left") == "attention costs more than recurrence beyond n = 256"
    assert axes.get_xlabel() == "n (d = 256)"


def test_cost_curves_marks_nothing_outside_the_range_and_skips_zeros():
    axes = plot.cost_curves({"a": n - 1, "b": 0 * n + 7}, "n", at=[1, 2, 4])
    assert len(axes.lines) == 2
    assert list(axes.lines[0].get_xdata()) == [2, 4]


@pytest.mark.parametrize(
    ("costs", "title"),
    [
        ({"a": 2 * n, "b": n}, "a costs more than b"),
        ({"a": n, "b": 1 * n}, "a and b cost the same"),
        # The order changes at 3 and again at 7; the last change is out of sight.
        ({"a": n**2 + 21, "b": 10 * n}, "b costs more than a in the end"),
        ({"a": n}, "a against n"),
    ],
)
def test_cost_curves_title_is_true_of_what_is_shown(costs, title):
    assert plot.cost_curves(costs, "n", at=[1, 2, 4, 6]).get_title(loc="left") == title


def test_cost_curves_draws_on_given_axes():
    _, axes = plt.subplots()
    assert plot.cost_curves(LAYERS, "n", at=[1, 2], ax=axes, d=4) is axes


def test_cost_curves_rejects_bad_input():
    with pytest.raises(ValueError, match=r"plot.cost_curves: `at` must have two values"):
        plot.cost_curves(LAYERS, "n", at=[3], d=4)
    with pytest.raises(ValueError, match="`d` must be given a size"):
        plot.cost_curves(LAYERS, "n", at=[3, 4])
