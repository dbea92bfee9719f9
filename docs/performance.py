"""The performance page, made from what the scripts of ``tests/benchmarks`` have kept."""

import json
import pathlib
import tomllib
from typing import NamedTuple

import matplotlib.pyplot as plt

from equipoise import plot

HERE = pathlib.Path(__file__).parent
PICTURE = "pictures/bounds.png"
KINDS = {"seconds": "Running", "first_seconds": "First call", "compile_seconds": "Compilation"}
PLAIN = "ours", "equipoise", "equipoise sweep", "measured"  # names that say nothing of the task


class Section(NamedTuple):
    """One table: what its first column divides by what, what is compared, and why we lose."""

    title: str
    ratio: str
    says: str
    why: str = ""


KEPT = HERE / "guide" / "performance"
SECTIONS = {
    area: Section(**{name: text.strip() for name, text in words.items()})
    for area, words in tomllib.loads((KEPT / "sections.toml").read_text()).items()
}
HEAD = """# Performance

Each row is one task. Its first column is a ratio: a peer's time divided by ours, so that ours is
faster where it is above 1. Where there is no peer, the head of the column says what is divided by
what, and an empty cell belongs to a row that only shows how our own time grows.

Both sides are compiled beforehand and run in turns in one process, after a check that their results
agree; only the times to a first result are those of fresh processes. A time is the median of its
repeats. In brackets stand their quantiles of 10 % and 90 % or, where only that was kept, the
distance between the fastest and the slowest repeat (*within*). Compilation and the first call,
which includes it, have columns of their own.

One command measures all of it anew, from the root of a checkout and on a machine that does nothing
else; building the docs then makes this page.

```sh
pip install ".[test,bench]" && python -m tests.benchmarks
```
"""


def time(seconds: float | None) -> str:
    """A duration in the unit that suits it."""
    if seconds is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def repeated(row: dict) -> str:
    """The median of a row, and how far its repeats lie apart where that was kept."""
    median = time(row.get("seconds"))
    if "low" in row:
        return f"{median} ({time(row['low'])} to {time(row['high'])})"
    return f"{median} (within {time(row['spread'])})" if "spread" in row else median


def tasks(rows: list[dict]) -> list[list[dict]]:
    """Rows by task, ours first: those of one title if one is a peer's, otherwise each by itself."""
    found = []
    for title in dict.fromkeys(row["title"] for row in rows):
        same = [row for row in rows if row["title"] == title]
        ours = [row for row in same if row.get("ours")]
        if len(ours) == 1 and len(same) > 1:
            found.append([*ours, *(row for row in same if row is not ours[0])])
        else:
            found += [[row] for row in same]
    return found


def ratio(task: list[dict], peer: dict, what: str = "seconds") -> float | None:
    """Time of a peer divided by ours."""
    if what not in task[0] or what not in peer:
        return None
    return peer[what] / task[0][what]


def each(task: list[dict], what: str, shown) -> str:
    """One line for each row that has the field; peers by name."""
    lines = [
        ("" if row.get("ours") else f"{row['name']} ") + shown(row[what])
        for row in task
        if what in row
    ]
    return "<br>".join(lines)


def cells(task: list[dict], section: Section) -> dict[str, str]:
    """What the table says of a task; empty cells for what was not measured."""
    ours = [row for row in task if row.get("ours")]
    peers = [row for row in task if not row.get("ours")]
    ratios = [(row["name"], ratio(task, row)) for row in peers if ours]
    lines = [f"{name} {'–' if r is None else f'{r:.2f}'}" for name, r in ratios]
    lines += [f"{r:.3f}" if r < 1.1 else f"{r:.2f}" for row in ours if (r := row.get("ratio"))]
    named = len(task) > 1 or task[0]["name"] in PLAIN
    return {
        section.ratio: "<br>".join(lines),
        "task": task[0]["title"] if named else f"{task[0]['title']}, {task[0]['name']}",
        "ours": "".join(repeated(row) for row in ours),
        "peers": "<br>".join(f"{row['name']} {repeated(row)}" for row in peers),
        "first call": each(task, "first_seconds", time),
        "compilation": each(task, "compile_seconds", time),
        "memory": each(task, "mib", lambda mib: f"{mib:.4g} MiB"),
        "note": each(task, "note", str),
    }


