"""The cost with names for sizes is, at any sizes, the cost of the program with numbers."""

import jax
import numpy as np
import pytest

from equipoise import cost
from tests.layers.zoo import BUILT, build

MEASURES = ("flops", "matmul_flops", "depth", "peak_bytes", "residual_bytes", "output_bytes")


def sizes(count):
    """Different numbers, two at least: JAX writes other programs for axes of length one."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        n, d, extra = (int(s) for s in rng.choice(np.arange(2, 40), 3, replace=False))
        yield {"n": n, "d": d, "r": extra}


@pytest.fixture(autouse=True)
def as_a_user():
    """With 64-bit types on, JAX indexes an axis of named size by int64 and one of 36 by int32."""
    with jax.enable_x64(False):
        yield


def check(name, count):
    layer = build(name, "d", "r")
    named = cost.analyze(layer.apply, layer.shapes(), "f32[n,d]")
    # A layer that closes over r has no program with numbers to read residuals off.
    note = "scalars that follow from sizes alone: all counted as residuals"
    assert named.assumptions == ((note,) if name == "attention_window" else ())
    for at in sizes(count):
        layer = build(name, at["d"], at["r"])
        numbers = cost.analyze(layer.apply, layer.shapes(), f"f32[{at['n']},{at['d']}]")
        for measure in MEASURES:
            expression = getattr(named, measure)
            given = {size: at[size] for size in expression.names}
            difference = expression.evaluate(**given) - getattr(numbers, measure).evaluate()
            # With numbers for sizes a scalar such as 1/√k is a constant that reverse mode keeps.
            assert abs(difference) <= (8 if measure == "residual_bytes" else 0), measure


@pytest.mark.parametrize("name", BUILT)
def test_analysis_with_names_equals_numbers(name):
    check(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_analysis_with_names_equals_numbers_at_twenty_sizes(name):
    check(name, 20)
