"""Every public function, at orders 0 to 2, is lowered on a CPU for the other platforms."""

import jax
import jax.numpy as jnp
import pytest

from equipoise import attention
from equipoise.attention._kernel.schedule import Where, grid_of, grid_of_values
from equipoise.attention._request import problem_of
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


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("length", [64, 700])
def test_every_platform_has_its_own_blocks(length, order):
    """The program of each multiplies blocks of the shapes chosen for it, and of no other."""
    x = jnp.zeros((1, length, 8, 4))
    attend = lambda q: attention.dot_product_attention(q, x, x)  # noqa: E731
    traced = jax.jit(derived(attend, order)).trace(x)
    texts = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", *PLATFORMS)}
    choose = grid_of if order else grid_of_values
    grids = {p: choose(problem_of(x, x, x), Where(None, None, p)) for p in texts}
    assert grids["cpu"] != grids["cuda"] or length == 64
    for platform, text in texts.items():
        for grid in grids.values():
            block = f"tensor<1x{grid.head_block}x{grid.row_block}x{grid.key_block}xf"
            assert (block in text) == (grid == grids[platform]), (platform, grid)


def test_a_program_for_several_platforms_has_the_blocks_of_each():
    x = jnp.zeros((1, 700, 8, 4))
    attend = lambda q: attention.dot_product_attention(q, x, x)  # noqa: E731
    both = jax.jit(attend).trace(x).lower(lowering_platforms=("cpu", "cuda")).as_text()
    for platform in ("cpu", "cuda"):
        grid = grid_of_values(problem_of(x, x, x), Where(None, None, platform))
        assert f"tensor<1x{grid.head_block}x{grid.row_block}x{grid.key_block}xf" in both
