"""The ONNX conformance cases of the Attention operator, through the public functions."""

import importlib
import warnings

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as onnx_node

from equipoise import attention
from tests.compiled import compiled

with warnings.catch_warnings():
    # A masked row of a case is a quotient of zeros.
    warnings.simplefilter("ignore")
    # As ``collect_testcases``, which would compute the cases of all operators for five seconds.
    importlib.import_module(f"{onnx_node.__name__}.attention")
    CASES = {case.name: case for case in onnx_node._NodeTestCases if "_expanded" not in case.name}

dot_product_attention = compiled(attention.dot_product_attention)
reference_attention = compiled(attention.reference_attention)


def arguments(case):
    node = case.model.graph.node[0]
    inputs, outputs = case.data_sets[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    named = dict(zip([name for name in node.input if name], inputs, strict=True))
    expected = dict(zip([name for name in node.output if name], outputs, strict=True))
    return attributes, named, expected


def split(x, heads):
    """(b, heads, t, h) or (b, t, heads · h) as (b, t, heads, h)."""
    if x.ndim == 4:
        return np.moveaxis(x, 1, 2)
    return x.reshape(*x.shape[:2], heads, -1)


def side(value):
    return None if value is None or value < 0 else int(value)


# Each case compiles programs of its own: a fourth of them by default, spread over all kinds.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if i % 4 == 0 else pytest.mark.slow)
        for i, name in enumerate(sorted(CASES))
    ],
)
def test_dot_product_attention_passes_the_onnx_case(name):
    attributes, named, expected = arguments(CASES[name])
    folded = named["Q"].ndim == 3
    query = split(named["Q"], attributes.get("q_num_heads"))
    key, value = (split(named[x], attributes.get("kv_num_heads")) for x in "KV")
    offset = 0
    if "past_key" in named:
        key = np.concatenate([split(named["past_key"], None), key], axis=1)
        value = np.concatenate([split(named["past_value"], None), value], axis=1)
        offset = named["past_key"].shape[2]
    options = {}
    if "nonpad_kv_seqlen" in named:
        lengths = named["nonpad_kv_seqlen"].reshape(-1)
        options["key_value_seq_lengths"] = lengths
        offset = lengths - query.shape[1]
    scale = attributes.get("scale")
    options |= {"query_offset": offset, "scale": scale}
    masks = {"is_causal": bool(attributes.get("is_causal", 0))}
    sides = [side(attributes.get(f"{which}_window_size")) for which in ("left", "right")]
    if sides != [None, None]:
        masks["local_window_size"] = tuple(sides)
    cap = attributes.get("softcap", 0.0)
    capped = {"logits_soft_cap": cap} if cap else {}
    mask = named.get("attn_mask")
    if mask is not None:
        pad = [(0, 0)] * (mask.ndim - 1) + [(0, key.shape[1] - mask.shape[-1])]
        fill = False if mask.dtype == bool else -np.inf
        mask = np.pad(mask, pad, constant_values=fill)
        if mask.dtype == bool:
            masks["mask"] = mask
        elif not cap:
            masks["bias"] = mask
        else:
            # ONNX caps before the bias; a score function states any order.
            capped = {}
            shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
            table = jnp.asarray(np.broadcast_to(mask, shape), jnp.float32)
            first = jnp.asarray(np.broadcast_to(offset, shape[:1]), jnp.int32)
            masks["score_fn"] = lambda s, b, h, q, k: (
                cap * jnp.tanh(s / cap) + table[b, h, q - first[b], k]
            )
    out = dot_product_attention(query, key, value, **options, **masks, **capped)
    wide = query.dtype == jnp.float32
    tolerance = {"rtol": CASES[name].rtol, "atol": CASES[name].atol}
    if not wide:
        # Two roundings to the narrow dtype, of the weights in the case and of the result here.
        tolerance = {"rtol": 4 * float(jnp.finfo(query.dtype).eps), "atol": 1e-4}

    def check(actual, wanted):
        assert actual.dtype == wanted.dtype
        np.testing.assert_allclose(
            np.asarray(actual, np.float64), np.asarray(wanted, np.float64), **tolerance
        )

    out = np.asarray(out)
    out = out.reshape(*out.shape[:2], -1) if folded else np.moveaxis(out, 2, 1)
    check(out, expected["Y"])
    if "present_key" in expected:
        check(np.moveaxis(key, 2, 1), expected["present_key"])
        check(np.moveaxis(value, 2, 1), expected["present_value"])
    if "qk_matmul_output" in expected:
        mode = attributes.get("qk_matmul_output_mode", 0)
        if mode <= 1:
            scores = reference_attention(
                query,
                key,
                value,
                scale=scale,
                return_scores=True,
                **({"logits_soft_cap": cap} if mode and cap else {}),
            )[1]
        else:
            _, lse, scores = reference_attention(
                query,
                key,
                value,
                return_residual=True,
                return_scores=True,
                **options,
                **masks,
                **capped,
            )
            if mode == 3:
                lse = np.moveaxis(np.asarray(lse), -1, 1)[..., None]
                scores = np.exp(scores - np.where(np.isneginf(lse), 0, lse))
        check(np.asarray(scores).astype(query.dtype), expected["qk_matmul_output"])


def test_all_onnx_cases_were_found():
    assert len(CASES) >= 93
