"""The fused kernel of NVIDIA GPUs, through ``jax.nn``, for the requests that it can serve.

Asked for by name it serves what it can: it has one reverse-mode derivative and no forward mode.
Unasked it is taken for values alone, since a function cannot know while it is traced how often it
will be differentiated; and only where nothing is masked, since what masked keys hold reaches its
outputs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import value_error
from equipoise._types import Array
from equipoise.attention._kernel.problem import Problem
from equipoise.attention._masks.kinds import Band, Prefix, Rows
from equipoise.attention._masks.mask import Both, Mask


def _refusal(
    problem: Problem, parts: list[Mask], *, return_residual: bool
) -> tuple[str, str, object] | None:
    """(argument, what the kernel serves, what came) of the first thing that it cannot serve."""
    windows = [(part.left, part.right) for part in parts if isinstance(part, Band)]
    known = all(isinstance(part, (Band, Prefix, Rows)) for part in parts)
    masks = "causal, a window with a causal mask, lengths or a boolean array"
    mask = f"windows (left, right) {windows}" if known else "a mask of another kind"
    h, e = problem.query.shape[-1], problem.value.shape[-1]
    offset = problem.offset if isinstance(problem.offset, int) else "a traced one"
    conditions: list[tuple[bool, str, str, object]] = [
        (problem.query.dtype.itemsize == 2, "query", "float16 or bfloat16", problem.query),
        (h == e, "value", f"the head size of `query`, {h}", e),
        (problem.score_fn is None, "score_fn", "None", "a function"),
        (problem.soft_cap is None, "logits_soft_cap", "None", problem.soft_cap),
        (
            problem.kept is None,
            "dropout_rate",
            "0, its random numbers are its own",
            problem.dropout_rate,
        ),
        (offset == 0, "query_offset", "the integer 0", offset),
        (isinstance(problem.scale, float), "scale", "a Python number", problem.scale),
        (known and all(right == 0 for _, right in windows), "mask", masks, mask),
        (problem.sinks is None, "sinks", "None", problem.sinks),
        (
            not return_residual,
            "return_residual",
            "False, as its log-sum-exp has no gradient",
            return_residual,
        ),
    ]
    refused = (condition[1:] for condition in conditions if not condition[0])
    return next(refused, None)


def _conjuncts(mask: Mask | None) -> list[Mask]:
    """The masks that ``&`` joined."""
    if mask is None:
        return []
    if isinstance(mask, Both):
        return _conjuncts(mask.left) + _conjuncts(mask.right)
    return [mask]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Values of unmasked attention from cuDNN, its scale fixed while tracing."""

    scale: float

    def __call__(self, problem: Problem) -> tuple[Array, Array]:
        """(o, lse) in the dtype of sums; lse is not to be used."""
        out = jax.nn.dot_product_attention(
            problem.query, problem.key, problem.value, scale=self.scale, implementation="cudnn"
        )
        b, t, _, k, g = problem.sizes
        return out.astype(problem.dtype), jnp.zeros((b, t, k * g), problem.dtype)


def kernel_for(problem: Problem) -> Kernel | None:
    """The kernel, where it serves the request to the letter and works on this machine."""
    if jax.default_backend() != "gpu" or _refusal(problem, [], return_residual=False) is not None:
        return None
    if any(x is not None for x in (problem.bias, problem.allowed, problem.mask)):
        return None
    scale, query, key = problem.scale, problem.query, problem.key
    if not isinstance(scale, float) or not works(query.shape, key.shape, query.dtype):
        return None
    return Kernel(scale)


@functools.cache
def works(query: tuple[int, ...], key: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether the kernel takes these shapes here and gives the numbers of the definition."""
    rng = np.random.default_rng(0)
    kernel = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    asked = [
        jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
        for shape in (query, key, key)
    ]
    with jax.ensure_compile_time_eval():
        arrays = [jnp.asarray(rng.normal(size=(1, 128, 2, query[-1])), dtype) for _ in range(3)]
        try:
            jax.jit(kernel).lower(*asked).compile()
            found = kernel(*arrays)
        # Whatever it raises where a driver, a library or a shape does not suit it.
        except Exception:
            return False
        wide = [x.astype(jnp.float32) for x in arrays]
        wanted = jax.nn.dot_product_attention(*wide, implementation="xla")
        # Weighted means of standard normals, a few roundings to half precision.
        return bool(jnp.max(jnp.abs(found.astype(jnp.float32) - wanted)) < 0.05)


def fused(problem: Problem, *, return_residual: bool) -> tuple[Array, Array]:
    """(o, lse) from cuDNN, or an error that says why not; lse is not to be used."""
    parts = _conjuncts(problem.mask)
    refusal = _refusal(problem, parts, return_residual=return_residual)
    if refusal is not None:
        argument, expected, came = refusal
        raise value_error(
            "implementation",
            f"'cudnn' serves only requests with `{argument}` {expected}",
            came,
            "Use implementation=None, which serves all.",
        )
    if jax.default_backend() != "gpu":
        raise value_error(
            "implementation",
            "'cudnn' needs an NVIDIA GPU",
            f"the backend {jax.default_backend()!r}",
            "Use implementation=None, which runs everywhere.",
        )
    b, t, s, k, g = problem.sizes
    windows = [part for part in parts if isinstance(part, Band)]
    lefts = [part.left for part in windows if part.left is not None]

    def lengths(kind: type[Prefix] | type[Rows], whole: int) -> Array | None:
        found = [part.length for part in parts if isinstance(part, kind)]
        shared = jnp.full((b,), whole, jnp.int32)
        for length in found:
            shared = jnp.minimum(shared, jnp.broadcast_to(length.astype(jnp.int32), (b,)))
        return shared if found else None

    def grown(x: Array | None) -> Array | None:
        return None if x is None else jnp.broadcast_to(x, (*x.shape[:2], t, s))

    out = jax.nn.dot_product_attention(
        problem.query,
        problem.key,
        problem.value,
        None if problem.bias is None else grown(problem.bias.astype(problem.query.dtype)),
        grown(problem.allowed),
        scale=float(problem.scale),
        is_causal=bool(windows),
        query_seq_lengths=lengths(Rows, t),
        key_value_seq_lengths=lengths(Prefix, s),
        local_window_size=(min(lefts), 0) if lefts else None,
        implementation="cudnn",
    )
    return out, jnp.zeros((b, t, k * g), problem.dtype)
