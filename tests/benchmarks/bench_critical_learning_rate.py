"""The critical learning rate of a character transformer of 10⁶ parameters on real text.

Seconds and peak memory against those of a training step, and the error against a search that is
run on to 1e-8. The text is the license that comes with Python. Each question runs in a process of
its own, so that its peak memory is its own. ``--out`` writes JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise import attention, games

OPTIMIZERS = {
    "sgd": optax.sgd(1.0),
    "momentum": optax.sgd(1.0, momentum=0.9),
    "adamw": optax.adamw(1.0, weight_decay=1e-4),
}


def text(context, batch):
    """Rows of characters as integers, and how many characters there are."""
    whole = "".join(license._Printer__lines or []) or license.__doc__ or ""
    if len(whole) < context * batch:
        import argparse, asyncio, inspect, typing  # noqa: E401, I001

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

    begun = time.perf_counter()
    for _ in range(20):
        params, state = jax.block_until_ready(step(params, state))
    found = {"parameters": sum(x.size for x in jax.tree.leaves(params))}
    if question == "step":
        found["seconds_of_20_steps"] = time.perf_counter() - begun
    else:
        options = {"tolerance": 1e-8, "max_products": 400} if question == "reference" else {}
        begun, cpu = time.perf_counter(), time.process_time()
        answer = games.critical_learning_rate(
            lambda p: loss(p, rows), params, optimizer, optimizer_state=state, **options
        )
        found |= {
            "learning_rate": float(answer.learning_rate),
            "sharpness": float(answer.sharpness),
            "error": float(answer.error),
            "num_products": int(answer.num_products),
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
        }
    found["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--ask", nargs=2)
    for name, default in (("width", 144), ("depth", 4), ("context", 128), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    sizes = [chosen.width, chosen.depth, chosen.context, chosen.batch]
    if chosen.ask:
        print(json.dumps(ask(*chosen.ask, *sizes)))
        return
    table = {}
    for name in OPTIMIZERS:
        for question in ("step", "critical", "reference"):
            flags = [
                f"--{n}={s}"
                for n, s in zip(("width", "depth", "context", "batch"), sizes, strict=True)
            ]
            command = [sys.executable, __file__, "--ask", question, name, *flags]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            table[f"{name} {question}"] = json.loads(said.splitlines()[-1])
            print(name, question, table[f"{name} {question}"], flush=True)
        critical, reference = table[f"{name} critical"], table[f"{name} reference"]
        off = critical["learning_rate"] / reference["learning_rate"] - 1
        memory = critical["peak_mebibytes"] / table[f"{name} step"]["peak_mebibytes"]
        print(f"{name}: off by {off:.1e}, {memory:.2f} × the memory of training", flush=True)
        assert abs(off) < 1e-3
    if chosen.out:
        with open(chosen.out, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
