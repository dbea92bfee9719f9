"""The critical learning rate against training that is left to itself, and the table of it."""

import json

import jax
import pytest

from tests.benchmarks import bench_prediction_against_play as bench
from tests.benchmarks._report import FOLDER


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("4-16-1, elu, logistic", "momentum"),
        pytest.param("4-16-1, relu, squares of 12, no decay", "Adam", marks=pytest.mark.slow),
    ],
)
def test_critical_learning_rate_is_where_training_leaves(name, kind):
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        left, _, ratio = bench.measured(name, kind)
    assert left <= 1e-13
    assert abs(ratio - 1) < 0.05


def test_table_of_prediction_against_play_is_within_5_percent_in_every_row():
    rows = json.loads((FOLDER / "prediction.json").read_text())["rows"]
    assert len(rows) == len(bench.NETWORKS) * len(bench.OPTIMIZERS) == 36
    assert max(abs(row["ratio"] - 1) for row in rows) < 0.05
