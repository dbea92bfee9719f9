"""Measures of the house: how it is cut, what repeats, what is named how. Run as a script.

``python tests/house.py [ROOT]`` prints one row a measure: the figure, the bound and the figure
before the house was cut into rooms. It exits with status 1 where a bound is missed. It needs no
package but Python's own. ``test_imports.py`` shares the import graph.
"""

import ast
import io
import keyword
import pathlib
import re
import sys
import tokenize
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parents[1]
LARGEST_FOLDER, LONG_FILE, LONG_SIGNATURE, REPEAT = 12, 250, 10, 6
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
SHAPES = {tokenize.NUMBER: "0", tokenize.STRING: "text"}
# Entry points that mirror a signature of jax.nn or flax, or of the equation's many options.
MANY_ARGUMENTS = {
    "equipoise.attention": {
        "attention_statistics",
        "decode_step",
        "dot_product_attention",
        "flax_attention_fn",
        "multi_head_attention",
        "reference_attention",
        "ring_attention",
    },
    "equipoise.vi": {"fit"},
}


class House:
    """The Python files below a root, parsed once, and who imports whom."""

    def __init__(self, root):
        self.source = root / "src" / "equipoise"
        self.files = {self.module_of(path): path for path in sorted(self.source.rglob("*.py"))}
        others = [
            p for f in ("tests", "examples", "docs") for p in sorted((root / f).rglob("*.py"))
        ]
        built = {"_build", "gallery"}  # what a build of the docs leaves behind
        self.paths = [*self.files.values(), *(p for p in others if not built & {*p.parts})]
        self.texts = {path: path.read_text() for path in self.paths}
        self.trees = {path: ast.parse(text) for path, text in self.texts.items()}

    def module_of(self, path):
        """The dotted name of a file of the package."""
        parts = path.relative_to(self.source.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imported(self, path):
        """Every module that a file imports, wherever in the file; names of a package as modules."""
        found = set()
        for node in ast.walk(self.trees[path]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                inside = names & set(self.files)
                found |= inside if inside else {node.module}
        return found

    def circles(self):
        """The circles of imports that a walk along them meets, each as its modules in order."""
        edges = {m: sorted(self.imported(p) & set(self.files)) for m, p in self.files.items()}
        done, found = set(), []

        def visit(module, trail):
            if module in trail:
                found.append([*trail[trail.index(module) :], module])
            elif module not in done:
                for other in edges[module]:
                    visit(other, [*trail, module])
                done.add(module)

        for module in self.files:
            visit(module, [])
        return found

    def definitions(self, path):
        """Names that a file defines at its top, dunders left out."""
        found = set()
        for node in self.trees[path].body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = (n for target in targets for n in ast.walk(target))
                found |= {
                    n.id for n in names if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                }
        return {name for name in found if not name.startswith("__")}

    def uses(self):
        """Pairs of a module and a name of it that another file imports, or reads of the module."""
        found = set()
        for path in self.paths:
            modules = {}
            for node in ast.walk(self.trees[path]):
                if isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        whole = f"{node.module}.{alias.name}"
                        if whole in self.files:
                            modules[alias.asname or alias.name] = whole
                        found.add((node.module, alias.name))
            for node in ast.walk(self.trees[path]):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    found.add((modules.get(node.value.id), node.attr))
        return found

    def misnamed(self):
        """Definitions whose underscore says the reverse of whether another file imports them."""
        uses = self.uses()
        for module, path in self.files.items():
            exported = next(
                (
                    ast.literal_eval(node.value)
                    for node in self.trees[path].body
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
                ),
                (),
            )
            for name in sorted(self.definitions(path) - set(exported)):
                if name.startswith("_") == ((module, name) in uses):
                    yield module, name

    def long_signatures(self):
        """Functions of the package with too many parameters, the entry points left out."""
        for module, path in self.files.items():
            area = ".".join(module.split(".")[:2])
            for node in ast.walk(self.trees[path]):
                if isinstance(node, ast.FunctionDef):
                    a = node.args
                    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
                    count = len(set(names) - {"self"}) + bool(a.vararg) + bool(a.kwarg)
                    allowed = node.name in MANY_ARGUMENTS.get(area, ())
                    if count > LONG_SIGNATURE and not allowed:
                        yield f"{module}.{node.name}"

    def repeats(self):
        """Maximal runs of lines that stood before, in any file, and whether they do anything.

        As (path, first line, lines, acts). A run acts if so many of its lines do more than hand on,
        and it is no list, whose lines all look alike or repeat a run that they overlap.
        """
        seen = {}
        for path in self.paths:
            handed = handed_on(self.trees[path])
            lines = code_lines(self.texts[path], self.trees[path])
            windows = [
                tuple(text for _, text in lines[i : i + REPEAT])
                for i in range(len(lines) - REPEAT + 1)
            ]
            start = None
            for i, window in enumerate([*windows, None]):
                if window in seen and start is None:
                    start = i
                elif window not in seen and start is not None:
                    run = [number for number, _ in lines[start : i + REPEAT - 1]]
                    where, at = seen[windows[start]]
                    a_list = len(set(windows[start])) == 1 or (
                        where == path and start < at + REPEAT
                    )
                    yield path, run[0], len(run), not a_list and len(set(run) - handed) >= REPEAT
                    start = None
                if window is not None:
                    seen.setdefault(window, (path, i))


def is_named(node, name):
    """Whether an expression is a name, that of its place but for an underscore."""
    return isinstance(node, ast.Name) and node.id.lstrip("_") == name


def handed_on(tree):
    """Lines that name things and do nothing: parameters, bare fields, and values under own names.

    Signatures that the design fixes repeat each other, and whoever serves two hands all on.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found |= set(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.ClassDef):
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            found |= {line for f in fields for line in range(f.lineno, f.end_lineno + 1)}
        elif isinstance(node, ast.Call):
            found |= {k.value.lineno for k in node.keywords if is_named(k.value, k.arg)}
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found |= {
                v.lineno for k, v in pairs if isinstance(k, ast.Constant) and is_named(v, k.value)
            }
    return found


def code_lines(text, tree):
    """Line numbers and shapes of the lines of code: names, numbers and strings are one each.

    Docstrings, comments, imports and lines of fewer than four tokens are left out.
    """
    skipped = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    shapes = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        number = token.start[0]
        if token.type in LAYOUT or number in skipped:
            continue
        is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        shape = "name" if is_name else SHAPES.get(token.type, token.string)
        shapes.setdefault(number, []).append(shape)
    return [(number, tuple(shape)) for number, shape in shapes.items() if len(shape) >= 4]


def measures(house):
    """Rows of name, figure before the rooms (commit 7da5e12), bound, figure, and what breaks it.

    The bound is the most that may be, or the least for a share.
    """
    texts = [house.texts[path] for path in house.files.values()]
    short = sum(len(text.splitlines()) <= LONG_FILE for text in texts) / len(texts)
    folders = Counter(path.parent for path in house.files.values())
    full = [str(folder) for folder, count in folders.items() if count > LARGEST_FOLDER]
    repeats = {True: [], False: []}
    for path, line, lines, acts in house.repeats():
        repeats[acts].append(f"{path}:{line} ({lines} lines)")
    number = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    broken = {
        ("circles of imports", 4): [" → ".join(circle) for circle in house.circles()],
        (f"functions of more than {LONG_SIGNATURE} parameters", 1): list(house.long_signatures()),
        ("repeats that do something", 0): repeats[True],
        ("names with the wrong underscore", 222): [".".join(name) for name in house.misnamed()],
        ("files that do not say what they are for", 20): [
            module
            for module, path in house.files.items()
            if not ast.get_docstring(house.trees[path])
        ],
    }
    yield "files in the largest folder", 37, LARGEST_FOLDER, max(folders.values()), full
    yield f"files of {LONG_FILE} lines or less, %", 89, 90, int(100 * short), []
    yield "`Any` in src", 896, 250, number, []
    yield (
        f"repeats of {REPEAT} lines or more",
        47,
        23,
        sum(map(len, repeats.values())),
        repeats[False],
    )
    for (name, before), places in broken.items():
        yield name, before, 0, len(places), places


def main(root):
    """Print the table; the status of the process is whether a bound is missed."""
    missed, failed = [], False
    print(f"{'':44}{'now':>6}{'bound':>8}{'before':>8}")
    for name, before, bound, figure, places in measures(House(root)):
        fails = figure < bound if name.endswith("%") else figure > bound
        sign = "≥" if name.endswith("%") else "≤"
        print(f"{name:44}{figure:6}{f'{sign} {bound}':>8}{before:8}{'   missed' * fails}")
        failed |= fails
        missed += [f"{name}: {place}" for place in places] if fails else []
    print("\n".join(missed))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(*sys.argv[1:]).resolve() if sys.argv[1:] else ROOT))
