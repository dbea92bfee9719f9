"""The built pages in a browser: quiet, self-contained, readable at two widths, and they answer."""

import pytest

from tests.docs.pages import read_all

pytestmark = pytest.mark.slow
WIDTHS = (1280, 390)
READ = ("index", "tour", "guide/", "theory/", "gallery/")  # pages whose code is read through
PARTS = 6  # of the list of pages, so that workers share it


@pytest.fixture
def page(browser, address):
    """A page that keeps what it complains of and whom it asks."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.problems = []
    opened.on("console", lambda m: m.type == "error" and opened.problems.append(m.text))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on(
        "request",
        lambda r: (
            r.url.startswith((address, "data:", "blob:")) or opened.problems.append(f"asks {r.url}")
        ),
    )
    yield opened
    context.close()


def open_page(page, url):
    page.goto(url)
    page.evaluate("window.MathJax?.startup?.promise")


# By how much the page, or its text within it, is wider than what is seen of it.
TOO_WIDE = """() => Math.max(
    ...[...document.querySelectorAll("html, .bd-main, .bd-article-container, article")]
    .map((e) => e.scrollWidth - e.clientWidth))"""

# Text and pictures that stick out of their own box, where nothing lets a reader scroll to the rest.
STICKING_OUT = """() =>
    [...document.querySelectorAll("article :is(h1, h2, h3, p, li, dt, dd, td, pre)")]
    .filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .filter((e) => getComputedStyle(e).overflowX === "visible")
    .map((e) => e.tagName + " " + e.innerText.slice(0, 40))"""


# Lines of code that a reader of a wide window would have to scroll.
SCROLLED = """() =>
    [...document.querySelectorAll("article div:not([class*=pycon]) > pre")]
    .filter((e) => e.scrollWidth > e.clientWidth + 1)
    .map((e) => e.innerText.split("\\n").sort((a, b) => b.length - a.length)[0])"""


def paths(site):
    """Every page but the sources', which are code alone."""
    every = [page.relative_to(site).as_posix() for page in read_all(site)]
    return [path for path in every if not path.startswith("_modules/")]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_page_is_quiet_typeset_and_not_too_wide(page, address, site, part):
    wrong, formulas = [], 0
    for path in paths(site)[part::PARTS]:
        page.problems.clear()
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        open_page(page, address + path)
        wrong += [f"{path}: {problem}" for problem in page.problems]
        kinds = ("span.math, div.math", "mjx-container", "mjx-merror")
        written, typeset, failed = (page.locator(kind).count() for kind in kinds)
        formulas += typeset
        if typeset < written or failed:
            wrong.append(f"{path}: {written} formulas, {typeset} typeset, {failed} wrong")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            needed = width + page.evaluate(TOO_WIDE)
            if needed > width:
                wrong.append(f"{path}: needs {needed} of {width} pixels")
            wrong += [f"{path} at {width}: cuts {e}" for e in page.evaluate(STICKING_OUT)]
            if width == WIDTHS[0] and path.startswith(READ):
                wrong += [f"{path}: scrolls {line}" for line in page.evaluate(SCROLLED)]
    assert not wrong, "\n".join(wrong)
    assert formulas > 10


@pytest.mark.parametrize("name", ["critical_step_size", "dot_product_attention", "elbo"])
def test_search_finds_a_name(page, address, name):
    open_page(page, f"{address}search.html?q={name}")
    found = page.locator(f'#search-results a[href*="api/generated"][href*=".{name}.html"]')
    found.first.wait_for(timeout=20_000)
    # Not a click: results move while those after them come.
    open_page(page, found.first.evaluate("link => link.href"))
    assert page.locator("h1").inner_text().startswith(name)
    assert not page.problems


@pytest.mark.parametrize(
    ("words", "name"),
    [("critical step", "critical_step_size"), ("learning rate", "critical_learning_rate")],
)
def test_search_finds_the_function_first(page, address, words, name):
    open_page(page, f"{address}search.html?q={words.replace(' ', '+')}")
    results = page.locator("#search-results li a")
    results.nth(5).wait_for(timeout=20_000)
    assert f".{name}.html" in results.first.get_attribute("href")
    assert not page.problems


def picture(page):
    """What the explorer shows: the path, the eigenvalues, the words."""
    return (
        page.locator(".explorer-play polyline").get_attribute("points"),
        page.locator(".explorer-circle svg").get_attribute("aria-label"),
        page.locator(".explorer-verdict").inner_text(),
    )


def set_step(page, value):
    page.locator("#explorer-step").fill(str(value))


@pytest.mark.parametrize("width", WIDTHS)
def test_explorer_answers_the_slider_at_once(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, f"{address}explorer.html?game=pq&rule=extragradient&step=0.9")
    below = picture(page)
    assert below[2].startswith("Converges: ρ = 0.9198.")  # √(1 − η² + η⁴)
    set_step(page, 1.1)
    above = picture(page)
    assert above[2].startswith("Diverges")
    assert all(a != b for a, b in zip(below, above, strict=True))
    assert "critical step η* = 1:" in page.locator(".explorer-details").inner_text()
    page.locator("#explorer-rule").select_option("alternating")
    assert "does not converge" in picture(page)[2]
    assert not page.problems


def test_explorer_is_used_by_keyboard_and_says_its_verdict(page, address):
    open_page(page, f"{address}explorer.html?game=pq&rule=extragradient&step=0.995")
    slider = page.locator("#explorer-step")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1"
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "1.005, diverges"
    page.wait_for_function("document.querySelector('[role=status]').textContent.startsWith('Div')")
    for control in page.locator("#explorer-app :is(input, select)").all():
        assert control.evaluate("e => e.labels.length"), "a control without a label"


@pytest.mark.parametrize("width", WIDTHS)
def test_explorer_marks_the_critical_step_on_the_slider(page, address, width):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, f"{address}explorer.html?game=pq&rule=extragradient&step=1")
    page.locator("#explorer-step").scroll_into_view_if_needed()
    mark = page.locator(".explorer-rates .critical").bounding_box()
    thumb = page.locator(".explorer-rates .eigenvalue").bounding_box()
    assert abs(mark["x"] + mark["width"] / 2 - thumb["x"] - thumb["width"] / 2) < 1
    # A click at the mark puts the native thumb there, and with it the step size.
    slider = page.locator("#explorer-step").bounding_box()
    set_step(page, 2)
    page.mouse.click(mark["x"] + mark["width"] / 2, slider["y"] + slider["height"] / 2)
    assert abs(float(page.locator("#explorer-step").input_value()) - 1) < 0.02


def test_explorer_takes_a_start_from_a_click(page, address):
    open_page(page, f"{address}explorer.html?game=pq&rule=simultaneous&step=0.1")
    before = picture(page)
    page.locator(".explorer-play").click(position={"x": 40, "y": 40})
    assert picture(page)[0] != before[0]
    assert float(page.locator("#explorer-x").input_value()) < 0
    assert float(page.locator("#explorer-y").input_value()) > 0
