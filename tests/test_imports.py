"""The direction of imports between areas, rooms and files, and where what may stand."""

import ast
import subprocess
import sys

import pytest

import equipoise
from tests.house import LARGEST_FOLDER, ROOT, House

SOURCE = ROOT / "src" / "equipoise"
SHARED = {"_check", "_types", "_jax"}
AREAS = {
    "attention": set(),
    "vi": set(),
    "games": set(),
    "cost": set(),
    "layers": {"attention"},
    "plot": {"attention", "vi", "games", "cost", "layers"},
}
# Which rooms of its area a room may import; files beside the rooms may import all of them, and no
# room imports such a file.
ROOMS = {
    "attention": {
        "_masks": set(),
        "_kernel": {"_masks"},
        "_cache": {"_masks", "_kernel"},
        "_fused": {"_masks", "_kernel"},
        "_layer": {"_kernel"},
        "_lookup": {"_kernel"},
    },
    "vi": {
        "_supports": set(),
        "_families": {"_supports"},
        "_bounds": {"_supports", "_families"},
        "_weights": {"_supports", "_families", "_bounds"},
        "_target": {"_supports", "_families", "_bounds", "_weights"},
        "_starts": {"_families", "_weights", "_target"},
        "_stages": {"_supports", "_families", "_bounds", "_weights"},
        "_steps": {"_families", "_bounds", "_weights", "_target", "_starts"},
        "_fit": {
            "_supports",
            "_families",
            "_bounds",
            "_weights",
            "_target",
            "_starts",
            "_steps",
            "_stages",
        },
        "_report": {"_families", "_bounds", "_weights", "_fit"},
        "_elsewhere": {"_supports", "_fit"},
    },
    "games": {
        "_rules": set(),
        "_optimizers": {"_rules"},
        "_spectrum": {"_rules"},
        "_sampled": {"_rules"},
        "_play": {"_rules", "_sampled"},
        "_noise": {"_rules", "_sampled", "_spectrum"},
        "_critical": {"_rules", "_spectrum", "_play"},
        "_beyond": {"_rules", "_spectrum", "_critical"},
        "_training": {"_rules", "_optimizers", "_spectrum", "_critical"},
        "_maps": set(),
    },
    "cost": {
        "_expression": set(),
        "_program": {"_expression"},
        "_count": {"_expression", "_program"},
        "_memory": {"_expression", "_program", "_count"},
        "_partition": {"_expression", "_program", "_count"},
        "_traffic": {"_expression", "_program", "_count"},
        "_reads": {"_expression", "_program"},
        "_machine": set(),
    },
    "layers": {},
    "plot": {},
}
# What lies below JAX's documented surface, and the adapter that alone imports it.
BELOW = {
    "jax.extend": {"programs", "evaluation", "primitives"},
    "jax.interpreters": {"primitives"},
    "jax.custom_derivatives": {"zeros"},
    "jax._src": set(),
}


HOUSE = House(ROOT)
FILES, imported = HOUSE.files, HOUSE.imported


def first_below(modules, above):
    """The names right below a package, of the modules that lie in it."""
    return {m[len(above) + 1 :].split(".")[0] for m in modules if m.startswith(above + ".")}


@pytest.mark.parametrize("area", sorted(AREAS))
def test_imports_point_one_way_between_areas(area):
    for module, path in FILES.items():
        if module.startswith(f"equipoise.{area}"):
            reached = first_below(imported(path), "equipoise")
            for other in reached - SHARED - {area} - AREAS[area]:
                pytest.fail(f"{module} → {other}")


@pytest.mark.parametrize("area", sorted(AREAS))
def test_imports_point_one_way_between_rooms(area):
    here, rooms = f"equipoise.{area}", ROOMS[area]
    assert {path.name for path in (SOURCE / area).iterdir() if (path / "__init__.py").exists()} == (
        set(rooms)
    )
    for room, allowed in rooms.items():
        for module, path in FILES.items():
            if module.startswith(f"{here}.{room}"):
                reached = first_below(imported(path), here)
                for other in reached - {room} - allowed:
                    pytest.fail(f"{module} → {other}")


def test_no_imports_go_in_a_circle():
    assert [" → ".join(circle) for circle in HOUSE.circles()] == []


@pytest.mark.parametrize("name", sorted(SHARED))
def test_shared_code_imports_no_area(name):
    for module, path in FILES.items():
        if module.startswith(f"equipoise.{name}"):
            assert first_below(imported(path), "equipoise") <= SHARED, module


def test_what_lies_below_jax_is_imported_by_its_adapter_alone():
    for module, path in FILES.items():
        for name in imported(path):
            for below, adapters in BELOW.items():
                if name == below or name.startswith(below + "."):
                    assert module in {f"equipoise._jax.{a}" for a in adapters}, (module, name)


def test_folders_hold_few_files():
    for folder in {path.parent for path in FILES.values()}:
        assert len(list(folder.glob("*.py"))) <= LARGEST_FOLDER, folder


def test_files_hold_one_idea_and_say_which():
    for path in FILES.values():
        assert len(HOUSE.texts[path].splitlines()) <= 360, path
        assert ast.get_docstring(HOUSE.trees[path]), path


def test_matplotlib_is_not_imported_before_it_is_asked_for():
    code = (
        "import sys, equipoise\n"
        "for area in {*equipoise.__all__[1:]} - {'plot'}:\n"
        "    getattr(equipoise, area)\n"
        "    assert 'matplotlib' not in sys.modules, area\n"
        "equipoise.plot.trust_report"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_package_shows_the_areas_and_nothing_else():
    assert sorted(dir(equipoise)) == [
        "__version__",
        "attention",
        "cost",
        "games",
        "layers",
        "plot",
        "vi",
    ]
    with pytest.raises(AttributeError, match="no attribute 'plots'"):
        equipoise.plots  # noqa: B018
