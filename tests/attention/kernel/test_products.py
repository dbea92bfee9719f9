"""Products that sum over rows are laid out anew, and stay the same products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.attention._kernel import products as _products


@pytest.fixture(autouse=True)
def _every_sum_is_long(monkeypatch):
    monkeypatch.setattr(_products, "_LONG", 1)


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("bts,bth->bsh", (2, 5, 7), (2, 5, 3)),
        ("bth,bts->bhs", (2, 5, 3), (2, 5, 7)),
        ("ts,th->sh", (5, 7), (5, 3)),
        ("tbs,htb->bsh", (5, 2, 7), (3, 5, 2)),
        ("bcts,tch->bcsh", (2, 4, 5, 7), (5, 4, 3)),
    ],
)
def test_evaluate_lays_out_products_over_rows(rng, equation, a, b):
    x, y = jnp.asarray(rng.normal(size=a)), jnp.asarray(rng.normal(size=b))
    program = jax.make_jaxpr(lambda x, y: jnp.tanh(jnp.einsum(equation, x, y)))(x, y)
    (out,) = _products.evaluate(program, x, y)
    np.testing.assert_allclose(out, np.tanh(np.einsum(equation, x, y)), rtol=1e-12)


def test_evaluate_leaves_no_product_over_rows():
    x, y = jnp.zeros((2, 5, 7)), jnp.zeros((2, 5, 3))
    program = jax.make_jaxpr(lambda x, y: jnp.einsum("bts,bth->bsh", x, y))(x, y)
    laid = jax.make_jaxpr(lambda x, y: _products.evaluate(program, x, y))(x, y)
    (product,) = (e for e in laid.eqns if e.primitive.name == "dot_general")
    (sum_a, _), _ = product.params["dimension_numbers"]
    assert sum_a == (product.invars[0].aval.ndim - 1,)
