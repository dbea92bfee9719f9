"""cuDNN's fused attention, forward and backward, as XLA's custom calls to it.

``jax.nn`` makes the same calls; it rounds the log-sum-exp to half precision, has no rule for
forward mode, and can be traced only where cuDNN is installed. What the calls take is written down
in XLA's ``gpu_backend_config.proto`` (``CudnnfMHABackendConfig``).
"""

import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from equipoise._jax.varying import alike
from equipoise._types import Array, PyTree
from equipoise.attention._fused.request import Arrays, Plan

# cuDNN has had trouble with the difference of two infinities: a masked pair has these scores, as
# in ``jax.nn``. A row that reads nothing has a log-sum-exp of about as much.
_MASKED = {"bfloat16": -(2.0**41), "float16": -(2.0**15)}

_Result: TypeAlias = tuple[tuple[int, ...], jnp.dtype, tuple[int, ...] | None]
"""Shape and dtype of a result, and its axes from slow to fast where they are not in order."""


def forward(plan: Plan, arrays: Arrays) -> tuple[Array, Array]:
    """(o, lse): o (b, t, n, h) in the dtype of the query, lse (b, n, t) in float32.

    Rows that lengths or windows leave without a key hold anything.
    """
    b, t, n, h = arrays.query.shape
    bias = score_bias(arrays)
    outs: list[_Result] = [
        ((b, n, t, h), arrays.query.dtype, (0, 2, 1, 3)),
        ((b, n, t), jnp.dtype(jnp.float32), None),
    ]
    operands = [arrays.query, arrays.key, arrays.value]
    operands += [] if bias is None else [bias]
    name = f"fmha{'ScaleBias' if bias is not None else ''}Softmax"
    out, lse = _call(name, plan, arrays, [*operands, *_lengths(arrays)], outs, backward=False)
    return jnp.swapaxes(out, 1, 2), lse


def backward(
    plan: Plan, arrays: Arrays, out: Array, lse: Array, cotangent: Array
) -> dict[str, Array]:
    """Cotangents of query, key, value and, where there is one, bias, by name."""
    (b, t, n, h), (_, s, k, _) = arrays.query.shape, arrays.key.shape
    dtype = arrays.query.dtype
    bias = score_bias(arrays)
    outs: list[_Result] = [((b, m, r, h), dtype, (0, 2, 1, 3)) for m, r in ((n, t), (k, s), (k, s))]
    operands = [arrays.query, arrays.key, arrays.value, lse, cotangent.astype(dtype)]
    if bias is not None:
        outs.append((bias.shape, dtype, None))
        operands.append(bias)
    operands += [out.astype(dtype), *_lengths(arrays)]
    name = f"fmha{'ScaleBias' if bias is not None else ''}SoftmaxBackward"
    found = _call(name, plan, arrays, operands, outs, backward=True)
    names = ("query", "key", "value")
    grads = {name: jnp.swapaxes(x, 1, 2) for name, x in zip(names, found, strict=False)}
    if arrays.bias is not None:
        whole = arrays.bias.shape
        shrunk = tuple(i for i, n in enumerate(whole) if n != found[3].shape[i])
        grads["bias"] = jnp.sum(found[3], shrunk, keepdims=True).astype(arrays.bias.dtype)
    return grads


def score_bias(arrays: Arrays) -> Array | None:
    """What is added to the scores, (b or 1, n or 1, t, s) in the dtype of the query, or None."""
    bias, allowed = arrays.bias, arrays.allowed
    if bias is None and allowed is None:
        return None
    dtype = arrays.query.dtype
    masked = jnp.asarray(_MASKED[dtype.name], dtype)
    total = jnp.zeros((), dtype) if bias is None else jnp.maximum(bias.astype(dtype), masked)
    if allowed is not None:
        total = jnp.where(allowed, total, masked)
    return jnp.broadcast_to(total, (*total.shape[:2], arrays.query.shape[1], arrays.key.shape[1]))


