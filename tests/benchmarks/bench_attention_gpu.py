"""Attention on a GPU beside cuDNN through jax.nn: equality first, then time in every order.

Run ``python -m tests.benchmarks.bench_attention_gpu [--out results.json] [--seconds 230]``. Says
at the start which device it is on and at the end which requests the kernels were refused for and
why. A case that fails is printed and left out. Programs are compiled side by side, then timed one
after another, ours and theirs in turns; what the given seconds do not allow is named.

TFLOP/s count 4·B·N·T²·D for a forward, half of it if causal, 3.5 times as much for forward and
backward, and 10.5 times (21 products against 2) for a Hessian-vector product.
"""

import argparse
import concurrent.futures
import functools
import json
import logging
import statistics
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention

START = time.perf_counter()
WORK = {"forward": 1.0, "forward and backward": 3.5, "Hessian-vector product": 10.5}
# (batch, length, heads, head size): 16384 tokens in all.
SHAPES = [(4, 4096, 16, 128), (1, 16384, 16, 128), (4, 4096, 32, 64), (1, 16384, 32, 64)]
KINDS = {
    "ours": attention.dot_product_attention,
    "cuDNN": functools.partial(jax.nn.dot_product_attention, implementation="cudnn"),
    "blocks": functools.partial(attention.dot_product_attention, implementation="blockwise"),
}
# What is timed, the most wanted first.
STAGES = [
    ("forward", ("ours", "cuDNN")),
    ("forward and backward", ("ours", "cuDNN")),
    ("forward", ("blocks",)),
    ("forward and backward", ("blocks",)),
    ("Hessian-vector product", ("ours",)),
]


def seconds():
    return time.perf_counter() - START


def guarded(function, *args):
    """(result, None) or (None, the error in a line)."""
    try:
        return function(*args), None
    except Exception as error:  # of any kind: the other cases go on
        traceback.print_exc(limit=-2)
        return None, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


# Equality.


def requests(length):
    """Name, arrays of any rank and options of each request that is compared."""
    rng = np.random.default_rng(0)
    b, t, n, k, h = 2, length, 4, 2, 64

    def arrays(dtype=jnp.bfloat16, heads=n, size=h, keys=t):
        shapes = ((b, t, n, size), (b, keys, heads, size), (b, keys, heads, size))
        return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]

    lengths = {
        "query_seq_lengths": jnp.array([t - 9, t], jnp.int32),
        "key_value_seq_lengths": jnp.array([t // 2 + 3, 0], jnp.int32),
    }
    bias = jnp.asarray(rng.normal(size=(1, n, t, t)), jnp.bfloat16)
    causal = {"is_causal": True}
    yield "full", arrays(), {}
    yield "causal", arrays(), causal
    yield "causal, float16", arrays(jnp.float16), causal
    yield "causal, head size 128", arrays(size=128), causal
    yield "causal, head size 256", arrays(size=256), causal
    yield "causal, 2 key heads of 4", arrays(heads=k), causal
    yield "causal, more keys", arrays(keys=t + 64), causal
    yield "window", arrays(), causal | {"local_window_size": (t // 4, 0)}
    yield "lengths", arrays(), lengths
    yield "lengths, causal", arrays(), lengths | causal
    yield "bias", [*arrays(), bias], causal
    yield "boolean array", arrays(), {"mask": jnp.asarray(rng.random((b, 1, t, t)) < 0.7)}
    yield "sinks", arrays(), causal | {"sinks": jnp.ones(n, jnp.float32)}


def orders(attend, options):
    """Values, gradient and the tangents of both, of arrays."""

    def run(*arrays):
        def loss(*x):
            return jnp.sum(jnp.sin(attend(*x, **options).astype(jnp.float32)))

        slope = jax.grad(loss, tuple(range(len(arrays))))
        along = tuple(jnp.ones_like(x) for x in arrays)
        values, tangent = jax.jvp(lambda *x: attend(*x, **options), arrays, along)
        gradient, product = jax.jvp(slope, arrays, along)
        return {"values": values, "gradient": gradient, "jvp": tangent, "HVP": product}

    return run


def compared(name, arrays, options):
    """Largest errors relative to the largest number, by order, against whole float32 matrices."""
    program = jax.jit(orders(attention.dot_product_attention, options)).lower(*arrays).compile()
    text = program.as_text()
    with jax.default_matmul_precision("highest"):
        reference = jax.jit(orders(attention.reference_attention, options))
        wanted = reference(*(x.astype(jnp.float32) for x in arrays))
    kernels = {"forward kernel": 'Softmax"' in text, "backward kernel": 'SoftmaxBackward"' in text}
    row = {"case": name, **kernels}
    for order, found in program(*arrays).items():
        errors = jax.tree.map(
            lambda a, b: float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b))),
            found,
            wanted[order],
        )
        row[order] = max(jax.tree.leaves(errors))
    # Five roundings to the dtype and their products in an HVP, of terms that cancel.
    row["equal"] = max(row[o] for o in wanted) <= 12 * float(jnp.finfo(arrays[0].dtype).eps)
    return row


def nan_behind_the_mask(length):
    """Whether NaN in late values reaches neither early rows nor the slopes of their queries."""
    q, k, v, given = inputs((1, length, 2, 64))
    half = length // 2 + 5
    attend = functools.partial(attention.dot_product_attention, is_causal=True)
    run = jax.jit(lambda *x: (attend(*x[:3]), jax.vjp(attend, *x[:3])[1](x[3])[0]))
    out, slope = run(q, k, v.at[:, half:].set(jnp.nan), given)
    clean = all(bool(jnp.all(jnp.isfinite(x[:, :half]))) for x in (out, slope))
    return clean and bool(jnp.all(jnp.isnan(out[:, half:])))


# Time.


def program(kind, stage, *, is_causal):
    attend = functools.partial(KINDS[kind], is_causal=is_causal)
    if stage == "forward":
        return lambda q, k, v, _: attend(q, k, v)
    if stage == "forward and backward":
        return lambda q, k, v, given: jax.vjp(attend, q, k, v)[1](given)

    def product(q, k, v, given):
        slope = lambda *x: jax.vjp(attend, *x)[1](given)  # noqa: E731
        return jax.jvp(slope, (q, k, v), (k, v, q))[1]

    return product


def inputs(shape):
    return [jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(4)]


def compiled(kind, stage, shape, is_causal):
    start = time.perf_counter()
    types = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)] * 4
    made = jax.jit(program(kind, stage, is_causal=is_causal)).lower(*types).compile()
    return made, time.perf_counter() - start


