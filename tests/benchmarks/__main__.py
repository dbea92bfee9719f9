"""All that the performance page shows, measured anew, each script in a process of its own.

Run ``python -m tests.benchmarks [AREA ...]`` from the repository root on a machine that does
nothing else; building the docs then makes the page.
"""

import os
import subprocess
import sys

SCRIPTS = {
    "attention": "bench_attention",
    "vi": "bench_vi",
    "games": "bench_games",
    "cost": "bench_cost",
    "latency": "bench_latency",
    "training": "bench_critical_learning_rate",
    "prediction": "bench_prediction_against_play",
    "roofline": "bench_roofline",
}
QUIET = 0.5  # processes at work besides this one


def main(areas):
    """Measure these areas, or all."""
    unknown = sorted(set(areas) - set(SCRIPTS))
    if unknown:
        raise SystemExit(f"no area {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")
    for area in areas or SCRIPTS:
        load = os.getloadavg()[0]
        if area == (areas or list(SCRIPTS))[0] and load > QUIET:
            raise SystemExit(f"the machine is busy (load {load:.1f}): its times would mislead")
        print(f"== {area}", flush=True)
        module = f"tests.benchmarks.{SCRIPTS[area]}"
        subprocess.run([sys.executable, "-m", module, "--save"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
