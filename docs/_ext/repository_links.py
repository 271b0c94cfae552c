"""Links of the pages, which are written for the repository's host, as links of the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["to_site"]

REPOSITORY: Final = "https://github.com/syncline/syncline"
RAW: Final = "https://raw.githubusercontent.com/syncline/syncline"
HOSTED: Final = re.compile(rf"\]\((?:{re.escape(REPOSITORY)}/blob|{re.escape(RAW)})/main/([^)\s#]+)(#[^)\s]*)?\)")
LOCAL: Final = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")
FENCED: Final = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
KEPT: Final = (".md", ".svg", ".png")
"""Pages and pictures, which the site has itself."""


def to_site(text: str, page: str, root: Path, missing: Callable[[str], None]) -> str:
    """The text of a page with links to pages as relative links, and links to other files as links to the host.

    `page` is the path of the page below `root`. A link to a file that is not there is told to `missing`.
    """
    folder = posixpath.dirname(page)

    def hosted(found: re.Match[str]) -> str:
        return f"]({posixpath.relpath(found[1], folder or '.')}{found[2] or ''})"

    def local(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[1]))
        target = root / path
        if path.startswith("..") or not target.exists():
            missing(found[1])
            return found.group()
        if path.endswith(KEPT) and not path.startswith((".github", "tests", "src")):
            return found.group()
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{path}{found[2] or ''})"

    return _outside_of_code(
        _outside_of_code(text, lambda part: HOSTED.sub(hosted, part)), lambda part: LOCAL.sub(local, part)
    )


def _outside_of_code(text: str, change: Callable[[str], str]) -> str:
    parts: list[str] = []
    end = 0
    for found in FENCED.finditer(text):
        parts += [change(text[end : found.start()]), found.group()]
        end = found.end()
    return "".join([*parts, change(text[end:])])
