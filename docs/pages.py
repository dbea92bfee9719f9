"""The code of the guide's pages: found, run, checked, and the pictures and notebooks it makes.

On a page all ``python`` blocks share one namespace, in order. What a block prints must be what its
comments ``# → …`` say, if it has any; a comment ``# raises Error: words`` is the error it ends in.
A ``text`` block right below is what the block prints, in the same words and with numbers that agree
to about two digits, as those of random draws do on any machine.
"""

import contextlib
import importlib
import io
import itertools
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PAGES = sorted([*HERE.glob("guide/*.md"), *HERE.glob("theory/*.md")])
QUICK_STARTS = [HERE / "guide" / f"{area}.md" for area in ("attention", "vi", "games", "cost")]


def code_blocks(page: pathlib.Path) -> list[str]:
    """The blocks of a page that are marked as Python, what they print below as ``# ≈`` lines."""
    pattern = r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    return [code + "".join(f"# ≈ {line}\n" for line in text.splitlines()) for code, text in found]


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
    texts = ("\n".join(part) for part in (lines, shown))
    # The shape of a tail is estimated from few draws, and differs where these do.
    words = (re.sub(r"k̂ is \S+", "k̂", text).split() for text in texts)
    pairs = itertools.zip_longest(*words, fillvalue="")
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
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # they run once
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        missing = [f.name for f in files if not f.exists()]
        if missing:
            raise FileNotFoundError(f"{page.name} shows {missing}, which its code does not save")


def write_notebooks() -> None:
    """Each quick start as a notebook, which runs wherever the library can be installed."""
    nbformat = importlib.import_module("nbformat")  # of the documentation alone
    for page in QUICK_STARTS:
        install = nbformat.v4.new_code_cell("%pip install --quiet equipoise", id="install")
        cells = [install]
        text_and_code = re.split(r"^```python\n(.*?)^```\n", page.read_text(), flags=re.M | re.S)
        for i, part in enumerate(text_and_code):
            make = nbformat.v4.new_code_cell if i % 2 else nbformat.v4.new_markdown_cell
            cells.append(make(part.strip() if i % 2 else without_sphinx(part), id=f"cell-{i}"))
        target = page.parent / "notebooks" / f"{page.stem}.ipynb"
        target.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), target)


def without_sphinx(text: str) -> str:
    """Markdown that a notebook shows: no labels, no pictures of the site, links as words."""
    text = re.sub(r"^\([\w-]+\)=\n|!\[[^]]*\]\(pictures/[^)]*\)", "", text, flags=re.M)
    text = re.sub(r"^\{download\}.*\n", "", text, flags=re.M)
    text = re.sub(r"\{\w+\}`([^`<]+) <[^`>]+>`", r"\1", text)
    text = re.sub(r"\{doc\}`([^`]+)`", lambda link: title(link[1]), text)
    return re.sub(r"\{\w+\}`(?:equipoise\.)?([^`]+)`", r"`\1`", text).strip()


def title(link: str) -> str:
    """The title of a page of the guide or the theory."""
    text = (HERE / "guide" / f"{link}.md").read_text()
    return f"*{text.removeprefix('# ').splitlines()[0]}*"
