"""The layers in NumPy float64, one position and one head at a time, from their equations."""

import numpy as np


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def elman_rnn(p, x):
    h, out = np.zeros(p["bias"].shape), []
    for x_t in x:
        h = np.tanh(x_t @ p["input"] + h @ p["recurrent"] + p["bias"])
        out.append(h)
    return np.array(out)


def gru(p, x):
    h, out = np.zeros(p["reset"]["bias"].shape), []
    for x_t in x:

        def drive(name, state, x_t=x_t):
            gate = p[name]
            return x_t @ gate["input"] + state @ gate["recurrent"] + gate["bias"]

        z, r = sigmoid(drive("update", h)), sigmoid(drive("reset", h))
        h = z * h + (1 - z) * np.tanh(drive("candidate", r * h))
        out.append(h)
    return np.array(out)


def _heads(p, x, mix):
    """Sum over heads of what ``mix(q, k, v, i)`` reads at each position i."""
    y = np.zeros((len(x), p["output"].shape[2]))
    for h in range(p["query"].shape[1]):
        q, k, v = (x @ p[name][:, h] for name in ("query", "key", "value"))
        for i in range(len(x)):
            y[i] += mix(q, k, v, i) @ p["output"][h]
    return y


def self_attention(p, x, *, is_causal=False, window=None):
    reach = len(x) if window is None else window

    def mix(q, k, v, i):
        read = [j for j in range(len(x)) if abs(i - j) < reach and (j <= i or not is_causal)]
        weights = np.exp([q[i] @ k[j] / np.sqrt(q.shape[1]) for j in read])
        return weights @ v[read] / weights.sum()

    return _heads(p, x, mix)


def linear_attention(p, x, *, is_causal=False):
    def phi(u):
        return np.where(u > 0, 1 + u, np.exp(np.minimum(u, 0)))

    def mix(q, k, v, i):
        read = range(i + 1) if is_causal else range(len(x))
        weights = np.array([phi(q[i]) @ phi(k[j]) for j in read])
        return weights @ v[list(read)] / weights.sum()

    return _heads(p, x, mix)


def convolution(p, x, *, dilation=1, is_causal=False):
    taps = len(p["kernel"])
    center = taps - 1 if is_causal else (taps - 1) // 2
    y = np.tile(p["bias"], (len(x), 1))
    for i in range(len(x)):
        for m in range(taps):
            j = i + (m - center) * dilation
            if 0 <= j < len(x):
                y[i] += x[j] @ p["kernel"][m]
    return y


def feed_forward(p, x):
    return np.maximum(x @ p["inner"] + p["inner_bias"], 0) @ p["outer"] + p["outer_bias"]


def layer_norm(p, x, epsilon=1e-5):
    y = [(row - row.mean()) / np.sqrt(row.var() + epsilon) for row in x]
    return np.array(y) * p["scale"] + p["shift"]


def transformer_block(p, x, **options):
    z = x + self_attention(p["attention"], layer_norm(p["attention_norm"], x), **options)
    return z + feed_forward(p["feed_forward"], layer_norm(p["feed_forward_norm"], z))
