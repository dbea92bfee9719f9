"""How long an analysis takes, and how near its counts are to XLA's: prints JSON lines.

Run with ``python -m tests.benchmarks.bench_cost [--save]``. The count is checked against XLA before
any time is reported; times are those of this process, of five analyses.
"""

import functools
import json
import time

import jax

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
    return _report.of(times)


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

    def report(title, name, times, ratio=None):
        print(json.dumps({"name": name, "ratio to XLA's count": ratio} | times), flush=True)
        rows.append(_report.Row(title, name, ours=True, ratio=ratio, **times))

    for name, (fn, *args) in programs.ALL.items():
        ratio = ratio_to_xla(name)
        times = seconds(lambda fn=fn, args=args: cost.analyze(fn, *args))
        report("analysis", name, times, ratio)
    training = functools.partial(
        cost.analyze_training, programs.loss(stack), [programs.BLOCK] * NUM_LAYERS
    )
    for shape in ("f32[b,n,d]", "f32[2,64,d]", "f32[32,65536,d]"):
        times = seconds(lambda s=shape: training(s))
        report(f"training of {NUM_LAYERS} transformer blocks", shape, times)
    _report.save("cost", rows)


if __name__ == "__main__":
    main()
