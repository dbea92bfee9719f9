"""Softmax attention pair by pair, in NumPy float64: what ``dot_product_attention`` must be."""

import numpy as np


def attend(
    query,
    key,
    value,
    *,
    bias=None,
    mask=None,
    is_causal=False,
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    local_window_size=None,
    logits_soft_cap=None,
    segment_ids=None,
    sinks=None,
    query_offset=0,
    score_fn=None,
    mask_fn=None,
):
    """(o, lse). query (b, t, n, h), key (b, s, k, h), value (b, s, k, e); options as there.

    Scale, bias, cap, score function, mask, softmax, in this order.
    """
    b, t, n, h = query.shape
    _, s, k, e = value.shape
    out, lse = np.zeros((b, t, n, e)), np.full((b, t, n), -np.inf)
    offsets = np.broadcast_to(query_offset, (b,))
    rows, columns = segment_ids or (None, None)
    left, right = local_window_size or (None, None)

    def entry(x, *place):
        return np.broadcast_to(x, (b, n, t, s))[place]

    def allowed(m, head, i, j):
        at = i + offsets[m]
        return not (
            (is_causal and j > at)
            or (left is not None and j < at - left)
            or (right is not None and j > at + right)
            or (query_seq_lengths is not None and i >= query_seq_lengths[m])
            or (key_value_seq_lengths is not None and j >= key_value_seq_lengths[m])
            or (rows is not None and rows[m, i] != columns[m, j])
            or (mask is not None and not entry(mask, m, head, i, j))
            or (mask_fn is not None and not mask_fn(m, head, i, j))
        )

    for m, i, head in np.ndindex(b, t, n):
        group = head * k // n
        # A sink is a score that reads nothing.
        scores = [] if sinks is None else [sinks[head]]
        values = [np.zeros(e) for _ in scores]
        for j in np.arange(s, dtype=np.int32):
            if not allowed(m, head, i, j):
                continue
            score = query[m, i, head] @ key[m, j, group] / np.sqrt(h)
            score += 0 if bias is None else entry(bias, m, head, i, j)
            if logits_soft_cap is not None:
                score = logits_soft_cap * np.tanh(score / logits_soft_cap)
            scores.append(score if score_fn is None else score_fn(score, m, head, i, j))
            values.append(value[m, j, group])
        if scores:
            top = max(scores)
            weights = np.exp(np.array(scores) - top)
            out[m, i, head] = weights @ np.array(values) / weights.sum()
            lse[m, i, head] = top + np.log(weights.sum())
    return out, lse
