"""HTML, from text."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path


def said(text: str) -> str:
    """Text as HTML, what stands between backticks as code.

    >>> said("`a` < b")
    '<code>a</code> &lt; b'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def attribute(text: str) -> str:
    """Text as the value of an attribute, quoted."""
    return f'"{html.escape(text)}"'


def link(target: str, text: str) -> str:
    """A link; `text` is plain."""
    return f"<a href={attribute(target)}>{said(text)}</a>"


def figure(path: Path, alt: str, caption: str) -> str:
    """A PNG within the page; `alt` and `caption` are plain."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (f'<figure><img alt={attribute(alt)} src="data:image/png;base64,{data}">'
            f"<figcaption>{said(caption)}</figcaption></figure>")


def table(head: Sequence[str], bodies: Sequence[str]) -> str:
    """A table that is cards on a narrow screen; `bodies` are made by `body`."""
    cells = "".join(f'<th scope="col">{said(each)}</th>' for each in head)
    return "\n".join(['<table class="cards">', f"<thead><tr>{cells}</tr></thead>", *bodies,
                      "</table>"])


def body(head: Sequence[str], rows: Sequence[Sequence[str]], group: str = "",
         missing: str | None = None) -> str:
    """A part of a table.

    group    HTML that stands above the rows
    missing  what a cell of a row that lacks its measurement holds
    """
    parts = ["<tbody>"]
    if group:
        parts.append(f'<tr><th class="group" scope="rowgroup" colspan="{len(head)}">{group}</th>'
                     "</tr>")
    for first, *others in rows:
        lacks = missing is not None and missing in others
        cells = "".join(_cell(name, text) for name, text in zip(head[1:], others, strict=True))
        parts.append(f'<tr{_class("missing", lacks)}><th scope="row">{said(first)}</th>{cells}'
                     "</tr>")
    return "\n".join([*parts, "</tbody>"])


def _cell(name: str, text: str) -> str:
    return f"<td data-label={attribute(name)}{_class('none', text == '-')}>{said(text)}</td>"


def _class(name: str, applies: bool) -> str:
    return f' class="{name}"' if applies else ""
