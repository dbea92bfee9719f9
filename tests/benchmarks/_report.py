"""Rows of the benchmark scripts in one form, kept with the day and the machine.

With ``--save`` among its arguments a script writes its rows where the docs make a page of them.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from typing import NamedTuple

import numpy as np

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "performance"
PACKAGES = ("jax", "jaxlib", "numpy", "torch", "numba", "numpyro", "blackjax")


class Row(NamedTuple):
    """One measurement: `name` doing what `title` says; rows of one title are compared.

    `seconds` is a median of compiled runs, `low` and `high` are quantiles of the same (`of`).
    `ratio` is what the script compares with where that is no peer, such as a bound.
    """

    title: str
    name: str
    seconds: float | None
    low: float | None = None
    high: float | None = None
    first_seconds: float | None = None
    compile_seconds: float | None = None
    mib: float | None = None
    ratio: float | None = None
    ours: bool = False
    note: str = ""


def of(times):
    """How long repeats took as fields of a row: their median, and where 80 % of them lie."""
    low, median, high = np.quantile(times, (0.1, 0.5, 0.9)).tolist()
    return {"seconds": median, "low": low, "high": high}


def processor():
    """The processor's name as the system gives it."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine():
    """What the numbers depend on: the day, processor, cores and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "measured": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def arguments():
    """The script's own arguments."""
    return [argument for argument in sys.argv[1:] if argument != "--save"]


def given(row):
    """The fields of a row that say something."""
    return {name: value for name, value in row._asdict().items() if value not in (None, "", False)}


def save(area, rows):
    """Keep the rows for the docs, where that was asked for."""
    if "--save" in sys.argv:
        FOLDER.mkdir(exist_ok=True)
        kept = {"machine": machine(), "rows": [given(row) for row in rows]}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        (FOLDER / f"{area}.json").write_text(text + "\n")
