"""A function that named sizes cannot be traced with: the error says what helps, and it does."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from equipoise import cost

BLIND = {
    "heads": (lambda x: x.reshape(x.shape[0], 8, -1) * 2, "d", "8*d", ""),
    "blocks": (lambda x: x.reshape(4, -1, x.shape[1]), "n", "4*n", ""),
    "halves": (lambda x: x[: x.shape[0] // 2] + x[x.shape[0] // 2 :], "n", "2*n", ""),
    "strides": (lambda x: x[::2] + x[1::2], "n", "2*n", ""),
    "splits": (lambda x: jnp.split(x, 2)[0] * 2, "n", "2*n", ""),
    "branches": (lambda x: x if x.shape[0] > 3 else -x, "n", "", "n >= 4"),
    "at least": (lambda x: x * 2 if x.shape[1] >= 6 else -x, "d", "", "d >= 6"),
    "unrolled": (lambda x: sum(x[i] for i in range(x.shape[0])), "n", "", ""),
    "numpy": (lambda x: x / float(np.sqrt(x.shape[1])), "d", "", ""),
    "associative": (lambda x: lax.associative_scan(jnp.add, x), "n", "", ""),
}


@pytest.mark.parametrize("name", list(BLIND))
def test_every_remedy_works(name):
    fn, size, multiple, constraint = BLIND[name]
    with pytest.raises(ValueError, match=r"test_remedies\.py: `") as caught:
        cost.analyze(fn, "f32[n,d]")
    said = str(caught.value)
    assert f"With numbers for sizes it works: give a number for {size}" in said
    cost.analyze(fn, re.sub(rf"\b{size}\b", "24", "f32[n,d]"))
    assert (f"as in 'f32[{multiple}]'" in said) == bool(multiple)
    if multiple:
        cost.analyze(fn, re.sub(rf"\b{size}\b", multiple, "f32[n,d]"))
    assert (f"constraints=('{constraint}',)" in said) == bool(constraint)
    if constraint:
        cost.analyze(fn, "f32[n,d]", constraints=(constraint,))


def test_a_ragged_product_wants_a_number_of_groups_and_counts_each_row_once():
    def product(x, w, groups):
        return lax.ragged_dot(x, w, groups)

    with pytest.raises(ValueError, match=r"group count.* give a number for g"):
        cost.analyze(product, "f32[m,k]", "f32[g,k,n]", "i32[g]")
    args = "f32[m,k]", "f32[8,k,n]", "i32[8]"
    assert str(cost.analyze(product, *args).matmul_flops) == "2*k*m*n"
    gradient = jax.grad(lambda *xs: product(*xs).sum(), argnums=(0, 1))
    assert str(cost.analyze(gradient, *args).matmul_flops) == "4*k*m*n"


@pytest.mark.parametrize("sqrt", [np.sqrt, math.sqrt])
def test_roots_of_sizes_are_taken_by_jax(sqrt):
    with pytest.raises(ValueError, match=r"or call jax\.numpy there"):
        cost.analyze(lambda x: x / float(sqrt(x.shape[1])), "f32[n,d]")
    assert str(cost.analyze(lambda x: x / jnp.sqrt(x.shape[1]), "f32[n,d]").flops) == "d*n"
