"""Every kind of layer, with numbers and with names for sizes."""

import functools
import types

from equipoise import attention, layers

D = 6


def attention_layer(width, *, num_heads=1, is_causal=False, window=None, implementation="plain"):
    """The layer of attention in the form of the others: its options of ``apply`` are fixed."""
    if window is not None:
        window = window - 1 if isinstance(window, int) else f"{window} - 1"
    layer = attention.multi_head_attention(width, num_heads, local_window_size=window)
    return types.SimpleNamespace(
        init=lambda key, dtype=float: layer.init(key, dtype),
        shapes=layer.shapes,
        apply=functools.partial(layer.apply, is_causal=is_causal, implementation=implementation),
    )


ATTENTION = {
    "attention_full": attention_layer(D, num_heads=2),
    "attention_window": attention_layer(D, window=3),
    "attention_causal": attention_layer(D, num_heads=2, is_causal=True),
    "attention_causal_window": attention_layer(D, num_heads=3, is_causal=True, window=3),
}
# Those with a step-by-step form.
CAUSAL = {
    "elman_rnn": layers.elman_rnn(D),
    "elman_rnn_wide": layers.elman_rnn(D, hidden=9),
    "gru": layers.gru(D),
    "linear_attention_causal": layers.linear_attention(D, num_heads=2, is_causal=True),
    "convolution_causal": layers.convolution(D, kernel_size=3, is_causal=True),
    "convolution_dilated": layers.convolution(D, kernel_size=2, dilation=3, is_causal=True),
    "feed_forward": layers.feed_forward(D),
    "layer_norm": layers.layer_norm(D),
    "block_window": layers.transformer_block(D, num_heads=3, is_causal=True, window=3),
    "block_causal": layers.transformer_block(D, num_heads=2, is_causal=True),
    "stack_causal": layers.stack(layers.transformer_block(D, is_causal=True, window=4), 3),
    "stack_gru": layers.stack(layers.gru(D), 2),
}
OTHERS = {
    "linear_attention": layers.linear_attention(D, num_heads=2),
    "convolution": layers.convolution(D, kernel_size=4),
    "block": layers.transformer_block(D, num_heads=3),
}
ALL = {**CAUSAL, **OTHERS}


def build(name, d, extra):
    """A layer of width d, numbers or names alike; ``extra`` is its other size."""
    return {
        "elman_rnn": lambda: layers.elman_rnn(d, hidden=extra),
        "gru": lambda: layers.gru(d),
        "attention_full": lambda: attention_layer(d),
        "attention_causal": lambda: attention_layer(d, is_causal=True),
        "attention_window": lambda: attention_layer(d, window=extra),
        "linear_attention": lambda: layers.linear_attention(d),
        "linear_attention_causal": lambda: layers.linear_attention(d, is_causal=True),
        "convolution": lambda: layers.convolution(d, kernel_size=extra),
        "feed_forward": lambda: layers.feed_forward(d, hidden=extra),
        "layer_norm": lambda: layers.layer_norm(d),
        "transformer_block": lambda: layers.transformer_block(d, is_causal=True),
        "stack": lambda: layers.stack(layers.transformer_block(d), extra),
    }[name]()


BUILT = (
    "elman_rnn", "gru", "attention_full", "attention_causal", "attention_window",
    "linear_attention", "linear_attention_causal", "convolution", "feed_forward", "layer_norm",
    "transformer_block", "stack",
)  # fmt: skip