def table(rows: list[dict], section: Section) -> list[str]:
    """Markdown of the tasks; a column that is empty throughout is left out."""
    lines = [cells(task, section) for task in tasks(rows)]
    columns = [name for name in lines[0] if any(line[name] not in ("", "–") for line in lines)]
    return [
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(line[name] for name in columns) + " |" for line in lines),
    ]


def losses(rows: list[dict]) -> list[str]:
    """A sentence for each peer and each kind of time in which it was faster at some task."""
    compared, lines = [task for task in tasks(rows) if len(task) > 1], []
    for what, kind in KINDS.items():
        ratios: dict[str, list[float]] = {}
        for task in compared:
            for peer in task[1:]:
                if (found := ratio(task, peer, what)) is not None:
                    ratios.setdefault(peer["name"], []).append(found)
        for name, found in ratios.items():
            lost = sorted(r for r in found if r < 1)
            if lost:
                took = " to ".join(dict.fromkeys(f"{r:.2f}" for r in (lost[0], lost[-1])))
                where = f"{len(lost)} of {len(found)} tasks"
                lines.append(f"- {kind}: {name} takes {took} of our time in {where}.")
    return lines


def picture(rows: list[dict], target: pathlib.Path) -> None:
    """Programs measured against their bounds, on logarithmic axes: none may lie below the line."""
    measured = {row["title"]: 1e3 * row["seconds"] for row in rows}
    bounds = {row["title"]: 1e3 * row["seconds"] / row["ratio"] for row in rows}
    resources = {row["title"]: row["note"] for row in rows}
    with plot.styled():
        ax = plot.new_axes(None)
        for kind, color in zip(sorted(set(resources.values())), plot.COLORS, strict=False):
            at = [(bounds[name], measured[name]) for name in bounds if resources[name] == kind]
            ax.loglog(*zip(*at, strict=True), "o", color=color, label=f"bound by {kind}")
        # Names stand left, away from the line; neighbors in height above and below their points.
        for i, name in enumerate(sorted(measured, key=measured.get)):
            style = {"ha": "right", "va": "top" if i % 2 else "bottom", "fontsize": 7}
            at = bounds[name], measured[name]
            ax.annotate(name, at, (-5, 0), textcoords="offset points", **style)
        ax.set_xlim(left=0.15 * ax.get_xlim()[0])
        ends = [min(bounds.values()), max(measured.values())]
        ax.plot(ends, ends, color="black", linewidth=1)
        ax.set(xlabel="bound (ms)", ylabel="measured (ms)", title="No program beats its bound")
        ax.legend()
        target.parent.mkdir(exist_ok=True)
        ax.figure.savefig(target)
    plt.close(ax.figure)


def part(area: str, section: Section, results: dict[str, dict]) -> list[str]:
    """The heading, the table and the losses of one area."""
    lines = [f"## {section.title}", ""]
    if area not in results:
        return [*lines, "No results are kept.", ""]
    machine, rows = results[area]["machine"], results[area]["rows"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    lines += [
        section.says,
        "",
        *([results[area]["note"], ""] if "note" in results[area] else []),
        f"Measured on {machine['measured']}: {where}, {versions}.",
        "",
        ":::{div} equipoise-results",
        "",
        *table(rows, section),
        "",
        ":::",
        "",
    ]
    if area == "roofline":
        lines += [f"![Ten programs on or above the line of equal times.]({PICTURE})", ""]
    if any(len(task) > 1 for task in tasks(rows)):
        lost = losses(rows)
        why = [section.why, ""] if lost and section.why else []
        lines += ["**Where we lose.**", "", *(lost or ["Nowhere in this table."]), "", *why]
    return lines


def page(results: dict[str, dict]) -> str:
    """The page, from the kept results by area."""
    parts = [part(area, section, results) for area, section in SECTIONS.items()]
    return "\n".join([HEAD, *(line for lines in parts for line in lines)])


def write_performance_page() -> None:
    """Write the page where what it says has changed."""
    kept = sorted(KEPT.glob("*.json"))
    results = {path.stem: json.loads(path.read_text()) for path in kept}
    if "roofline" in results:
        picture(results["roofline"]["rows"], HERE / "guide" / PICTURE)
    text = page(results)
    target = HERE / "guide" / "performance.md"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
