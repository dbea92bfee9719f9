"""The Markdown twin of each page: what it has no elements for in words, and links that lead on."""

import pathlib

from docutils import nodes

BUILDER = "llms-markdown"
MARKDOWN_LACKS = ("abbreviation", "citation", "PassthroughTextElement")


def spell_out(app, doctree, _page):
    """Marks in signatures, references and titles of cards, for which Markdown has no elements."""
    if app.builder.name != BUILDER:
        return
    for node in [n for n in doctree.findall() if type(n).__name__ in MARKDOWN_LACKS]:
        text = [child for child in node.children if not isinstance(child, nodes.label)]
        inline = isinstance(node, nodes.abbreviation)
        node.replace_self(text if inline else nodes.compound("", *text))


def lead_on(app, doctree, page):
    """Pictures and downloads, seen from the folder of the page and not from that of the site."""
    if app.builder.name != BUILDER:
        return
    root = "../" * page.count("/")
    for node in list(doctree.findall()):
        kind = type(node).__name__
        if kind == "imgsgnode":  # the gallery's own kind of picture
            picture = nodes.image(uri=root + stored(app, node["uri"]), alt=node["alt"])
            node.replace_self(nodes.paragraph("", "", picture))
        elif kind == "image":
            node["uri"] = root + stored(app, node["uri"])
        elif kind == "download_reference" and "filename" in node:
            node["refuri"] = f"{root}_downloads/{node['filename']}"


def stored(app, uri):
    """Where the site keeps a picture."""
    name = app.env.images[uri][1] if uri in app.env.images else pathlib.PurePosixPath(uri).name
    return f"_images/{name}"


def setup(app):
    """Connect the hooks above."""
    app.connect("doctree-resolved", spell_out)
    app.connect("doctree-resolved", lead_on)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
