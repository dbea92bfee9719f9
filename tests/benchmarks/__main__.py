"""All that the performance page shows, measured anew, each script in a process of its own.

Run ``python -m tests.benchmarks [AREA ...]`` from the repository root on a machine that does
nothing else; building the docs then makes the page.
"""

import os
import subprocess
import sys

AREAS = ["attention", "vi", "games", "cost", "latency", "training", "prediction", "roofline"]
LONGER = {"training": "critical_learning_rate", "prediction": "prediction_against_play"}
SCRIPTS = {area: f"bench_{LONGER.get(area, area)}" for area in AREAS}
QUIET = 0.5  # processes at work besides this one


def main(areas):
    """Measure these areas, or all."""
    unknown = sorted(set(areas) - set(AREAS))
    if unknown:
        raise SystemExit(f"no area {', '.join(unknown)}; there are {', '.join(AREAS)}")
    if (load := os.getloadavg()[0]) > QUIET:
        raise SystemExit(f"the machine is busy (load {load:.1f}): its times would mislead")
    for area in areas or AREAS:
        print(f"== {area}", flush=True)
        module = f"tests.benchmarks.{SCRIPTS[area]}"
        subprocess.run([sys.executable, "-m", module, "--save"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
