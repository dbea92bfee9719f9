"""What the kernels hold where they mask, and what NaN behind a mask does to their results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import attention
from tests.attention.fused.stand_in import as_cuda
from tests.attention.fused.test_tower import ARRAYS, LENGTHS, MASK, SERVED, T, normal
from tests.thinned import thinned

HALF = T // 2


def run(options, arrays, given):
    """Values, and the cotangents of query, key and value."""
    attend = functools.partial(attention.dot_product_attention, **options)
    return jax.jit(lambda *x: (attend(*x[:3]), *jax.vjp(attend, *x[:3])[1](x[3])))(*arrays, given)


LOWER = jnp.tril(jnp.ones((1, 1, T, T), bool))
LATE = {
    "causal": {"is_causal": True},
    "window": {"is_causal": True, "local_window_size": (4, 0)},
    "lengths": {"is_causal": True, "key_value_seq_lengths": jnp.array([T, T - 1], jnp.int32)},
    "boolean array": {"mask": LOWER},
    "bias": {"bias": jnp.where(LOWER, 0, -jnp.inf).astype("bfloat16")},
}


@pytest.mark.parametrize(("name", "number"), thinned(LATE, [jnp.nan, jnp.inf]))
def test_dot_product_attention_edge_masked_numbers_do_not_leak_from_kernels(name, number):
    """Late values reach no early row, nor the slope of its query."""
    options, (q, k, v) = LATE[name], ARRAYS.values()
    given = normal(*q.shape)
    with as_cuda() as calls:
        late = run(options, (q, k, v.at[:, HALF:].set(number)), given)
        clean = run(options, (q, k, v), given)
        assert "backward" in calls
    for a, b in zip(late[:2], clean[:2], strict=True):
        a, b = (np.asarray(x, float)[:, :HALF] for x in (a, b))
        # By blocks and by kernels: each rounds a few numbers of order one to bfloat16.
        np.testing.assert_allclose(a, b, rtol=0, atol=0.03)
    assert not np.any(np.isfinite(np.asarray(late[0], float)[:, -2]))


def test_dot_product_attention_edge_masked_rows_are_zero_by_kernels():
    q, k, v = ARRAYS.values()
    with as_cuda():
        out, dq, dk, dv = run(LENGTHS, (q, k, v), normal(*q.shape))
        attend = functools.partial(attention.dot_product_attention, return_residual=True, **LENGTHS)
        lse = jax.jit(attend)(q, k, v)[1]
    for x in (out, dq):
        assert np.all(np.asarray(x, float)[0, 20:] == 0)
        assert np.all(np.asarray(x, float)[1] == 0)
    for x in (dk, dv):
        assert np.all(np.asarray(x, float)[0, 9:] == 0)
        assert np.all(np.asarray(x, float)[1] == 0)
    assert np.all(np.isneginf(np.asarray(lse)[0, 20:]))
    assert np.all(np.isfinite(np.asarray(lse)[0, :20]))
    assert np.all(np.isneginf(np.asarray(lse)[1]))


@pytest.mark.parametrize("kind", ["boolean array", "bias"])
def test_dot_product_attention_edge_rows_that_arrays_mask_are_zero_by_kernels(kind):
    """The kernel would average all keys: the blocks take over."""
    mask = MASK.at[:, :, 3].set(False)
    bias = jnp.where(mask, 0, -jnp.inf).astype(jnp.bfloat16)
    options = {"mask": mask} if kind == "boolean array" else {"bias": bias}
    q, k, v = ARRAYS.values()
    with as_cuda() as calls:
        found = run(options, (q, k, v), normal(*q.shape))
        assert set(calls) == {"forward", "backward"}
    assert np.all(np.asarray(found[0], float)[:, 3] == 0)
    assert np.all(np.asarray(found[1], float)[:, 3] == 0)
    assert all(np.all(np.isfinite(np.asarray(x, float))) for x in found)


def test_dot_product_attention_looks_at_no_result_where_nothing_is_masked():
    """No branch, hence no wait for the device: in full attention, forward and backward."""
    for name, branches in (("full", False), ("causal", True)):
        arrays, options = SERVED[name]
        attend = functools.partial(attention.dot_product_attention, **options)
        slope = jax.grad(lambda x, f=attend: jnp.sum(f(**x).astype(jnp.float32)))
        text = jax.jit(slope).trace(arrays).lower(lowering_platforms=("cuda",)).as_text()
        assert ("stablehlo.case" in text) == branches, name
