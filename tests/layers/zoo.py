"""Every kind of layer, with numbers and with names for sizes."""

from equipoise import layers

D = 6
# Those with a step-by-step form.
CAUSAL = {
    "elman_rnn": layers.elman_rnn(D),
    "elman_rnn_wide": layers.elman_rnn(D, hidden=9),
    "gru": layers.gru(D),
    "attention_causal": layers.self_attention(D, num_heads=2, is_causal=True),
    "attention_causal_window": layers.self_attention(D, num_heads=3, is_causal=True, window=3),
    "linear_attention_causal": layers.linear_attention(D, num_heads=2, is_causal=True),
    "convolution_causal": layers.convolution(D, kernel_size=3, is_causal=True),
    "convolution_dilated": layers.convolution(D, kernel_size=2, dilation=3, is_causal=True),
    "feed_forward": layers.feed_forward(D),
    "layer_norm": layers.layer_norm(D),
    "block_causal": layers.transformer_block(D, num_heads=2, is_causal=True),
    "stack_causal": layers.stack(layers.transformer_block(D, is_causal=True, window=4), 3),
    "stack_gru": layers.stack(layers.gru(D), 2),
}
OTHERS = {
    "attention_full": layers.self_attention(D, num_heads=2),
    "attention_window": layers.self_attention(D, window=3),
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
        "attention_full": lambda: layers.self_attention(d),
        "attention_causal": lambda: layers.self_attention(d, is_causal=True),
        "attention_window": lambda: layers.self_attention(d, window=extra),
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
