"""`llms.txt`: the list of pages with one line for each, for programs that read the documentation (llmstxt.org)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["contents", "listed", "text_of"]

CONTENTS: Final = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CAPTION: Final = re.compile(r"^:caption: (.*)$", re.MULTILINE)
ENTRY: Final = re.compile(r"(?:(.*) <(.*)>|(\S+))")
LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")
FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SUMMARY: Final = (
    "Syncline keeps data in sync across machines, from Python: a Raft library, a strongly consistent key-value web "
    "server with locks and schedules, clients, and the test kit that proves them."
)


def contents(index: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The lists of `docs/index.md`: caption, and paths of the pages below the repository's folder, without `.md`."""
    for found in CONTENTS.finditer(index):
        caption = CAPTION.search(found[1])
        pages: list[str] = []
        for line in found[1].splitlines():
            entry = ENTRY.fullmatch(line.strip())
            if entry is None or line.startswith(":"):
                continue
            pages += _pages(entry[2] or entry[3], folder, pages)
        yield (caption[1] if caption is not None else ""), pages


def _pages(pattern: str, folder: Path, before: list[str]) -> list[str]:
    if "*" not in pattern:
        return [posixpath.normpath(posixpath.join("docs", pattern))]
    found = sorted(path.relative_to(folder.parent).with_suffix("").as_posix() for path in folder.glob(f"{pattern}.md"))
    return [page for page in found if page not in before]


def listed(index: str, folder: Path) -> set[str]:
    """All pages of the lists, and the page with the lists."""
    return {"docs/index"}.union(*(pages for _, pages in contents(index, folder)))


def text_of(root: Path) -> str:
    """The content of `llms.txt`. Its links lead to the Markdown that the site keeps of each page."""
    parts = ["# Syncline", "", f"> {SUMMARY}"]
    index = (root / "docs" / "index.md").read_text()
    for caption, pages in contents(index, root / "docs"):
        if not pages:
            continue
        parts += ["", f"## {caption or 'Pages'}", ""]
        for page in pages:
            title, summary = _described((root / f"{page}.md").read_text())
            parts.append(f"- [{title}](_sources/{page}.md.txt){': ' if summary else ''}{summary}")
    return "\n".join([*parts, ""])


def _described(text: str) -> tuple[str, str]:
    """The title of a page and its first sentence; empty, if it has none."""
    text = FENCED.sub("", text)
    title = re.search(r"^# (.*)$", text, re.MULTILINE)
    prose = text[title.end() :] if title is not None else text
    for part in prose.split("\n\n"):
        words = " ".join(LINK.sub(r"\1", part).split())
        sentence = re.match(r".{10,}?[.:?](?=\s|$)", words)
        if sentence is not None and words[0] not in "#|!<-{":
            return (title[1] if title is not None else "", sentence.group())
    return (title[1] if title is not None else "", "")
