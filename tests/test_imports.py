"""The direction of imports, late matplotlib, and what the package shows at its top."""

import ast
import pathlib
import subprocess
import sys

import pytest

import equipoise

SOURCE = pathlib.Path(equipoise.__file__).parent
ALLOWED = {
    "attention": set(),
    "vi": set(),
    "games": set(),
    "cost": set(),
    "layers": {"attention"},
    "plot": {"attention", "vi", "games", "cost", "layers"},
}
SHARED = {"_check", "_types"}


def imported_areas(path):
    """First component below ``equipoise`` of everything a file imports from the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            modules = (
                [f"{base}.{alias.name}" for alias in node.names] if base == "equipoise" else [base]
            )
        found |= {module.split(".")[1] for module in modules if module.startswith("equipoise.")}
    return found


@pytest.mark.parametrize("area", sorted(ALLOWED))
def test_imports_point_one_way(area):
    for path in (SOURCE / area).rglob("*.py"):
        assert imported_areas(path) <= SHARED | {area} | ALLOWED[area], path


@pytest.mark.parametrize("name", sorted(SHARED))
def test_shared_code_imports_no_area(name):
    assert imported_areas(SOURCE / f"{name}.py") <= SHARED


@pytest.mark.parametrize("area", ["attention", "vi", "games", "cost", "layers"])
def test_matplotlib_is_not_imported_before_it_is_asked_for(area):
    code = f"import sys, equipoise.{area}; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_package_shows_the_areas_and_nothing_else():
    assert sorted(dir(equipoise)) == ["__version__", "attention", "cost", "games", "layers", "vi"]
    with pytest.raises(AttributeError, match="no attribute 'plots'"):
        equipoise.plots  # noqa: B018


def test_files_hold_one_idea():
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 360, path
