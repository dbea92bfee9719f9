"""Rows of the benchmark scripts in one form, kept with the machine that they were measured on.

With ``--save`` among its arguments a script writes its rows where the docs make a page of them.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "performance"
PACKAGES = ("jax", "jaxlib", "numpy", "torch", "numba", "numpyro", "blackjax")


class Row(NamedTuple):
    """One measurement: `name` doing what `title` says; rows of one title are compared."""

    title: str
    name: str
    seconds: float | None
    spread: float | None = None
    compile_seconds: float | None = None
    mib: float | None = None
    ours: bool = False
    note: str = ""


def processor():
    """The processor's name as the system gives it."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine():
    """What the numbers depend on: processor, cores and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def arguments():
    """The script's own arguments."""
    return [argument for argument in sys.argv[1:] if argument != "--save"]


def save(area, rows):
    """Keep the rows for the docs, where that was asked for."""
    if "--save" in sys.argv:
        FOLDER.mkdir(exist_ok=True)
        kept = {"machine": machine(), "rows": [row._asdict() for row in rows]}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        (FOLDER / f"{area}.json").write_text(text + "\n")
