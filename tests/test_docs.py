"""The contract of docstrings (DESIGN 4.3), every doctest, and every code block of the README."""

import dataclasses
import doctest
import enum
import importlib
import inspect
import pathlib
import pkgutil
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equipoise

AREAS = ("attention", "cost", "games", "layers", "vi")
ROOT = pathlib.Path(__file__).parents[1]
SECTIONS = ("Args", "Returns", "Raises", "Cost", "Examples", "References")


def public():
    return [
        pytest.param(area, name, id=f"{area}.{name}")
        for area in AREAS
        for name in importlib.import_module(f"equipoise.{area}").__all__
    ]


def sections(text):
    """Google sections of a cleaned docstring by title; the text before them under ''."""
    found, title = {"": []}, ""
    for line in inspect.cleandoc(text).splitlines():
        match = re.match(r"([A-Z][a-z]+):(.*)$", line)
        if match and match[1] in (*SECTIONS, "Attributes", "Note", "Notes"):
            title = match[1]
            found[title] = [match[2]]
        else:
            found[title].append(line)
    return {title: "\n".join(lines).strip() for title, lines in found.items()}


def documented(text):
    """The names that start an entry of an Args or Attributes section."""
    names = set()
    for match in re.finditer(
        r"^ {0,4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", text, re.MULTILINE
    ):
        names |= {name.strip(" *") for name in match[1].split(",")}
    return names


@pytest.mark.parametrize(("area", "name"), public())
def test_docstring_carries_the_contract(area, name):
    value = getattr(importlib.import_module(f"equipoise.{area}"), name)
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return  # a constant; its module documents it
    parts = sections(value.__doc__ or "")
    head = parts[""].splitlines()[0] if parts[""] else ""
    assert head.endswith("."), "the first line is one sentence"
    assert len(head) <= 79
    assert not head.lower().startswith(name.lower())
    assert "TODO" not in (value.__doc__ or "")
    if inspect.isclass(value):
        if dataclasses.is_dataclass(value):
            fields = {f.name for f in dataclasses.fields(value) if not f.name.startswith("_")}
            assert fields <= documented(parts["Attributes"]), "every field is described"
        for attribute, member in inspect.getmembers(value, lambda x: isinstance(x, property)):
            first = (member.__doc__ or "").split("\n")[0]
            assert ": " not in first, f"{attribute}: what is before the colon reads as a type"
        return
    signature = inspect.signature(value)
    assert not any(
        p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.annotation is p.empty
        for p in signature.parameters.values()
    )
    missing = [title for title in SECTIONS if not parts.get(title)]
    if not signature.parameters:
        missing = [title for title in missing if title not in ("Args", "Raises")]
    assert not missing, f"sections missing: {missing}"
    assert ".. math::" in value.__doc__, "the equation"
    assert set(signature.parameters) <= documented(parts["Args"]), "every argument is described"
    assert ">>>" in parts["Examples"]
    assert ":cite:" in parts["References"]


@pytest.mark.parametrize(("area", "name"), public())
def test_help_fits_a_terminal_and_shows_no_address(area, name):
    value = getattr(importlib.import_module(f"equipoise.{area}"), name)
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return
    _title, *lines = pydoc.render_doc(value, renderer=pydoc.plaintext).splitlines()
    if not (inspect.isclass(value) and issubclass(value, enum.Enum)):  # whose lines are Python's
        own = [line for line in lines if "Create new instance of" not in line]  # of a named tuple
        assert max(map(len, own)) <= 100
    assert not any(" at 0x" in line for line in lines)


def test_every_citation_has_an_entry():
    keys = []
    for path in sorted((ROOT / "docs" / "refs").glob("*.bib")):
        keys += re.findall(r"^@\w+\{([^,\s]+),", path.read_text(), re.MULTILINE)
    assert len(set(keys)) == len(keys), "an entry stands twice"
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]:
        if "_build" in path.parts:
            continue
        for match in re.finditer(
            r"(?::cite:[tp]{1,2}:|\{cite:[tp]{1,2}\})`([^`]+)`", path.read_text()
        ):
            for key in match[1].split(","):
                assert key.strip() in keys, f"{path.name} cites {key}"


def modules():
    yield "equipoise"
    for info in pkgutil.walk_packages(equipoise.__path__, "equipoise."):
        yield info.name


NAMESPACE_IMPORTS = "from equipoise import attention, cost, games, layers, vi"


def user_namespace():
    """What examples may take for granted: jax, jnp, np and the areas."""
    namespace = {"jax": jax, "jnp": jnp, "np": np}
    exec(NAMESPACE_IMPORTS, namespace)
    return namespace


@pytest.fixture
def as_a_user():
    """JAX with the settings that a new user has."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


@pytest.mark.parametrize("module", sorted(modules()))
def test_doctests(module, as_a_user):
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report = []
    for test in finder.find(importlib.import_module(module), module, globs=user_namespace()):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def code_blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def test_readme_code_runs(as_a_user, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(ROOT / "README.md", "python")
    assert len(blocks) >= 4, "one snippet an area"
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
