"""ARCHITECTURE.md and `docs/internals` name functions and files that exist, and every file of each floor."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "src" / "syncline"
INTERNALS: Final = ROOT / "docs" / "internals"
ARCHITECTURE: Final = (ROOT / "ARCHITECTURE.md").read_text()
DOCS: Final = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINK: Final = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR: Final = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)]+)\)")
FLOORS: Final = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())

DOTTED: Final = re.compile(r"\bsyncline(?:\.\w+)+")
FILE: Final = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*\.py)`")
DIAGRAM: Final = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LABEL: Final = re.compile(r"\b\w+\.\w+\b(?=[,)<])")
MEMBER: Final = re.compile(r"\b[A-Z]\w*\.(?!md\b)[a-z_]\w*")
CODE: Final = re.compile(r"`([^`\n]+)`")
MOST_WORDS: Final = 2400
"""Of ARCHITECTURE.md: what can be read in ten minutes, at 240 words a minute."""


def _pages() -> Iterator[tuple[str, str]]:
    yield "ARCHITECTURE.md", ARCHITECTURE
    for path in sorted(INTERNALS.glob("*.md")):
        yield path.name, path.read_text()


PAGES: Final = list(_pages())


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module = name
    while not any((SOURCE.parent / f"{module.replace('.', '/')}{end}").exists() for end in (".py", "/__init__.py")):
        module = module.rpartition(".")[0]
    found: object = importlib.import_module(module)
    for part in name.removeprefix(module).split(".")[1:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize(("page", "text"), PAGES, ids=lambda value: value if value.endswith(".md") else "")
def test_internals_pages_name_functions_that_exist(page: str, text: str) -> None:
    missing = sorted({name for name in DOTTED.findall(text) if not exists(name)})
    assert missing == [], f"{page} names what does not exist"


def members(path: Path) -> Iterator[str]:
    """`Class.name` for each method and attribute of the classes of a module."""
    for owner in ast.walk(ast.parse(path.read_text())):
        if not isinstance(owner, ast.ClassDef):
            continue
        for node in ast.walk(owner):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    yield f"{owner.name}.{name}"
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    yield f"{owner.name}.{name}"
                case _:
                    continue


def test_internals_pages_name_methods_that_exist() -> None:
    """In code and in diagrams: `Driver.propose` is a method or an attribute of a class of that name."""
    known = {name for path in SOURCE.rglob("*.py") for name in members(path)}
    for page, text in PAGES:
        code = "\n".join([*CODE.findall(text), *DIAGRAM.findall(text)])
        assert set(MEMBER.findall(code)) - known == set(), page


@pytest.mark.parametrize(("page", "text"), PAGES, ids=lambda value: value if value.endswith(".md") else "")
def test_internals_pages_name_files_that_exist(page: str, text: str) -> None:
    missing = sorted({name for name in FILE.findall(text) if not ((SOURCE / name).exists() or (ROOT / name).exists())})
    assert missing == [], f"{page} names files that do not exist"


def test_architecture_diagrams_name_functions_of_the_tables() -> None:
    """A label such as `Driver.propose` is the end of a full name in a table of the page."""
    full = DOTTED.findall(ARCHITECTURE)
    ways = [diagram for diagram in DIAGRAM.findall(ARCHITECTURE) if diagram.startswith("sequenceDiagram")]
    assert len(ways) == 2, "one for a write and one for a read"
    for diagram in ways:
        labels = set(LABEL.findall(diagram))
        assert len(labels) >= 12
        assert {label for label in labels if not any(name.endswith(f".{label}") for name in full)} == set()


def test_architecture_acknowledgement_names_functions_of_its_files() -> None:
    flow = next(diagram for diagram in DIAGRAM.findall(ARCHITECTURE) if diagram.startswith("flowchart"))
    steps = re.findall(r'\["([\w.]+)<br>([\w/]+)\.py"\]', flow)
    assert len({file for _, file in steps}) >= 12
    for name, file in steps:
        last = file.rpartition("/")[2]
        full = f"syncline.{file.replace('/', '.')}.{name.removeprefix(f'{last}.')}"
        assert exists(full), f"{file}.py has no {name}"


def test_architecture_is_read_in_ten_minutes() -> None:
    assert len(ARCHITECTURE.split()) <= MOST_WORDS


@pytest.mark.parametrize("floor", FLOORS)
def test_internals_page_of_a_floor_names_each_of_its_files(floor: str) -> None:
    """A new file is a row in the table of its floor."""
    text = (INTERNALS / f"{floor}.md").read_text()
    files = {str(path.relative_to(SOURCE)) for path in (SOURCE / floor).rglob("*.py") if path.name != "__init__.py"}
    assert files - set(FILE.findall(text)) == set(), f"give them a row in docs/internals/{floor}.md"
    assert "```" in text, f"docs/internals/{floor}.md has no figure"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_links_lead_to_files_that_exist(path: Path) -> None:
    assert [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_links_lead_to_headings_that_exist(path: Path) -> None:
    for file, anchor in ANCHOR.findall(path.read_text()):
        target = path.parent / file if file else path
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in slugs, f"{target.name} has no heading for #{anchor}"
