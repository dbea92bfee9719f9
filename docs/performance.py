"""The performance page, made from what the scripts of ``tests/benchmarks`` have kept."""

import json
import pathlib

import matplotlib.pyplot as plt

from equipoise import plot

HERE = pathlib.Path(__file__).parent
AREAS = "attention", "vi", "games", "cost"
TITLES = {area: f"equipoise.{area}" for area in AREAS} | {
    "roofline": "Time as bounded beforehand, and as measured",
    "training": "Critical learning rate of a transformer",
    "prediction": "Critical learning rate, as predicted and as played",
    "latency": "Time to the first result",
}
PICTURE = "pictures/bounds.png"
HEAD = """# Performance

Made from the results of the scripts in `tests/benchmarks`, with the machine and the versions they
ran on. Each script checks that both sides give equal results before it reads a clock. Both run in
one process, compiled beforehand and blocked until ready, but for the time to the first result,
which is that of fresh processes; a time is a median, ± the spread of all repeats. *Against ours* is
the time of a peer divided by ours: below 1 the peer is faster.

Run one yourself from the root of the repository, on a machine that does nothing else:

```sh
pip install ".[test,bench]" && python -m tests.benchmarks.bench_games --save
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


def against(row: dict, rows: list[dict]) -> float | None:
    """Time of this row divided by that of the first of ours that did the same."""
    ours = next((r for r in rows if r["ours"] and r["title"] == row["title"]), None)
    if ours is None or row["ours"] or row["seconds"] is None or ours["seconds"] is None:
        return None
    return row["seconds"] / ours["seconds"]


def cells(row: dict, rows: list[dict]) -> dict[str, str]:
    """What the table says of a row; empty cells for what was not measured."""
    ratio, spread = against(row, rows), row["spread"]
    return {
        "what": row["title"],
        "who": row["name"],
        "time": time(row["seconds"]) + ("" if spread is None else f" ± {time(spread)}"),
        "against ours": "" if ratio is None else f"{ratio:.2f}",
        "compile": "" if row["compile_seconds"] is None else time(row["compile_seconds"]),
        "memory": "" if row["mib"] is None else f"{row['mib']:.4g} MiB",
        "note": row["note"],
    }


def table(rows: list[dict]) -> list[str]:
    """Markdown of the rows; a column that is empty throughout is left out."""
    lines = [cells(row, rows) for row in rows]
    columns = [name for name in lines[0] if any(line[name] not in ("", "–") for line in lines)]
    return [
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(line[name] for name in columns) + " |" for line in lines),
    ]


def losses(rows: list[dict]) -> list[str]:
    """One sentence for each peer that was faster."""
    faster = [(row, against(row, rows)) for row in rows]
    return [
        f"- {row['title']}: {row['name']} takes {ratio:.2f} of our time."
        for row, ratio in faster
        if ratio is not None and ratio < 1
    ]


def picture(rows: list[dict], target: pathlib.Path) -> None:
    """Programs measured against their bounds, on logarithmic axes: none may lie below the line."""
    times = {(row["title"], row["name"]): row["seconds"] for row in rows}
    programs = list(dict.fromkeys(row["title"] for row in rows))
    resource = {row["title"]: row["note"] for row in rows if row["name"] == "bound"}
    with plot.styled():
        ax = plot.new_axes(None)
        for kind, color in zip(sorted(set(resource.values())), plot.COLORS, strict=False):
            chosen = [name for name in programs if resource[name] == kind]
            bounds = [1e3 * times[name, "bound"] for name in chosen]
            measured = [1e3 * times[name, "measured"] for name in chosen]
            ax.loglog(bounds, measured, "o", color=color, label=f"bound by {kind}")
        # Names stand left, away from the line; neighbors in height above and below their points.
        for i, name in enumerate(sorted(programs, key=lambda name: times[name, "measured"])):
            at = 1e3 * times[name, "bound"], 1e3 * times[name, "measured"]
            style = {"ha": "right", "va": "top" if i % 2 else "bottom", "fontsize": 7}
            ax.annotate(name, at, (-5, 0), textcoords="offset points", **style)
        ax.set_xlim(left=0.15 * ax.get_xlim()[0])
        ends = [1e3 * min(times.values()), 1e3 * max(times.values())]
        ax.plot(ends, ends, color="black", linewidth=1)
        ax.set(xlabel="bound (ms)", ylabel="measured (ms)", title="No program beats its bound")
        ax.legend()
        target.parent.mkdir(exist_ok=True)
        ax.figure.savefig(target)
    plt.close(ax.figure)


def page(results: dict[str, dict]) -> str:
    """The page, from the kept results by area."""
    lines = [HEAD]
    for area, title in TITLES.items():
        lines += [f"## {title}", ""]
        if area not in results:
            lines += ["No results are kept.", ""]
            continue
        machine, rows = results[area]["machine"], results[area]["rows"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
        lines += [
            f"On {where}, with {versions}.",
            "",
            ":::{div} equipoise-results",
            "",
            *table(rows),
            "",
            ":::",
            "",
        ]
        if area == "roofline":
            lines += [f"![Ten programs on or above the line of equal times.]({PICTURE})", ""]
        if any(against(row, rows) is not None for row in rows):
            lines += ["**Where we lose.**", "", *(losses(rows) or ["Nowhere in this table."]), ""]
    return "\n".join(lines)


def write_performance_page() -> None:
    """Write the page where what it says has changed."""
    kept = sorted((HERE / "guide" / "performance").glob("*.json"))
    results = {path.stem: json.loads(path.read_text()) for path in kept}
    if "roofline" in results:
        picture(results["roofline"]["rows"], HERE / "guide" / PICTURE)
    text = page(results)
    target = HERE / "guide" / "performance.md"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
