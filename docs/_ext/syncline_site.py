"""The parts of the site that are ours: links, diagrams, docstrings, pages without a place, `llms.txt`."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import docstring_markup
import llms
import public_names
import repository_links

__all__ = ["setup"]

UNPLACED: Final = "<!-- pages without a place -->"
"""Stands in `docs/index.md`: pages that no list of contents has are listed here."""

REQUEST: Final = re.compile(r"^```http$", re.MULTILINE)
"""Requests without a version, which no highlighter knows: they are shown as text."""

DIAGRAM: Final = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DRAWN: Final = '<pre class="mermaid">'
DRAWS: Final = "mermaid.min.js"
"""`make docs` fetches it. Without it the pages show the source of their diagrams."""

UNNAMED: Final = "<!-- names without a page -->"
"""Stands in `docs/api/README.md`: public names that no page of the reference has get their entries here."""

GLOB: Final = re.compile(r"^\S+/\S*\*$", re.MULTILINE)
"""An entry of a list of contents. One that matches nothing is left out: its pages are still to come."""


class Environment(Protocol):
    """What is used of Sphinx's environment."""

    found_docs: set[str]


class Config(Protocol):
    """What is used of the settings in `conf.py`."""

    html_static_path: list[str]


class App(Protocol):
    """What is used of Sphinx's application."""

    srcdir: Path
    outdir: Path
    env: Environment
    config: Config

    def connect(self, event: str, callback: Callable[..., None]) -> int: ...

    def add_js_file(self, filename: str) -> None: ...


def setup(app: App) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("html-page-context", _page)
    app.connect("build-finished", _finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: App, page: str, source: list[str]) -> None:
    root = Path(app.srcdir)

    def missing(target: str) -> None:
        _warning(f"{page}.md: the link to {target} leads nowhere")

    text = repository_links.to_site(source[0], f"{page}.md", root, missing)
    if page == "docs/api/README":
        text = text.replace(UNNAMED, public_names.entries_of(public_names.without_page(root / "docs" / "api")))
    if page == "docs/index":
        text = text.replace(UNPLACED, _contents_of(_unplaced(text, root, app.env.found_docs)))
        text = GLOB.sub(lambda found: found.group() if any((root / "docs").glob(f"{found.group()}.md")) else "", text)
    source[0] = DIAGRAM.sub(_diagram, REQUEST.sub("```text", text))


def _diagram(found: re.Match[str]) -> str:
    """Keeps the number of lines, so that warnings name the right one."""
    return f"```{{raw}} html\n{DRAWN}{html.escape(found[1].rstrip())}</pre>\n```"


def _page(app: App, _name: str, _template: str, context: dict[str, object], _tree: object) -> None:
    """Have a page with diagrams load what draws them."""
    if DRAWN in str(context.get("body", "")) and any(path.endswith(DRAWS) for path in app.config.html_static_path):
        app.add_js_file(DRAWS)
        app.add_js_file("diagrams.js")


def _warning(text: str) -> None:
    """Sphinx counts the warnings of loggers below its own name."""
    logging.getLogger("sphinx.syncline_site").warning(text)


def _unplaced(index: str, root: Path, pages: set[str]) -> list[str]:
    placed = llms.listed(index, root / "docs")
    return sorted(page.removeprefix("docs/") for page in pages if page.startswith("docs/") and page not in placed)


def _contents_of(pages: list[str]) -> str:
    if not pages:
        return ""
    return "\n".join(["```{toctree}", ":hidden:", ":caption: More", "", *pages, "```"])


def _docstring(_app: App, _what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    lines[:] = docstring_markup.to_rst(lines)


def _finished(app: App, error: Exception | None) -> None:
    if error is None:
        out, root = Path(app.outdir), Path(app.srcdir)
        (out / "llms.txt").write_text(llms.text_of(root))
        (out / "index.html").write_text(REDIRECT)


REDIRECT: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Syncline</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"></head>
<body><a href="docs/index.html">Syncline: documentation</a></body></html>
"""
