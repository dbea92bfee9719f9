"""Every public function, at orders 0 to 2, is lowered on a CPU for the other platforms."""

import jax
import jax.numpy as jnp
import pytest

from tests.attention.contract_cases import CASES
from tests.contract import Case

PLATFORMS = ("cuda", "rocm", "tpu")


def total(fn):
    """The sum of what is floating of a function's results."""

    def run(*args):
        leaves = jax.tree.leaves(fn(*args))
        floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin(jnp.where(jnp.isfinite(x), x, 0))) for x in floats)

    return run


def derived(fn, order):
    """The function, its gradient, or the tangent of that along ones."""
    slope = jax.grad(total(fn))
    if order < 2:
        return slope if order else fn
    return lambda x, *rest: jax.jvp(
        lambda y: slope(y, *rest), (x,), (jax.tree.map(jnp.ones_like, x),)
    )[1]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, Case)])
def test_every_function_is_lowered_for_every_platform(name, order):
    case = CASES[name]
    if order and not case.grad:
        pytest.skip(case.why)
    traced = jax.jit(derived(case.fn, order)).trace(*case.arrays())
    for platform in PLATFORMS:
        assert "stablehlo" in traced.lower(lowering_platforms=(platform,)).as_text()
