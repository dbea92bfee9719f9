"""Signatures with the types that the source states, by the names that it gives them."""

import ast
import inspect
import textwrap

from sphinx import addnodes


def as_written(_app, what, _name, obj, _options, _signature, _annotation):
    """Arguments, defaults and the result as they stand in the source: no alias is spelled out."""
    if what not in ("function", "method"):
        return None
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))
    function = ast.parse(source).body[0]
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            node.annotation = unquoted(node.annotation)
    if what == "method":
        del (function.args.posonlyargs or function.args.args)[0]  # self
    result = "" if function.returns is None else ast.unparse(unquoted(function.returns))
    # A single axis is written with a space, so that linters do not take it for a name.
    return f"({ast.unparse(function.args)})".replace("' ", "'"), result.replace("' ", "'")


def unquoted(annotation):
    """A type that is quoted because its class is not there yet, as the type."""
    quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return ast.parse(annotation.value, mode="eval").body if quoted else annotation


def types_are_text(_app, _env, node, content):
    """A type in a signature that has no page, such as an alias or one of JAX, is text."""
    while node is not None:
        if isinstance(node, addnodes.desc_signature):
            return content
        node = node.parent
    return None


def setup(app):
    """Connect the hooks above."""
    app.connect("autodoc-process-signature", as_written)
    app.connect("missing-reference", types_are_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
