"""Every evaluation of a fit is counted."""

import jax.numpy as jnp
import numpy as np

from equipoise import vi
from equipoise.vi._target.target import Target
from equipoise.vi._weights.effort import counted, evaluated, spent


def test_counts_are_of_the_innermost_block():
    with counted():
        evaluated(3)
        with counted():
            evaluated(4)
            assert spent() == 4
        assert spent() == 3


def test_fit_counts_every_point_that_it_asks(key, monkeypatch):
    ask, found = Target._ask, []

    def counting(self, order, points):
        found.append(len(points) * (1 + points.shape[1] if order == 2 else 1))
        return ask(self, order, points)

    monkeypatch.setattr(Target, "_ask", counting)
    fit = vi.fit(lambda z: -jnp.sum(z**2) - 0.1 * jnp.sum(z**4), np.zeros(2), key)
    assert fit.evaluations == sum(found)
    assert f"{fit.evaluations:,}" in str(fit)
    found.clear()
    options = {"family": vi.low_rank(np.zeros(2), rank=1), "num_steps": 30, "num_samples": 10}
    fit = vi.fit(lambda z: -jnp.sum(z**2), np.zeros(2), key, **options)
    assert fit.evaluations == sum(found) + 30 * 10
