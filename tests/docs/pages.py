"""The built pages as data: what each one names, links to and shows."""

import dataclasses
import functools
import html.parser
import urllib.parse

# The element and attribute that a browser fetches by itself.
FETCHED = {("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src")}


@dataclasses.dataclass
class Page:
    """One page: its anchors, all links and those of its text, what it fetches, and its images."""

    anchors: list = dataclasses.field(default_factory=list)
    links: list = dataclasses.field(default_factory=list)
    article: list = dataclasses.field(default_factory=list)
    fetched: list = dataclasses.field(default_factory=list)
    images: list = dataclasses.field(default_factory=list)


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.page = Page()
        self.thumbnail = False
        self.in_article = False

    def handle_endtag(self, tag):
        if tag == "article":
            self.in_article = False

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        page = self.page
        self.in_article |= tag == "article"
        if given.get("id"):
            page.anchors.append(given["id"])
        if tag == "a" and given.get("href"):
            page.links.append(given["href"])
            if self.in_article:
                page.article.append(given["href"])
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical",):
            page.fetched.append(given["href"])
        page.fetched += [
            given[name] for name in given if (tag, name) in FETCHED and given[name] is not None
        ]
        self.thumbnail |= "sphx-glr-thumbcontainer" in (given.get("class") or "")
        if tag == "img":
            # A thumbnail stands beside its own title and would only repeat it.
            page.images.append((given.get("src"), given.get("alt"), self.thumbnail))
            self.thumbnail = False


@functools.cache
def read_all(site):
    """Every page of a built site by its path."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        if path.relative_to(site).parts[0] == "_static":
            continue
        reader = _Reader()
        reader.feed(path.read_text())
        pages[path] = reader.page
    return pages


def is_outside(link):
    """Whether a link leaves the site."""
    parts = urllib.parse.urlsplit(link)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def target(page, link):
    """The file that a link of a page names, and its anchor."""
    parts = urllib.parse.urlsplit(link)
    path = urllib.parse.unquote(parts.path)
    file = (page.parent / path).resolve() if path else page
    return (file / "index.html" if file.is_dir() else file), urllib.parse.unquote(parts.fragment)
