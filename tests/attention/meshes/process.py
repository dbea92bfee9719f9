"""A script of these tests in a process of its own, which sets how many devices it has."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]


def finished(module, *arguments):
    """Runs a module to its end, which is the word ``equal``."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("equal\n")