def once(run, arrays, count):
    """Seconds of a call, many of them queued at once."""
    start = time.perf_counter()
    for _ in range(count):
        out = run(*arrays)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / count


def timed(runs, arrays, repeats):
    """Median and spread of each, in turns; fast calls ten at a time."""
    counts = {}
    for name, run in runs.items():
        jax.block_until_ready(run(*arrays))
        counts[name] = max(1, min(10, int(0.02 / once(run, arrays, 1))))
        once(run, arrays, counts[name])
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(once(run, arrays, counts[name]))
    return {name: (statistics.median(x), max(x) - min(x)) for name, x in times.items()}


def table(rows):
    """The rows in Markdown, with every column that one of them has."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = (row.get(name, "") for name in head)
        lines.append([f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Refusals(logging.Handler):
    """What the kernels were refused for, as the library logs it."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage()[:500])


def check(options, pool):
    """Rows of all comparisons."""
    cases = list(requests(options.length))
    tried = pool.map(lambda case: guarded(compared, *case), cases)
    rows = []
    for (name, _, _), (row, error) in zip(cases, tried, strict=True):
        rows.append(row or {"case": name, "error": error})
    found, error = guarded(nan_behind_the_mask, options.length)
    rows.append({"case": "NaN behind a causal mask", "equal": bool(found), "error": error})
    return rows


def measure(options, pool, keep):
    """Rows of all timings, each kept as soon as it is there."""
    shapes = [tuple(map(int, x.split("x"))) for x in options.shapes.split(",") if x] or SHAPES
    cases = [
        (kind, stage, shape, is_causal)
        for stage, kinds in STAGES
        for shape in shapes
        for is_causal in (True, False)
        for kind in kinds
    ]
    built = {case: pool.submit(guarded, compiled, *case) for case in cases}
    concurrent.futures.wait(built.values())
    print(f"compiled {len(cases)} programs side by side, {seconds():.0f} s since the start")
    for stage, kinds in STAGES:
        for shape in shapes:
            for is_causal in (True, False):
                title = {"stage": stage, "B×T×N×D": "×".join(map(str, shape))}
                title |= {"mask": "causal" if is_causal else "full"}
                made = {kind: built[kind, stage, shape, is_causal].result() for kind in kinds}
                if seconds() > options.seconds:
                    keep(title | {"name": ", ".join(kinds), "error": "no time was left"})
                    continue
                for kind, (_, error) in made.items():
                    if error:
                        keep(title | {"name": kind, "error": error})
                runs = {kind: found[0] for kind, (found, _) in made.items() if found}
                times, error = guarded(timed, runs, inputs(shape), options.repeats)
                if error:
                    keep(title | {"name": ", ".join(runs), "error": error})
                    continue
                b, t, n, d = shape
                flops = 4 * b * n * t * t * d * WORK[stage] / (2 if is_causal else 1)
                theirs = times.get("cuDNN", (None,))[0]
                for kind, (median, spread) in times.items():
                    row = title | {"name": kind, "ms": 1e3 * median, "spread ms": 1e3 * spread}
                    row["TFLOP/s"] = flops / median / 1e12
                    row["speed / cuDNN"] = theirs / median if theirs else ""
                    row["compile s"] = made[kind][0][1]
                    row["error"] = ""
                    keep(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write all results as JSON to this path")
    parser.add_argument("--seconds", type=float, default=230, help="start no timing after these")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--length", type=int, default=192, help="of the requests compared")
    parser.add_argument("--shapes", default="", help="BxTxNxD,… in place of ours")
    parser.add_argument("--threads", type=int, default=12, help="that compile side by side")
    options = parser.parse_args()
    device = jax.devices()[0]
    refusals = Refusals()
    logging.getLogger("equipoise.attention").addHandler(refusals)
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}", flush=True)
    result = {"device": device.device_kind, "jax": jax.__version__, "times": []}

    def keep(row=None):
        if row:
            result["times"].append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
        result["refused"] = sorted(set(refusals.lines))
        if options.out:
            with open(options.out, "w") as file:
                json.dump(result, file, indent=1, ensure_ascii=False)

    with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        result["equality"] = check(options, pool)
        print(f"\n{table(result['equality'])}\n\nequality took {seconds():.0f} s", flush=True)
        print(
            "kernels refused:", *(sorted(set(refusals.lines)) or ["none"]), sep="\n  ", flush=True
        )
        keep()
        measure(options, pool, keep)
    print(f"\n{table(result['times'])}\n\n{seconds():.0f} s in all")


if __name__ == "__main__":
    main()
