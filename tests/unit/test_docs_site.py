"""The documentation site: each page has a place, each public name an entry, each error a symptom."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from syncline import errors

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import public_names  # noqa: E402 - found by the line above
from docstring_markup import to_rst  # noqa: E402
from llms import contents, listed, text_of  # noqa: E402
from repository_links import to_site  # noqa: E402

INDEX: Final = (DOCS / "index.md").read_text()
LINK: Final = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def test_api_reference_has_no_name_that_is_gone() -> None:
    assert sorted(public_names.shown(DOCS / "api") - set(public_names.public_names())) == []


def test_api_reference_has_every_public_name(tmp_path: Path) -> None:
    """Names without a page get an entry on the first one, so that none is missing."""
    pages = tmp_path / "api"
    pages.mkdir()
    assert len(public_names.without_page(pages)) > 150
    for path in (DOCS / "api").glob("*.md"):
        (pages / path.name).write_text(path.read_text())
    words = (pages / "words.md").read_text()
    (pages / "words.md").write_text(words.replace(".. autoclass:: syncline.client.Lock\n", ""))
    left = public_names.without_page(pages)
    assert "syncline.client.Lock" in left
    assert ".. autoclass:: syncline.client.Lock\n" in public_names.entries_of(left)
    assert "<!-- names without a page -->" in (DOCS / "api" / "README.md").read_text()


def test_docs_pages_are_reached_by_links() -> None:
    """From the index of the repository's host, so that the pages can be read there without the site."""
    seen: set[Path] = set()
    ahead = [DOCS / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        ahead += [(page.parent / link).resolve() for link in LINK.findall(page.read_text())]
    found = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    pages = {path.resolve() for path in found if path.parent != DOCS / "benchmarks"}
    assert sorted(str(path.relative_to(ROOT)) for path in pages - seen) == []


def test_site_lists_name_pages_that_exist() -> None:
    for _, pages in contents(INDEX, DOCS):
        for page in pages:
            assert (ROOT / f"{page}.md").exists(), page
    assert len(listed(INDEX, DOCS)) > 60


def test_llms_text_describes_each_page() -> None:
    text = text_of(ROOT)
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) > 60
    described = [line for line in lines if re.fullmatch(r"- \[.+\]\(_sources/.+\.md\.txt\): .{10,}", line)]
    assert len(described) > len(lines) * 0.9
    assert "[Start in five minutes](_sources/docs/start.md.txt): You start three nodes on this machine" in text
    assert "## Guides by job" in text


def test_symptoms_name_each_error_class_and_code() -> None:
    symptoms = (DOCS / "faq.md").read_text()
    inner = {"Outcome", "SynclineError", "OperationError"}
    assert [name for name in errors.__all__ if name not in inner and f"`{name}`" not in symptoms] == []
    table = re.findall(r"^\| (?:\d{3}(?:, )?)+ \| (.*?) \|", (DOCS / "http.md").read_text(), re.MULTILINE)
    codes = {code for row in table for code in re.findall(r"`([a-z_]+)`", row)}
    assert len(codes) > 40
    assert sorted(code for code in codes if f"`{code}`" not in symptoms) == []


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Write a key, `a*b`.", ["Write a key, ``a*b``.", ""]),
        ("One *word* and name_ or a|b.", [r"One \*word\* and name\_ or a\|b.", ""]),
        ("First.\n\n    await kv.put(1)\n\n    x = 2\n\nLast.",
         ["First.", "", ".. code-block:: python", "", "    await kv.put(1)", "", "    x = 2", "", "Last.", ""]),
        ("All are `OSError`s, or (`b`).", [r"All are ``OSError``\ s, or (``b``).", ""]),
        ("**Twice**, below 2**63.", [r"**Twice**, below 2\*\*63.", ""]),
        ("First.\n\nkv.close()", ["First.", "", ".. code-block:: python", "", "    kv.close()", ""]),
        ("First.\n\n    a tree\n    └── of files", ["First.", "", ".. code-block:: text", "", "    a tree",
                                                  "    └── of files", ""]),
        ("Raises:\n    A, B: no.\n    C: it is long,\n        and goes on.",
         ["Raises:", "", "* ``A, B``: no.", "* ``C``: it is long,", "  and goes on.", ""]),
        ("name: str = 'a'\n    A setting.", ["``name: str = 'a'``", "    A setting.", ""]),
        ("It is one of\n- this,\n- or that.", ["It is one of", "", "* this,", "* or that.", ""]),
        ("A `name that\ngoes on` here.", ["A ``name that goes on`` here.", ""]),
    ],
)  # fmt: skip
def test_docstring_becomes_markup(docstring: str, expected: list[str]) -> None:
    assert to_rst(docstring.split("\n")) == expected


def test_links_of_the_repository_become_links_of_the_site(tmp_path: Path) -> None:
    for name in ("docs/a.md", "docs/deep/b.md", "src/x.py", "docs/pictures/up.svg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    lost: list[str] = []
    host = "https://github.com/syncline/syncline"
    text = (
        f"[1]({host}/blob/main/docs/a.md#part) [2](../src/x.py) [3](../src) [4](deep/b.md) [5](lost.md) [6](#here)\n"
        "```\n[7](lost.md)\n```\n[8](https://example.org/x) ![9](pictures/up.svg)"
        " ![10](https://raw.githubusercontent.com/syncline/syncline/main/docs/pictures/up.svg)"
    )
    made = to_site(text, "docs/a.md", tmp_path, lost.append)
    assert made == (
        f"[1](a.md#part) [2]({host}/blob/main/src/x.py) [3]({host}/tree/main/src) [4](deep/b.md) [5](lost.md)"
        " [6](#here)\n"
        "```\n[7](lost.md)\n```\n[8](https://example.org/x) ![9](pictures/up.svg) ![10](pictures/up.svg)"
    )
    assert lost == ["lost.md"]


def string_parts() -> str:
    """All texts of the source, f-strings with `…` for what is filled in."""
    found: list[str] = []
    for path in (ROOT / "src" / "syncline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_symptoms_quote_texts_that_the_source_has() -> None:
    known = string_parts()
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "faq.md").read_text(), re.MULTILINE)
    quoted = {text for row in rows for text in re.findall(r"`([^`]+)`", row) if " " in text}
    assert len(quoted) >= 8
    of_others = {"address already in use", "syncline: No such command …"}  # the system, and click
    pieces = {piece.strip() for text in quoted - of_others for piece in text.split("…") if piece.strip()}
    assert sorted(piece for piece in pieces if piece not in known) == []
