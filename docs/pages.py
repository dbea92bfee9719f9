"""The code of the guide's pages: found, run, checked, and the pictures that it makes.

On a page all ``python`` blocks share one namespace, in order. What a block prints must be what its
comments ``# → …`` say, if it has any; a comment ``# raises Error: words`` is the error it ends in.
"""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PAGES = sorted([*HERE.glob("guide/*.md"), *HERE.glob("theory/*.md")])


def code_blocks(page: pathlib.Path) -> list[str]:
    """The blocks of a page that are marked as Python."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


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
