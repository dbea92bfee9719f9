"""How long an analysis takes, and how near its counts are to XLA's: prints JSON lines.

Run with ``python -m tests.benchmarks.bench_cost [--save]``. The count is checked against XLA before
any time is reported; times are of this process, for the median and spread of five analyses.
"""

import functools
import json
import time

import jax
import numpy as np

from equipoise import cost
from tests.benchmarks import _report
from tests.cost import programs

NUM_LAYERS = 12


def stack(params, x):
    return functools.reduce(lambda x, layer: programs.block(layer, x), params, x)


def seconds(fn):
    times = []
    for _ in range(5):
        start = time.process_time()
        fn()
        times.append(time.process_time() - start)
    return {"median_s": float(np.median(times)), "spread_s": float(np.ptp(times))}


def ratio_to_xla(name):
    """Largest deviation from XLA's count over the sizes, as a ratio."""
    fn, *args = programs.ALL[name]
    found = cost.analyze(fn, *args).flops
    if name in programs.LOOPS:
        fn = functools.partial(fn, unroll=True)
    ratios = []
    for sizes in programs.SIZES:
        lowered = jax.jit(fn).lower(*programs.with_sizes(tuple(args), sizes))
        counts = lowered.cost_analysis()
        total = counts["flops"] + counts.get("transcendentals", 0)
        ratios.append(float(found.evaluate(**sizes)) / total)
    worst = max(ratios, key=lambda r: abs(r - 1))
    assert abs(worst - 1) <= 0.05, name
    return worst


def main():
    rows = []

    def report(title, name, note, times):
        print(json.dumps({"name": name, "note": note} | times), flush=True)
        seconds, spread = times["median_s"], times["spread_s"]
        rows.append(_report.Row(title, name, seconds, ours=True, spread=spread, note=note))

    for name, (fn, *args) in programs.ALL.items():
        note = f"{ratio_to_xla(name):.3f} of XLA's count"
        times = seconds(lambda fn=fn, args=args: cost.analyze(fn, *args))
        report("analysis", name, note, times)
    training = functools.partial(
        cost.analyze_training, programs.loss(stack), [programs.BLOCK] * NUM_LAYERS
    )
    for shape in ("f32[b,n,d]", "f32[2,64,d]", "f32[32,65536,d]"):
        times = seconds(lambda s=shape: training(s))
        report(f"training of {NUM_LAYERS} transformer blocks", shape, "", times)
    _report.save("cost", rows)


if __name__ == "__main__":
    main()
