"""The critical learning rate of a character transformer of 10⁶ parameters on real text.

Seconds and memory against those of a training step, and the error against a search that is run on
to 1e-6. The text is the source of modules that come with Python. Memory is what the compiled
program asks for, arguments and results included, and the peak of the process that runs it: each
question has one of its own. ``--save`` keeps the rows for the docs.
"""

import argparse
import asyncio
import inspect
import json
import resource
import subprocess
import sys
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import attention, games
from tests.benchmarks._report import Row, arguments, save

OPTIMIZERS = {
    "sgd": optax.sgd(1.0),
    "momentum": optax.sgd(1.0, momentum=0.9),
    "adamw": optax.adamw(1.0, weight_decay=1e-4),
}


def text(context, batch):
    """Rows of characters as integers, and how many characters there are."""
    whole = "".join(map(inspect.getsource, (argparse, asyncio.tasks, inspect, typing)))
    letters = sorted(set(whole))
    codes = np.array([letters.index(c) for c in whole[: (context + 1) * batch]])
    return jnp.asarray(codes.reshape(batch, context + 1)), len(letters)


def transformer(key, letters, width, depth, context):
    """Parameters of blocks of attention and feed-forward layers."""
    keys = iter(jax.random.split(key, 4 * depth + 3))
    new = lambda *shape: jax.random.normal(next(keys), shape) / np.sqrt(shape[0])  # noqa: E731
    blocks = [
        {
            "qkv": new(width, 3 * width),
            "out": new(width, width),
            "up": new(width, 4 * width),
            "down": new(4 * width, width),
        }
        for _ in range(depth)
    ]
    return {"embed": new(letters, width), "place": new(context, width), "blocks": blocks}


def normal(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


def loss(params, rows, heads=4):
    """Mean cross-entropy of the next character."""
    before, after = rows[:, :-1], rows[:, 1:]
    x = params["embed"][before] + params["place"][None]
    for block in params["blocks"]:
        query, key, value = (
            part.reshape(*part.shape[:2], heads, -1)
            for part in jnp.split(normal(x) @ block["qkv"], 3, axis=-1)
        )
        mixed = attention.dot_product_attention(query, key, value, is_causal=True)
        x = x + mixed.reshape(x.shape) @ block["out"]
        x = x + jax.nn.gelu(normal(x) @ block["up"]) @ block["down"]
    logits = normal(x) @ params["embed"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, after).mean()


def mebibytes(function, *args):
    """What the compiled program takes, with its arguments and results."""
    used = jax.jit(function).lower(*args).compile().memory_analysis()
    sizes = used.temp_size_in_bytes, used.argument_size_in_bytes, used.output_size_in_bytes
    return sum(sizes) / 2**20


def ask(question, name, width, depth, context, batch):
    """One question in this process: a training step, or the critical rate after some steps."""
    rows, letters = text(context, batch)
    params = transformer(jax.random.key(0), letters, width, depth, context)
    optimizer = OPTIMIZERS[name]
    state = optimizer.init(params)
    rate = 1e-3 if name == "adamw" else 3e-2

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return jax.tree.map(lambda x, u: x + rate * u, params, updates), state

    for _ in range(20):
        params, state = jax.block_until_ready(step(params, state))
    options = {"tolerance": 1e-6, "max_products": 400} if question == "reference" else {}

    def critical(params, state):
        return games.critical_learning_rate(
            lambda p: loss(p, rows), params, optimizer, optimizer_state=state, **options
        )

    found = {"parameters": sum(x.size for x in jax.tree.leaves(params))}
    for again in (False, True):
        begun, cpu = time.perf_counter(), time.process_time()
        answer = jax.block_until_ready((step if question == "step" else critical)(params, state))
        which = "again" if again else "first"
        found[f"seconds_{which}"] = time.perf_counter() - begun
        found[f"cpu_seconds_{which}"] = time.process_time() - cpu
        if question == "reference":
            break
    if question != "step":
        found |= {
            "learning_rate": float(answer.learning_rate),
            "sharpness": float(answer.sharpness),
            "error": float(answer.error),
            "num_products": int(answer.num_products),
        }
    found["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if question != "reference":
        found["mebibytes"] = mebibytes(step if question == "step" else critical, params, state)
    return found


def asked(question, name, sizes):
    """The question's answer from a process of its own."""
    flags = [f"--{n}={s}" for n, s in sizes.items()]
    command = [sys.executable, "-m", "tests.benchmarks.bench_critical_learning_rate"]
    command += ["--ask", question, name, *flags]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ask", nargs=2)
    for name, default in (("width", 144), ("depth", 4), ("context", 128), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = vars(parser.parse_args(arguments()))
    question = chosen.pop("ask")
    if question:
        print(json.dumps(ask(*question, **chosen)))
        return
    rows = []
    for name in OPTIMIZERS:
        step, critical, reference = (
            asked(question, name, chosen) for question in ("step", "critical", "reference")
        )
        off = critical["learning_rate"] / reference["learning_rate"] - 1
        more, peak = (critical[k] / step[k] for k in ("mebibytes", "peak_mebibytes"))
        print(name, step, critical, reference, off, more, peak, sep="\n", flush=True)
        assert abs(off) < 1e-3
        assert more < 3
        title = f"{critical['parameters']} parameters"
        note = f"{critical['num_products']} products; off by {abs(off):.0e}; "
        note += f"{peak:.2f} by the peak of the process"
        once = critical["seconds_again"]
        compiling = critical["seconds_first"] - once
        row = Row(f"{title}, {name}", "equipoise", once, ours=True, note=note)
        rows.append(row._replace(compile_seconds=compiling, mib=critical["mebibytes"], ratio=more))
    save("training", rows)


if __name__ == "__main__":
    main()
