import pickle

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from equipoise import cost

DENSE = cost.analyze(lambda w, x: jnp.tanh(x @ w), "f32[d,d]", "f32[n,d]")
LOOP = cost.analyze(lambda x: lax.while_loop(lambda y: y[0] > 0, lambda y: y - 1, x), "f32[n]")


def test_compare_prints_formulas():
    table = cost.compare({"dense": DENSE, "loop": LOOP}, measures=("flops", "depth"))
    assert table.expressions[0] == (DENSE.flops, DENSE.depth)
    lines = str(table).splitlines()
    assert lines[0].split() == ["flops", "depth"]
    assert lines[1].split("  ")[0] == "dense"
    assert "2*d^2*n + d*n" in lines[1]


def test_compare_prints_numbers():
    table = cost.compare({"dense": DENSE}, measures=("flops", "peak_bytes"), n=2, d=3)
    assert table.values == ((42, DENSE.peak_bytes.evaluate(n=2, d=3)),)
    assert "42" in str(table)


def test_compare_has_a_column_for_each_measure():
    costs = {"dense": DENSE, "loop": LOOP}
    table = cost.compare(costs, measures=("flops", "depth"))
    assert table.names == ("dense", "loop")
    assert table.flops == (DENSE.flops, LOOP.flops)
    assert cost.compare({"dense": DENSE}, measures=("depth", "flops"), n=2, d=3).flops == (42,)
    assert pickle.loads(pickle.dumps(table)) == table
    for absent in ("peak_bytes", "branches", "median"):
        with pytest.raises(AttributeError, match=absent):
            getattr(table, absent)


def test_compare_shows_a_measure_that_does_not_exist():
    no_gradient = cost.analyze(lambda x: jax.pure_callback(lambda y: y, x, x), "f32[8]")
    table = cost.compare({"callback": no_gradient}, measures=("residual_bytes",))
    assert table.expressions == ((None,),)
    assert str(table).splitlines()[1].split() == ["callback", "-"]


def test_compare_rejects_bad_input():
    with pytest.raises(ValueError, match="`costs` must have at least one entry"):
        cost.compare({})
    with pytest.raises(ValueError, match="`measures` must be one of 'flops'"):
        cost.compare({"dense": DENSE}, measures=("time",))
    with pytest.raises(ValueError, match="`d` must be given a size"):
        cost.compare({"dense": DENSE}, n=3)
