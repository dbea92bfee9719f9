"""Critical step sizes side by side."""

import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games

QUADRATIC = games.zero_sum(lambda x, y: 0.25 * x**2 + x * y - 0.25 * y**2)
ORIGIN = (jnp.zeros(()), jnp.zeros(()))


@pytest.fixture(scope="module")
def comparison():
    rules = {"simultaneous": games.simultaneous(), "alternating": games.alternating()}
    return games.compare(rules, QUADRATIC, ORIGIN, max_step_size=3.0)


def test_compare_prints_the_largest_step_first(comparison):
    lines = str(comparison).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["alternating", "simultaneous"]
    assert "1.333 " in lines[2]
    assert "flip" in lines[2]
    assert "0.8 " in lines[3]
    assert "Neimark-Sacker" in lines[3]


def test_compare_says_never_and_beyond():
    bilinear = games.zero_sum(lambda x, y: x * y)
    text = str(
        games.compare(
            {"simultaneous": games.simultaneous(), "look ahead": games.extragradient()},
            bilinear,
            ORIGIN,
            max_step_size=0.5,
        )
    )
    assert "simultaneous  never" in text
    assert "look ahead    beyond 0.5" in text


def test_compare_holds_one_row_a_name(comparison):
    assert comparison.names == ("simultaneous", "alternating")
    assert comparison.kind.tolist() == [games.NEIMARK_SACKER, games.FLIP]
    np.testing.assert_allclose(comparison.step_size, [0.8, 4 / 3], rtol=1e-9)
    assert comparison["alternating"].step_size == comparison.step_size[1]
    assert comparison["alternating"].resonance.tolist() == [1, 2]
    with pytest.raises(KeyError):
        comparison["momentum"]


@pytest.mark.parametrize(
    ("rules", "error", "match"),
    [
        ({}, ValueError, "`rules` must hold at least one rule"),
        ({"a": games.simultaneous}, TypeError, r"`rules\['a'\]` must be a Rule"),
        ([games.simultaneous()], TypeError, "`rules` must map names to rules"),
    ],
)
def test_compare_rejects_what_maps_no_names_to_rules(rules, error, match):
    with pytest.raises(error, match=f"games.compare: {match}"):
        games.compare(rules, QUADRATIC, ORIGIN, max_step_size=1.0)


def test_compare_has_a_column_for_what_small_steps_attract_where_it_differs():
    rules = {"plain": games.simultaneous(), "heavy": games.momentum(0.5)}
    valley = games.general_sum(lambda x: 1.5 * x[0] ** 2 + 0 * x[1])
    table = games.compare(rules, valley, (jnp.zeros(2),), max_step_size=9.0)
    header, *rows = str(table).splitlines()[1:]
    assert "attracts below" in header
    assert [row.split()[:3] for row in rows] == [
        ["heavy", "never", "1"],
        ["plain", "never", "0.6667"],
    ]
    whole = games.compare(rules, games.general_sum(lambda x: x**2), (0.0,), max_step_size=9.0)
    assert "attracts below" not in str(whole)
