"""Pages of the guide and the theory: their code runs, and the tests and figures they name exist."""

import ast
import datetime
import functools
import importlib
import os
import re
import subprocess
import sys
import tomllib

import jax
import matplotlib.pyplot as plt
import pytest

import equipoise
from docs import pages, performance
from tests.benchmarks import _report
from tests.benchmarks.__main__ import SCRIPTS
from tests.test_docs import ROOT, sections

THEORY = [page for page in pages.PAGES if page.parent.name == "theory"]


def ids(page):
    return f"{page.parent.name}/{page.name}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in pages.PAGES if pages.code_blocks(p)], ids=ids)
def test_code_of_the_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package in imported(pages.code_blocks(page)):
        pytest.importorskip(package, reason=f"a recipe of the page needs {package}: .[test]")
    if pages.needs_own_process(page):
        code = "import sys; from docs import pages; pages.run(sys.argv[2:], sys.argv[1])"
        command = [sys.executable, "-c", code, page.name, *pages.code_blocks(page)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        return
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        pages.run(pages.code_blocks(page), page.name)
    plt.close("all")
    for name in pages.pictures(page):
        assert (tmp_path / name).stat().st_size > 0, f"{name} is shown and not made"


def imported(blocks):
    """The packages that a page imports, equipoise aside."""
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    names = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return sorted({name.split(".")[0] for name in names} - {"equipoise"})


def test_text_below_a_block_agrees_in_words_and_to_two_digits(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("""```python
print("mean", 0.123, [4.56, -7])
```

```text
mean  0.124  [4.55, -7]
```
""")
    (block,) = pages.code_blocks(page)
    pages.run([block], "page")
    for shown in ("sd 0.123 [4.56, -7]", "mean 0.2 [4.56, -7]", "mean 0.123 [4.56", "mean 0.123"):
        with pytest.raises(AssertionError, match="showed"):
            pages.run([f"{block.splitlines()[0]}\n# ≈ {shown}"], "page")


def test_run_notices_other_output_and_other_errors():
    with pytest.raises(AssertionError, match="printed"):
        pages.run(["print(1)  # → 2\n"], "page")
    with pytest.raises(AssertionError, match="NoneType"):
        pages.run(["1\n# raises ValueError: no\n"], "page")
    with pytest.raises(ZeroDivisionError):
        pages.run(["1 / 0\n"], "page")
    pages.run(
        ["print(1)  # → 1\n", "raise ValueError('no, not so')\n# raises ValueError: no\n"], ""
    )


# A test is named as {download}`test_name <../../tests/area/test_file.py>`, so that the name is a
# link to the file; a figure by its gallery label.
NAMED = re.compile(r"\{download\}`(test_\w+) <\.\./\.\./(tests/[\w/]+\.py)>`")
LABEL = re.compile(r"sphx_glr_gallery_(\w+?)_(plot_\w+)\.py")


@pytest.mark.parametrize("page", pages.PAGES, ids=ids)
def test_every_test_and_figure_that_the_page_names_exists(page):
    text = page.read_text()
    for name, file in NAMED.findall(text):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (
            f"{page.name} names {name}, which {file} does not hold"
        )
    for file in re.findall(r"`((?:src|tests|examples)/[\w/]+\.py)`", text):
        assert (ROOT / file).exists(), f"{page.name} names {file}"
    for area, name in LABEL.findall(text):
        assert (ROOT / "examples" / area / f"{name}.py").exists(), f"{page.name} shows {name}"
    # Nothing that looks like a test's name goes unchecked.
    assert len(re.findall(r"\btest_\w+(?!\w*\.py)\b", text)) == len(NAMED.findall(text))


@pytest.mark.parametrize("page", [p for p in THEORY if p.name != "index.md"], ids=ids)
def test_every_result_of_the_theory_names_its_test(page):
    sections = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) >= 4
    for section in sections:
        assert NAMED.search(section), f"{page.name}: no test named under {section.splitlines()[0]}"
    assert LABEL.search(page.read_text()), "a figure"


def test_supported_versions_are_those_of_the_package_and_of_ci():
    text = (ROOT / "docs" / "guide" / "versions.md").read_text()
    rows = re.findall(r"^\| ([a-zA-Z, ]+) \| ([\d.]+) \| ([\w .]+) \|$", text, re.MULTILINE)
    table = {name: (oldest, newest) for names, oldest, newest in rows for name in names.split(", ")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = dict(requirement.split(">=") for requirement in project["dependencies"])
    oldest["Python"] = project["requires-python"].removeprefix(">=")
    assert {name: versions[0] for name, versions in table.items()} == oldest
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^oldest=\$\(python_of (.*)\)", script, re.MULTILINE)[1] == oldest["Python"]
    newest = re.search(r"^ *for version in (\S+)", script, re.MULTILINE)[1]
    assert table.pop("Python")[1] == newest
    assert {versions[1] for versions in table.values()} == {"the newest release"}


def test_citation_and_package_have_one_version():
    stated = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert stated[1] == equipoise.__version__


def test_performance_page_says_where_we_lose_and_what_was_not_measured():
    row = functools.partial(_report.Row, "a sweep")
    rows = [
        row("equipoise", ours=True, compile_seconds=1.5, **_report.of([2e-3] * 8 + [5e-3] * 2)),
        row("faster", 1e-3, first_seconds=0.5),
        row("slower", 8.0, compile_seconds=1.2),
        row("lost", None, note="not right"),
        _report.Row("a growth", "10", 1.0, ours=True),
        _report.Row("a growth", "100", 2.0, ours=True, ratio=1.25),
    ]
    kept = {"machine": _report.machine(), "rows": [_report.given(row) for row in rows]}
    text = performance.page({"games": kept})
    ratios = "faster 0.50<br>slower 4000.00<br>lost –"
    ours = "2 ms (2 ms to 5 ms)"
    peers = "faster 1 ms<br>slower 8 s<br>lost –"
    compiled = "1.5 s<br>slower 1.2 s"
    assert f"| {ratios} | a sweep | {ours} | {peers} | faster 500 ms | {compiled} |" in text
    assert "| lost not right |" in text
    assert "|  | a growth, 10 | 1 s |" in text
    assert "| 1.25 | a growth, 100 | 2 s |" in text
    assert text.count("of our time") == 2
    assert "Running: faster takes 0.50 of our time in 1 of 1 tasks." in text
    assert "Compilation: slower takes 0.80 of our time in 1 of 1 tasks." in text
    assert f"Measured on {datetime.date.today()}:" in text
    assert f"jax {jax.__version__}" in text
    assert text.count("No results are kept.") == len(performance.SECTIONS) - 1


def test_performance_page_shows_every_figure_that_is_kept():
    words = set(performance.SECTIONS)
    assert words == {path.stem for path in performance.KEPT.glob("*.json")} == set(SCRIPTS)
    for area, script in SCRIPTS.items():
        text = (ROOT / "tests" / "benchmarks" / f"{script}.py").read_text()
        assert f'save("{area}", ' in text


GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "eta",
    "theta",
    "lambda",
    "mu",
    "rho",
    "tau",
    "phi",
    "Delta",
    "Pi",
    "Phi",
]
WRITTEN = {letter: f"\\{name}" for letter, name in zip("αβγδεηθλμρτφΔΠΦ", GREEK, strict=True)}
TITLES = {
    "attention": "Attention",
    "vi": "Variational inference",
    "games": "Games",
    "layers": "Cost and layers",
}
# An entry that gives its argument a symbol says so first: "scale: c, the factor on ...".
ENTRY = re.compile(r"^ {0,4}\*?(\w+): (\w)(\u0302?)[₀ᵢ]?\*?[,.](?= |$)", re.MULTILINE)


def notation(title):
    """Symbols by argument, from the table of one area."""
    text = (ROOT / "docs" / "guide" / "notation.md").read_text()
    section = re.split(rf"^## {title}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    symbols = {}
    for symbol, arguments in re.findall(r"^\| (\$.*?) \| (.*?) \|", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", arguments):
            plain = (s.split(" = ")[0].removesuffix("^*") for s in re.findall(r"\$(.*?)\$", symbol))
            symbols.setdefault(name, set()).update(plain)
    return symbols


@pytest.mark.parametrize("area", TITLES)
def test_docstrings_use_the_symbols_of_the_notation(area):
    symbols, stated = notation(TITLES[area]), 0
    module = importlib.import_module(f"equipoise.{area}")
    for name in module.__all__:
        parts = sections(getattr(module, name).__doc__ or "")
        text = "\n".join(parts.get(part, "") for part in ("Args", "Attributes"))
        for argument, letter, hat in ENTRY.findall(text):
            stated += 1
            symbol = f"\\hat {letter}" if hat else WRITTEN.get(letter, letter)
            assert symbol in symbols.get(argument, ()), f"{area}.{name}: {argument} is {symbol}"
    assert stated >= 10
