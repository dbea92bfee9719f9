"""Tables of cases: a part that meets every row and every column by default, all of it in CI."""

import pytest


def thinned(rows, columns):
    """Each row with one column, in turn; the other pairs are slow tests, of all in one."""
    rows, columns = list(rows), list(columns)
    return [
        pytest.param(row, column, marks=[] if i % len(columns) == j else [pytest.mark.slow])
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


def slow_but(names, *quick):
    """Each name, those that are not ``quick`` as slow tests."""
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in names]
