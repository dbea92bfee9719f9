import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from equipoise import cost, plot
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


def scoped(p, x):
    with jax.named_scope("mix"):
        x = x + (x @ x.T) @ x
    with jax.named_scope("map"):
        with jax.named_scope("up"):
            h = x @ p
        return h @ p.T


SCOPED = cost.analyze(scoped, "f32[d,4*d]", "f32[n,d]")


def widths(axes):
    """The widths of the boxes, row by row."""
    rows = {}
    for box in axes.patches:
        rows.setdefault(box.get_y(), []).append(box.get_width())
    return rows


@pytest.mark.parametrize("kind", ["line", "scope"])
@pytest.mark.parametrize("measure", ["flops", "matmul_flops", "bytes_read"])
def test_cost_tree_rows_divide_the_whole(kind, measure):
    axes = plot.cost_tree(SCOPED, kind=kind, measure=measure, n=64, d=16)
    rows = widths(axes)
    assert rows[0] == [1.0]
    for row in rows.values():
        assert sum(row) <= 1 + 1e-9
    assert sum(rows[1]) == pytest.approx(1)
    parts = SCOPED.by(kind, measure=measure)
    shares = [p.evaluate(n=64, d=16) / getattr(SCOPED, measure).evaluate(n=64, d=16)
              for p in parts.values()]  # fmt: skip
    if kind == "line":
        assert sorted(rows[2]) == pytest.approx(sorted(shares))


def test_cost_tree_nests_scopes_and_names_the_largest():
    axes = plot.cost_tree(SCOPED, kind="scope", measure="matmul_flops", n=1024, d=16)
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "71,303,168 matmul flops"
    assert {"mix", "map"} <= set(texts)
    assert axes.get_title(loc="left") == "mix takes 94% of 71,303,168 matmul flops"


def test_cost_tree_shows_the_text_of_lines():
    axes = plot.cost_tree(SCOPED, n=64, d=16)
    assert any("h = x @ p" in text.get_text() for text in axes.texts)


def test_cost_tree_rejects_bad_input():
    with pytest.raises(ValueError, match=r"plot.cost_tree: `kind` must be one of"):
        plot.cost_tree(SCOPED, kind="dtype", n=1, d=1)
    with pytest.raises(ValueError, match="must have transcendental_flops above 0"):
        plot.cost_tree(SCOPED, measure="transcendental_flops", n=1, d=1)
    with pytest.raises(ValueError, match="`d` must be given a size"):
        plot.cost_tree(SCOPED, n=1)


def test_time_bounds_draws_the_bound_of_each_part_in_the_color_of_its_resource():
    found = cost.roofline(SCOPED, "H100", n=4096, d=512)
    axes = plot.time_bounds(found, kind="scope")
    widths = [bar.get_width() for container in axes.containers for bar in container]
    expected = [1e6 * seconds for seconds in found.by("scope").values()]
    assert sorted(widths) == pytest.approx(sorted(expected))
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(
        found.by("scope").bound_by
    )
    assert axes.get_title(loc="left").startswith("mix takes")


def test_time_bounds_shows_the_text_of_lines_and_rejects_bad_input():
    found = cost.roofline(SCOPED, "H100", n=64, d=16)
    labels = [text.get_text() for text in plot.time_bounds(found).get_yticklabels()]
    assert any("h = x @ p" in label for label in labels)
    with pytest.raises(ValueError, match=r"plot.time_bounds: `kind` must be one of"):
        plot.time_bounds(found, kind="shape")
    empty = cost.roofline(cost.analyze(lambda: 1.0), "H100")
    with pytest.raises(ValueError, match="must have parts that take a finite time"):
        plot.time_bounds(empty)