def reached(arrays: Arrays, lse: Array) -> Array:
    """Whether rows read a key that a bias or boolean array does not mask."""
    return lse > _MASKED[arrays.query.dtype.name] / 2


def _lengths(arrays: Arrays) -> list[Array]:
    """Rows and keys of each entry, at least one of each, or nothing where all count."""
    if arrays.rows is None and arrays.keys is None:
        return []
    (b, t), s = arrays.query.shape[:2], arrays.key.shape[1]
    return [
        jnp.broadcast_to(whole if x is None else jnp.clip(x, 1, whole), (b,)).astype(jnp.int32)
        for x, whole in ((arrays.rows, t), (arrays.keys, s))
    ]


def _call(
    name: str,
    plan: Plan,
    arrays: Arrays,
    operands: Sequence[Array],
    outs: Sequence[_Result],
    *,
    backward: bool,
) -> list[Array]:
    """The results of one call."""
    structure: Callable[..., PyTree] = jax.ShapeDtypeStruct  # it is left untyped
    call = jax.ffi.ffi_call(
        f"__cudnn${name}",
        # The last one is memory that cuDNN works in, whose size XLA finds out.
        [*(structure(shape, dtype) for shape, dtype, _ in outs), structure((0,), jnp.uint8)],
        output_layouts=[*(layout for _, _, layout in outs), None],
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(_config(plan, arrays, backward=backward)),
    )
    operands = alike(operands)
    found = call(*operands)[:-1]
    return [alike((x, operands[0]))[0] for x in found]


def _config(plan: Plan, arrays: Arrays, *, backward: bool) -> dict[str, object]:
    (b, t, n, _), s = arrays.query.shape, arrays.key.shape[1]
    padded = arrays.rows is not None or arrays.keys is not None
    masks = ["PADDING"] * padded + ["CAUSAL"] * plan.causal
    # Contracted axes and batch axes of each product, left and right: of query, cotangents and
    # results (batch, row, head, size), of keys and values likewise, of scores (batch, head, row,
    # key).
    products = {
        "bmm1": ((3, 3), ((0, 2), (0, 2))),
        "bmm2": ((3, 1), ((0, 1), (0, 2))),
    }
    if backward:
        products = {
            "bmm1_grad_gemm1": ((2, 1), ((0, 1), (0, 2))),
            "bmm1_grad_gemm2": ((3, 1), ((0, 1), (0, 2))),
            "bmm2_grad_gemm1": ((2, 1), ((0, 1), (0, 2))),
            "bmm2_grad_gemm2": ((3, 3), ((0, 2), (0, 2))),
        }
    config = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": plan.scale,
        "intermediate_tensor_shape": {
            "element_type": {"bfloat16": "BF16", "float16": "F16"}[arrays.query.dtype.name],
            "dimensions": [str(size) for size in (b, n, t, s)],
            "tuple_shapes": [],
            "layout": {
                "dim_level_types": [],
                "dim_unique": [],
                "dim_ordered": [],
                "minor_to_major": ["3", "2", "1", "0"],
                "tiles": [],
                "element_size_in_bits": "0",
                "memory_space": "0",
                "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
                "pointer_primitive_type": "PRIMITIVE_TYPE_INVALID",
                "dynamic_shape_metadata_prefix_bytes": "0",
            },
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "_".join(masks) or "NO_MASK",
        **{
            f"{name}_dot_dimension_numbers": {
                "lhs_contracting_dimensions": [str(left)],
                "rhs_contracting_dimensions": [str(right)],
                "lhs_batch_dimensions": [str(i) for i in left_batch],
                "rhs_batch_dimensions": [str(i) for i in right_batch],
            }
            for name, ((left, right), (left_batch, right_batch)) in products.items()
        },
        "dropout_rate": 0.0,
        "seed": 42,
        # cuDNN counts the row's own position.
        "sliding_window_length": 0 if plan.window is None else plan.window + 1,
        "max_seg_per_batch": 1,
        "is_paged_attention": False,
    }
    return {"operation_queue_id": "0", "cudnn_fmha_backend_config": config}
