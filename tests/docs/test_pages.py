"""What must hold of every built page, read as text: no browser is needed."""

import ast
import collections
import importlib
import inspect
import json
import pathlib
import re

import pytest

from docs.pages import QUICK_STARTS, code_blocks
from tests.docs.pages import is_outside, read_all, target

ROOT = pathlib.Path(__file__).parents[2]
AREAS = ("attention", "cost", "games", "layers", "plot", "vi")
# Reached by the search field and by nothing else.
UNLINKED = {"search.html", "genindex.html"}
# The gallery's own mark for lists of tags, of which there are none, stands once an area.
REPEATED = {"sg-tag-list"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(site):
    found = read_all(site)
    assert len(found) > 100
    return found


def test_every_link_and_anchor_resolves(site, pages):
    broken = []
    for page, content in pages.items():
        for link in content.links + content.fetched:
            if is_outside(link) or link.startswith("data:"):
                continue
            file, anchor = target(page, link)
            if not file.exists():
                broken.append(f"{page.relative_to(site)}: no file {link}")
            elif anchor and file in pages and anchor not in pages[file].anchors:
                broken.append(f"{page.relative_to(site)}: no anchor {link}")
    assert not broken, "\n".join(broken)


def test_every_anchor_is_one(site, pages):
    twice = [
        f"{page.relative_to(site)}: {anchor}"
        for page, content in pages.items()
        for anchor, count in collections.Counter(content.anchors).items()
        if count > 1 and anchor not in REPEATED
    ]
    assert not twice, "\n".join(twice)


def test_nothing_is_fetched_from_outside(site, pages):
    outside = [
        f"{page.relative_to(site)}: {link}"
        for page, content in pages.items()
        for link in content.fetched
        if is_outside(link)
    ]
    for style in site.rglob("*.css"):
        outside += [
            f"{style.relative_to(site)}: {link}"
            for link in re.findall(r"""(?:@import\s+|url\()["']?([^"')]+)""", style.read_text())
            if is_outside(link)
        ]
    assert not outside, "\n".join(outside)


def test_every_page_is_reached_from_the_first(site, pages):
    seen, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in seen or page not in pages:
            continue
        seen.add(page)
        waiting += [target(page, link)[0] for link in pages[page].links if not is_outside(link)]
    orphans = {str(page.relative_to(site)) for page in set(pages) - seen} - UNLINKED
    assert not orphans, f"no link leads to {sorted(orphans)}"


def test_every_image_says_what_it_shows(site, pages):
    silent = [
        f"{page.relative_to(site)}: {source}"
        for page, content in pages.items()
        for source, alt, thumbnail in content.images
        if alt is None or not (alt or thumbnail)
    ]
    assert not silent, "\n".join(silent)


def test_every_page_has_a_twin_in_markdown_that_the_list_names(site, pages):
    listed = (site / "llms.txt").read_text()
    made = {path.relative_to(site).as_posix() for path in pages}
    made = {name.removesuffix(".html") for name in made if not name.startswith("_modules/")}
    made -= {"search", "genindex"}
    assert len(made) > 100
    for name in made:
        twin = site / f"{name}.md"
        assert re.search(r"^# \S", twin.read_text(), re.MULTILINE), f"{name} has no title"
        assert f"]({name}.md)" in listed, f"llms.txt does not list {name}"
    sweep = (site / "api" / "generated" / "equipoise.games.sweep.md").read_text()
    assert "sweep(game: [Game](equipoise.games.Game.md#equipoise.games.Game), rule: " in sweep
    assert r", players: Players, \*, step_sizes: Array, num_steps: int, " in sweep
    expression = (site / "api" / "generated" / "equipoise.cost.Expression.md").read_text()
    assert "equipoise.cost.Expression(" not in expression, "results are not constructed"


def test_every_link_of_a_twin_resolves(site):
    broken, pictures, downloads = [], 0, 0
    for twin in sorted(site.rglob("*.md")):
        text = re.sub(r"^```.*?^```|\$\$.*?\$\$|\$.*?\$", "", twin.read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if not is_outside(link) and not target(twin, link)[0].exists():
                broken.append(f"{twin.relative_to(site)}: no file {link}")
            pictures += "_images/" in link
            downloads += "_downloads/" in link
    assert not broken, "\n".join(broken)
    assert pictures > 50
    assert downloads > 100


def test_notebooks_hold_the_code_of_their_pages(site):
    for page in QUICK_STARTS:
        (found,) = site.glob(f"_downloads/*/{page.stem}.ipynb")
        cells = json.loads(found.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert code == ["%pip install --quiet equipoise", *map(str.strip, code_blocks(page))]
        text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        assert text.startswith("# ")
        assert not re.search(r"\{\w+\}`|\]\(pictures|\)=\n", text), "marks of Sphinx"


def names():
    for area in AREAS:
        for name in importlib.import_module(f"equipoise.{area}").__all__:
            yield area, name


def test_every_public_name_is_listed_and_every_listed_name_exists(site, pages):
    for area in AREAS:
        index = site / "api" / f"{area}.html"
        prefix = f"equipoise.{area}."
        listed = {
            target(index, link)[0].name.removesuffix(".html").removeprefix(prefix)
            for link in pages[index].article
            if link.startswith(f"generated/{prefix}")  # its text may name those of others
        }
        public = {name for owner, name in names() if owner == area}
        assert listed == public, f"{area}: {sorted(listed ^ public)}"
        for name in public:
            assert f"{prefix}{name}" in pages[page_of(site, area, name)].anchors, name


def page_of(site, area, name):
    return site / "api" / "generated" / f"equipoise.{area}.{name}.html"


def test_every_name_leads_to_its_source(site, pages):
    missing = []
    for area, name in names():
        value = getattr(importlib.import_module(f"equipoise.{area}"), name)
        if not (inspect.isfunction(value) or inspect.isclass(value)):
            continue  # a constant has a value instead
        links = pages[page_of(site, area, name)].links
        if not any("_modules/" in link and link.endswith(f"#{name}") for link in links):
            missing.append(f"{area}.{name}")
    assert not missing, f"no link to the source of {missing}"


def uses(path):
    """The names of the library that a script uses, as ``area.name``."""
    tree = ast.parse(path.read_text())
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in AREAS
    }


def test_every_name_shows_the_examples_that_use_it(site, pages):
    missing, total = [], 0
    for script in sorted((ROOT / "examples").glob("*/plot_*.py")):
        used = uses(script)
        example = site / "gallery" / script.parent.name / f"{script.stem}.html"
        assert example in pages, f"{script.name} has no page"
        for area, name in names():
            if f"{area}.{name}" not in used:
                continue
            total += 1
            page = page_of(site, area, name)
            if example not in {target(page, link)[0] for link in pages[page].article}:
                missing.append(f"{area}.{name} does not show {script.name}")
    assert total > 50
    assert not missing, "\n".join(missing)
