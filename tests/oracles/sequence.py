"""Independent NumPy float64 definitions of what surrounds attention."""

import numpy as np


def elu_plus_one(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def linear_attention(query, key, value, *, mask=None, causal=False):
    """One pair at a time. query (t, n, h), key (s, k, h), value (s, k, e)."""
    t, n, _ = query.shape
    s, k, e = value.shape
    out = np.zeros((t, n, e))
    for i in range(t):
        for head in range(n):
            total, weight = np.zeros(e), 0.0
            for j in range(i + 1 if causal else s):
                if mask is None or mask[j]:
                    w = elu_plus_one(query[i, head]) @ elu_plus_one(key[j, head * k // n])
                    total, weight = total + w * value[j, head * k // n], weight + w
            out[i, head] = total / weight if weight else 0
    return out


def rotary(x, positions, base, size, *, interleaved):
    """Pairs as complex numbers, turned by multiplication. x (t, n, h), positions (t,)."""
    out = np.array(x, np.float64)
    for i in range(size // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + size // 2)
        z = (x[..., a] + 1j * x[..., b]) * np.exp(1j * positions * base ** (-2 * i / size))[:, None]
        out[..., a], out[..., b] = z.real, z.imag
    return out
