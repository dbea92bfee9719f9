"""Stand-ins for cuDNN in whole matrices, put where the real calls are, on a CPU that plays CUDA.

They leak as the kernels do: what is masked has a weight of 0, and 0 · NaN is NaN; rows without a
key hold anything.
"""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from equipoise._jax.primitives import lower_as
from equipoise.attention._fused import cudnn
from equipoise.attention._fused.blocks import cotangent
from equipoise.attention._fused.lowered import cotangent_on_cuda, elsewhere, value_on_cuda
from equipoise.attention._fused.tower import cotangent_p, value_p
from equipoise.attention._fused.trial import permitted

ANYTHING = 7.0


def scores(plan, arrays):
    groups = arrays.query.shape[2] // arrays.key.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (arrays.query, arrays.key, arrays.value))
    k, v = jnp.repeat(k, groups, 2), jnp.repeat(v, groups, 2)
    score = plan.scale * jnp.einsum("btnh,bsnh->bnts", q, k)
    bias = cudnn.score_bias(arrays)
    score = score if bias is None else score + bias.astype(jnp.float32)
    return jnp.where(permitted(plan, arrays), score, -jnp.inf), q, k, v


def forward(plan, arrays):
    score, _, _, v = scores(plan, arrays)
    lse = jax.nn.logsumexp(score, axis=-1)
    dead = jnp.isneginf(lse)
    weight = jnp.where(dead[..., None], ANYTHING, jnp.exp(score - lse[..., None]))
    out = jnp.einsum("bnts,bsnh->btnh", weight, v).astype(arrays.query.dtype)
    return out, jnp.where(dead, ANYTHING, lse)


def backward(plan, arrays, out, lse, given):
    score, q, k, v = scores(plan, arrays)
    given, out = given.astype(jnp.float32), out.astype(jnp.float32)
    weight = jnp.exp(score - lse[..., None])
    change = jnp.einsum("btnh,bsnh->bnts", given, v)
    mean = jnp.swapaxes(jnp.sum(given * out, -1), 1, 2)[..., None]
    change = weight * (change - mean)
    b, s, kv, h = arrays.key.shape
    shared = lambda x: x.reshape(b, s, kv, -1, h).sum(3)  # noqa: E731
    grads = {
        "query": plan.scale * jnp.einsum("bnts,bsnh->btnh", change, k),
        "key": shared(plan.scale * jnp.einsum("bnts,btnh->bsnh", change, q)),
        "value": shared(jnp.einsum("bnts,btnh->bsnh", weight, given)),
    }
    if arrays.bias is not None:
        summed = tuple(i for i, n in enumerate(arrays.bias.shape) if n != change.shape[i])
        grads["bias"] = change.sum(summed, keepdims=True)
    return {name: x.astype(arrays.query.dtype) for name, x in grads.items()}


def plain(evaluate):
    return lambda *args, obstacle, **params: evaluate(*args, **params)


@contextlib.contextmanager
def as_cuda():
    """Programs for the CPU are lowered as for CUDA; counts the kernels' calls that they hold."""
    calls = []

    def counted(name, function):
        def run(*args):
            calls.append(name)
            return function(*args)

        return run

    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cudnn, "forward", counted("forward", forward))
        patch.setattr(cudnn, "backward", counted("backward", backward))
        lower_as(value_p, value_on_cuda, "cpu")
        lower_as(cotangent_p, cotangent_on_cuda, "cpu")
        yield calls
    lower_as(value_p, elsewhere, "cpu")
    lower_as(cotangent_p, plain(cotangent), "cpu")
    jax.clear_caches()
