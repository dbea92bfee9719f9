"""A tour of Equipoise: four questions, each computed, printed, drawn and asserted.

Run ``python examples/tour.py --out DIR``. The four stories are examples of the gallery; nothing in
them is typed in: what is printed was computed by the lines around it, and asserted against a closed
form or within its own error.
"""

import argparse
import os
import pathlib
import runpy
import sys
import tempfile
import time

import matplotlib.pyplot as plt

from equipoise import plot

EXAMPLES = pathlib.Path(__file__).resolve().parent
# The file of each figure, and the example that tells the story and leaves the figure behind.
STORIES = {
    "1_rnn_against_transformer": "cost/plot_self_attention_overtakes_a_gru.py",
    "2_attention_as_lookup": "attention/plot_attention_as_lookup.py",
    "3_evidence_bound": "vi/plot_evidence_bound.py",
    "4_descent_ascent": "games/plot_pq_never_reaches_nash.py",
}


def sections():
    """Name and figure of each section, told one after the other: the first reads a clock."""
    for name, example in STORIES.items():
        yield name, runpy.run_path(str(EXAMPLES / example))["figure"]


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are a single line."""

    def error(self, message):
        """Say what is wrong, without the usage text, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def writable_folder(parser, path):
    """The folder, made if it is missing, after a test that a file can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        return parser.error(f"cannot write to --out {path}: {error.strerror}")


def save(figure, path):
    """Write beside the target, then rename: an interruption leaves the old file or the new one."""
    part = path.with_suffix(".part")
    try:
        figure.savefig(part, format="png", bbox_inches="tight")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main(arguments=None):
    """Answer the four questions, and write a figure for each."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("tour"), help="folder of the figures"
    )
    out = writable_folder(parser, parser.parse_args(arguments).out)
    started = time.perf_counter()
    with plot.styled():
        for name, figure in sections():
            save(figure, out / f"{name}.png")
            plt.close(figure)
    print(f"\nAll of it asserted, in {time.perf_counter() - started:.0f} s; figures in {out}/")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
