"""The attention tests that tokamax ships, through this library's function: ``python -m`` runs them.

They need tokamax, and with it Python 3.12. What the function does not offer has to raise: a mask of
what is dropped, scores in half precision, and sums that are not divided by their weights.
"""

import jax
import jax.numpy as jnp
from absl.testing import absltest
from tokamax._src import quantization
from tokamax._src.ops.attention import base, test_base

from equipoise import attention


def attend(
    q,
    k,
    v,
    *,
    bias=None,
    mask=None,
    q_indices=None,
    k_indices=None,
    is_causal=False,
    logits_scale=None,
    logits_soft_cap=None,
    normalize_output=True,
    return_residuals=False,
    precision=None,
):
    """Tokamax' arguments as ours; what is not among them is refused by Python."""
    q, k, v = map(quantization.as_array, (q, k, v))
    if isinstance(mask, base.CausalMask):
        mask = base.Mask(causal_mask=mask)
    if q_indices is not None or k_indices is not None:
        mask = (mask or base.Mask()) & base.Mask(is_causal=is_causal)
        of = [x.shape[-3] if i is None else i for x, i in ((q, q_indices), (k, k_indices))]
        mask, is_causal = mask.as_array(*of), False
    if isinstance(mask, base.Mask):
        mask = of_ranges(mask, (*q.shape[:-3], q.shape[-2]), (q.shape[-3], k.shape[-3]))
    with jax.default_matmul_precision(None if precision is None else precision.name.lower()):
        out, lse = attention.dot_product_attention(
            q,
            k,
            v,
            bias,
            mask,
            scale=logits_scale,
            is_causal=is_causal,
            logits_soft_cap=logits_soft_cap,
            return_residual=True,
        )
    if not return_residuals:
        if not normalize_output:
            raise NotImplementedError("sums alone, without what they are relative to")
        return out
    # Relative to the log-sum-exp the sum of weights is 1.
    lse = jnp.swapaxes(lse, -1, -2)
    return out, (lse, jnp.ones_like(lse))


def of_ranges(mask, heads, lengths):
    """Ranges of keys for each query, and of queries for each key, as one mask value."""
    found = ~attention.from_function(lambda b, h, i, j: j < 0)
    if mask.bool_mask is not None:
        found = found & mask.bool_mask
    if mask.causal_mask is not None:
        ahead, size = mask.causal_mask.offset, mask.causal_mask.window_size
        found = found & attention.from_function(lambda b, h, i, j: j <= i + ahead)
        if size is not None:
            found = found & attention.from_function(lambda b, h, i, j: j > i + ahead - size)

    def limit(array, length):
        full = jnp.broadcast_to(array, (*heads, length)).reshape(-1, heads[-1], length)
        return lambda b, h, at: full[b, h, at]

    t, s = lengths
    for array, length, test in (
        (mask.k_start, t, lambda of: lambda b, h, i, j: j >= of(b, h, i)),
        (mask.k_end, t, lambda of: lambda b, h, i, j: j < of(b, h, i)),
        (mask.q_start, s, lambda of: lambda b, h, i, j: i >= of(b, h, j)),
        (mask.q_end, s, lambda of: lambda b, h, i, j: i < of(b, h, j)),
    ):
        if array is not None:
            found = found & attention.from_function(test(limit(array, length)))
    return found


class AttentionTest(test_base.AttentionTestBase):
    def __init__(self, *args):
        super().__init__(
            *args, attention_fn=attend, supports_dropout=False, supports_logits_dtype=False
        )

    def _run_test_with_inputs(self, *args, **kwargs):
        options = kwargs.get("impl_kwargs", {})
        residuals = options.get("return_residuals", False)
        if not options.get("normalize_output", True) and not residuals:
            kwargs["expect_supported"] = False
        super()._run_test_with_inputs(*args, **kwargs)


if __name__ == "__main__":
    absltest.main()
