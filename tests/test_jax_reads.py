"""The degree of a function, read off its program."""

import jax
import jax.numpy as jnp
import pytest

from equipoise._jax.reads import degree

Q, S = jnp.ones(3), jnp.arange(3.0)


def twice(q, s):
    return jax.lax.scan(lambda c, _: (c - q * c, None), s, None, length=2)[0]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda q, s: 2 * s, 0),
        (lambda q, s: s - q * s, 1),
        (jax.jit(lambda q, s: s - (q @ s) * q), 2),
        (lambda q, s: s - q * (s - q * s), 2),
        (lambda q, s: jax.lax.scan(lambda c, _: (c - q, None), s, None, length=2)[0], 1),
        (lambda q, s: q**3, None),
        (lambda q, s: s / q, None),
        (lambda q, s: jnp.where(q > 0, q, s), None),
        (lambda q, s: jnp.sign(q) * s, None),
        (lambda q, s: jnp.clip(q, -1, 1) * s, None),
        (twice, None),  # a loop may be of any degree
    ],
)
def test_degree_is_that_of_the_polynomial(function, expected):
    assert degree(function, Q, S, most=2) == expected
