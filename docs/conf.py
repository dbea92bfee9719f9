"""Sphinx configuration; built by ``sphinx-build -W --keep-going docs docs/_build/html``."""

import importlib
import importlib.metadata
import inspect
import json
import os
import pathlib
import re
import sys

# Most of the gallery's time is compilation, and the older emitters need a third less of it; later
# versions of jaxlib no longer have them, and abort where they meet an unknown flag.
if importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# Threads of LAPACK only wait for each other on matrices as small as those of the examples.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import equipoise

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
AREAS = ("attention", "vi", "games", "cost", "layers", "plot")

project = "Equipoise"
author = "The Equipoise developers"
project_copyright = author
version = release = equipoise.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "sphinx_llm.txt",
]
templates_path = ["_templates"]
exclude_patterns = [
    "_build",
    "_templates",
    "gallery/**/*.ipynb",
    "gallery/**/*.py",
    "sg_execution_times.rst",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

# Names of other projects are text here: the pages make no outside request.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(jax|optax|chex|numpy|collections|fractions)(\..*)?")]

# Each page in Markdown beside it, and all of them listed in llms.txt, made of what Sphinx has read.
llms_txt_description = (
    "JAX library: attention, variational inference, games, cost of sequence models."
)
llms_txt_build_parallel = False
llms_txt_suffix_mode = "replace"
llms_txt_nested_enabled = False
llms_txt_full_build = True

autosummary_generate = True
autodoc_preserve_defaults = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
maximum_signature_line_length = 60
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = [("Cost", "notes")]
bibtex_bibfiles = sorted(str(path.relative_to(HERE)) for path in HERE.glob("refs/*.bib"))
bibtex_reference_style = "author_year"
bibtex_default_style = "unsrt"

html_theme = "pydata_sphinx_theme"
html_title = "Equipoise"
html_favicon = "_static/mark.svg"
html_static_path = ["_static"]
html_css_files = ["equipoise.css"]
html_search_scorer = str(HERE / "_static" / "scorer.js")  # wherever the build is begun
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
alone = ("index", "tour", "explorer", "changelog", "references", "search")
html_sidebars = {page: [] for page in (*alone, "guide/performance")}  # its tables are wide
html_theme_options = {
    "logo": {
        "text": f"Equipoise {version}",
        "alt_text": "A point balanced on the unit circle",
        "image_light": "_static/mark.svg",
        "image_dark": "_static/mark.svg",
    },
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}


def reset_jax(_gallery, name):
    """Each example begins in float32, and compiles as fast as it can unless it reads a clock."""
    jax.config.update("jax_enable_x64", val=False)
    jax.config.update(
        "jax_disable_most_optimizations", val=not (ROOT / "examples" / "cost" / name).exists()
    )


sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"plot_",
    "ignore_pattern": r"tour\.py|__init__\.py",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "doc_module": ("equipoise",),
    "backreferences_dir": "gallery/backreferences",
    "ignore_repr_types": r"matplotlib\.",  # a picture, not the name of its last part
    "thumbnail_size": (640, 448),
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "reset_modules": ("matplotlib", reset_jax),
}


def write_api_pages() -> None:
    """A page per area in the teaching order of its ``__all__``; the names' pages follow from it."""
    index = ["API", "===", "", "Every public name with its first line, by area.", ""]
    index += [".. toctree::", "   :hidden:", "", *(f"   {area}" for area in AREAS)]
    for area in AREAS:
        module = importlib.import_module(f"equipoise.{area}")
        title = f"equipoise.{area}"
        text = inspect.cleandoc(module.__doc__ or "")
        pages_of_names = ["   :toctree: generated", "   :template: autosummary/name.rst"]
        module_line, names = f".. currentmodule:: {title}", [f"   {n}" for n in module.__all__]
        table = [".. autosummary::", "   :nosignatures:"]
        index += [
            "",
            title,
            "-" * len(title),
            "",
            f"{text.splitlines()[0]} (:doc:`more <{area}>`)",
            "",
        ]
        index += [module_line, "", *table, "", *names]
        lines = [title, "=" * len(title), "", text, "", module_line, ""]
        lines += [*table, *pages_of_names, "", *names]
        write_if_changed(HERE / "api" / f"{area}.rst", lines)
    write_if_changed(HERE / "api" / "index.rst", index)


def write_if_changed(page: pathlib.Path, lines: list[str]) -> None:
    """Write a page, unless it stands there already and need not be read again."""
    text = "\n".join([*lines, ""])
    page.parent.mkdir(exist_ok=True)
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


write_api_pages()
sys.path.insert(0, str(ROOT))
importlib.import_module("docs.performance").write_performance_page()
pages = importlib.import_module("docs.pages")
pages.write_pictures()
pages.write_notebooks()


def outdated_mini_galleries(app, env, _added, _changed, _removed):
    """Pages of names whose examples are others than when the pages were last read."""
    kept = HERE / "gallery" / "backreferences" / "backreferences_all.json"
    examples = json.loads(kept.read_text())
    before = getattr(env, "equipoise_examples", {})
    env.equipoise_examples = examples
    names = {
        name for name in before.keys() | examples.keys() if before.get(name) != examples.get(name)
    }
    return [page for page in env.found_docs if page.removeprefix("api/generated/") in names]


def hide_constructor(_app, what, _name, _obj, _options, signature, annotation):
    """Results are returned, not constructed: their pages list fields, not a constructor."""
    return ("", None) if what == "class" else (signature, annotation)


def describe_constant(app, what, name, _obj, _options, lines):
    """A constant is described by the ``#:`` comment where it is defined, not by its type."""
    if what != "data":
        return
    package, _, constant = name.rpartition(".")
    for module in [m for m in sys.modules if m.startswith(f"{package}._")]:
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        if ("", constant) in analyzer.attr_docs:
            lines[:] = analyzer.attr_docs["", constant]
            return
    logging.getLogger(__name__).warning("%s has no #: comment where it is defined", name)


def break_long_names(_app, _page, _template, context, _doctree):
    """A name may break after a dot or an underscore, rather than within a word."""

    def breakable(literal):
        return re.sub(r"(?<=[^\W\d])([._])(?=[^\W\d])", r"\1<wbr>", literal[0])

    if "body" in context:
        names = r'(?<=<span class="pre">)[^<]+|(?<=<h1>)[^<]+'
        context["body"] = re.sub(names, breakable, context["body"])


def keep_symbols(_app, _what, _name, _obj, _options, lines):
    """The symbol that begins a description, ``query: q. Shape …``, does not number a list."""
    text = re.sub(r"^(:\w[^:]*:\s+)(\w\.\s)", r"\1\\\2", "\n".join(lines), flags=re.MULTILINE)
    lines[:] = text.split("\n")


def setup(app):
    """Connect the hooks above, those of signatures, and those of the Markdown twins."""
    app.setup_extension("docs.signatures")
    app.setup_extension("docs.twins")
    app.connect("env-get-outdated", outdated_mini_galleries)
    app.connect("html-page-context", break_long_names)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-process-docstring", describe_constant)
    app.connect("autodoc-process-docstring", keep_symbols, priority=900)  # after napoleon
