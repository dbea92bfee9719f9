"""Attention beside jax.nn and torch: equality first, then time, compile time and memory.

Full attention also stands beside what XLA gives here at best: its two products, with an exponential
between them, in plain loops over blocks of one head. A gradient has seven products and two.

Run ``python -m tests.benchmarks.bench_attention [length ...] [--save]``. Implementations take turns
in one process, so that what else the machine does falls on all alike; ratios of medians are
printed.
"""

import dataclasses
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention
from tests.benchmarks import _report

HEADS, SIZE, REPEATS = 8, 64, 9


def with_gradient(f):
    return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(f(*a) ** 2), (0, 1, 2)))


def compiled(f, arrays):
    """(callable, seconds to compile, temporary MiB)."""
    start = time.perf_counter()
    program = jax.jit(f).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(program(*arrays)), seconds, memory


def plain_loops(query, key, value, rows=2048, keys=512):
    """Two products and an exponential for each block of scores, and nothing else."""
    length = query.shape[1]
    row_block, key_block = min(rows, length), min(keys, length)
    query, key, value = (jnp.swapaxes(x[0], 0, 1) for x in (query, key, value))

    def part(x, head, number, size):
        return jax.lax.dynamic_slice(x, (head, number * size, 0), (1, size, SIZE))[0]

    def of_rows(head, i, out):
        q = part(query, head, i, row_block)

        def of_keys(j, total):
            k, v = part(key, head, j, key_block), part(value, head, j, key_block)
            return total + jnp.exp(q @ k.T) @ v

        zero = jnp.zeros((row_block, SIZE))
        total = jax.lax.fori_loop(0, -(-length // key_block), of_keys, zero)
        return jax.lax.dynamic_update_slice(out, total[None], (head, i * row_block, 0))

    def of_head(head, out):
        steps = -(-length // row_block)
        return jax.lax.fori_loop(0, steps, functools.partial(of_rows, head), out)

    return jax.lax.fori_loop(0, HEADS, of_head, jnp.zeros_like(query))


def torch_calls(arrays, *, is_causal):
    """(forward, forward and backward) of torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    tensors = [torch.from_numpy(np.array(x)).transpose(1, 2) for x in arrays]
    leaves = [x.clone().requires_grad_() for x in tensors]
    attend = torch.nn.functional.scaled_dot_product_attention

    def forward():
        with torch.no_grad():
            return attend(*tensors, is_causal=is_causal).transpose(1, 2).numpy()

    def both():
        for x in leaves:
            x.grad = None
        (attend(*leaves, is_causal=is_causal) ** 2).sum().backward()

    return forward, both


def medians(calls):
    """Seconds of each call as fields of a row, taken in turns."""
    times = {name: [] for name in calls}
    for name in calls:
        calls[name]()
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: _report.of(t) for name, t in times.items()}


def compare(length, *, is_causal):
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(k, (1, length, HEADS, SIZE), jnp.float32) for k in keys]
    ours = lambda *a: attention.dot_product_attention(*a, is_causal=is_causal)  # noqa: E731
    theirs = lambda *a: jax.nn.dot_product_attention(*a, is_causal=is_causal)  # noqa: E731
    rows = []
    torch = torch_calls(arrays, is_causal=is_causal)
    for stage, (mine, peer) in enumerate(
        ((ours, theirs), (with_gradient(ours), with_gradient(theirs)))
    ):
        built = {"ours": compiled(mine, arrays), "jax.nn": compiled(peer, arrays)}
        if not (stage or is_causal):
            built["plain loops"] = compiled(plain_loops, arrays)
        # float32 rounding of sums of `length` terms of order one.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
            *(built[name][0]() for name in ("ours", "jax.nn")),
        )
        calls = {name: call for name, (call, _, _) in built.items()}
        if torch is not None:
            calls["torch"] = torch[stage]
        measured = medians(calls)
        for name, times in measured.items():
            _, compile_seconds, memory = built.get(name, (None, None, None))
            rows.append(
                {
                    "length": length,
                    "causal": is_causal,
                    "stage": ("forward", "forward and backward")[stage],
                    "name": name,
                    "times": times,
                    "ratio to ours": times["seconds"] / measured["ours"]["seconds"],
                    "compile seconds": compile_seconds,
                    "temporary MiB": memory,
                }
            )
    return rows


def reported(row):
    title = f"{row['stage']}, {row['length']} positions{', causal' * row['causal']}"
    return _report.Row(
        title,
        row["name"],
        ours=row["name"] == "ours",
        compile_seconds=row["compile seconds"],
        mib=row["temporary MiB"],
        **row["times"],
    )


def windows(length, width):
    """Title and times of attention with a window and without."""
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(k, (1, length, HEADS, SIZE), jnp.float32) for k in keys]
    options = {"full": {}, f"window {width}": {"local_window_size": width}}
    calls = {}
    for name, option in options.items():
        attend = functools.partial(attention.dot_product_attention, **option)
        calls[name] = compiled(attend, arrays)[0]
    title = f"forward, {length} positions"
    return title, medians(calls)


def decoding(capacity, filled, width=None):
    """Seconds of one token as fields of a row, the cache donated."""
    cache = attention.init_cache(capacity, HEADS, SIZE, batch=(1,))
    cache = dataclasses.replace(cache, length=jnp.asarray(filled, jnp.int32))
    step = functools.partial(attention.decode_step, local_window_size=width)
    step = jax.jit(step, donate_argnums=0)
    token = jnp.ones((1, 1, HEADS, SIZE))
    times = []
    for _ in range(101):
        start = time.perf_counter()
        cache, _ = jax.block_until_ready(step(cache, token, token, token))
        times.append(time.perf_counter() - start)
    return _report.of(times[1:])


if __name__ == "__main__":
    found = []
    for length in [int(x) for x in _report.arguments()] or [256, 1024, 4096]:
        rows = [row for causal in (False, True) for row in compare(length, is_causal=causal)]
        for row in rows:
            print(json.dumps(row), flush=True)
            found.append(reported(row))
        of = {(row["causal"], row["stage"], row["name"]): row["seconds"] for row in rows}
        for stage in ("forward", "forward and backward"):
            ratio = of[True, stage, "ours"] / of[False, stage, "ours"]
            print(f"{stage}, {length} positions: causal takes {ratio:.2f} of full")
        ratio = of[False, "forward", "ours"] / of[False, "forward", "plain loops"]
        print(f"forward, {length} positions: full takes {ratio:.2f} of plain loops")
    title, measured = windows(16384, 512)
    for name, times in measured.items():
        print(f"{title}: {name} {times['seconds']:.3f} s")
        found.append(_report.Row(title, name, ours=True, **times))
    for capacity, filled, width in (
        (1024, 512, None),
        (16384, 512, None),
        (65536, 512, None),
        (16384, 16000, None),
        (16384, 16000, (511, 0)),
        (65536, 16000, (511, 0)),
    ):
        times = decoding(capacity, filled, width)
        title = f"one token after {filled}{', window 512' if width else ''}"
        print(f"{title}, capacity {capacity}: {times['seconds'] * 1e6:.0f} µs")
        found.append(_report.Row(title, f"capacity {capacity}", ours=True, **times))
    _report.save("attention", found)
