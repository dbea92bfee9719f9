"""The code of the guide's pages: found, run, checked, and the pictures that it makes.

On a page all ``python`` blocks share one namespace, in order. What a block prints must be what its
comments ``# → …`` say, if it has any; a comment ``# raises Error: words`` is the error it ends in.
A ``text`` block right below is what the block prints, in the same words and with numbers that agree
to about two digits, as those of random draws do on any machine.
"""

import contextlib
import io
import itertools
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PAGES = sorted([*HERE.glob("guide/*.md"), *HERE.glob("theory/*.md")])


def code_blocks(page: pathlib.Path) -> list[str]:
    """The blocks of a page that are marked as Python, what they print below as ``# ≈`` lines."""
    pattern = r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    return [code + re.sub("^", "# ≈ ", text.rstrip(), flags=re.M) * bool(text) for code, text in found]


def needs_own_process(page: pathlib.Path) -> bool:
    """Whether the page asks for devices, which JAX gives before it is used and not again."""
    return "jax_num_cpu_devices" in page.read_text()


def pictures(page: pathlib.Path) -> list[str]:
    """Names of the pictures that a page shows and its own code saves."""
    return re.findall(r"\]\(pictures/([\w-]+\.png)\)", page.read_text())


def run(blocks: list[str], name: str) -> None:
    """Run the blocks; an AssertionError says what was printed or raised instead."""
    namespace: dict = {}
    for block in blocks:
        raises = re.search(r"^# raises (\w+): (.*)$", block, re.MULTILINE)
        said = re.findall(r"# →(?: (.*))?$", block, re.MULTILINE)
        printed, error = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(block, name, "exec"), namespace)
            except Exception as exception:
                if raises is None:
                    raise
                error = exception
        if raises is not None:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            assert found.startswith(f"{raises[1]}: {raises[2]}"), f"{name}: {found}"
        lines = [line.rstrip() for line in printed.getvalue().splitlines()]
        assert not said or lines == said, f"{name}: printed {lines}, said {said}"
        about = re.findall(r"^# ≈ (.*)$", block, re.MULTILINE)
        assert not about or agree(lines, about), f"{name}: printed {lines}, showed {about}"


def agree(lines: list[str], shown: list[str]) -> bool:
    """Whether words are equal and numbers near, whatever the widths of the columns."""
    pairs = itertools.zip_longest("\n".join(lines).split(), "\n".join(shown).split(), fillvalue="")
    return all(a == b or near(a, b) for a, b in pairs)


def near(printed: str, shown: str) -> bool:
    """Whether both are numbers, at most 5 % or 0.02 apart."""
    try:
        a, b = (float(word.strip("[](),.")) for word in (printed, shown))
    except ValueError:
        return False
    return abs(a - b) <= 0.02 + 0.05 * abs(b)


def write_pictures() -> None:
    """Run each page whose pictures are missing or older than the page, in a process of its own."""
    for page in PAGES:
        folder = page.parent / "pictures"
        files = [folder / name for name in pictures(page)]
        if all(f.exists() and f.stat().st_mtime > page.stat().st_mtime for f in files):
            continue
        folder.mkdir(exist_ok=True)
        code = "\n".join(code_blocks(page))
        paths = os.pathsep.join(map(os.path.abspath, sys.path))  # it runs in another folder
        environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": paths}
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        missing = [f.name for f in files if not f.exists()]
        if missing:
            raise FileNotFoundError(f"{page.name} shows {missing}, which its code does not save")
