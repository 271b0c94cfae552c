"""What a number can keep of the house's style. The rest is for readers."""

from __future__ import annotations

import ast
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import syncline
from syncline import errors

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 600
FUNCTION_LINES = 70
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
FORBIDDEN_WORDS = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
PUBLIC_WITHOUT_DOCSTRING = {"__init__"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", sources("src", "tests", "bench", "examples"), ids=lambda path: str(path.name))
def test_files_and_functions_are_short(path: Path) -> None:
    assert path.read_text().count("\n") <= FILE_LINES, (
        f"{path} has more than {FILE_LINES} lines: split it where the ideas part"
    )
    for function in functions(path):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= FUNCTION_LINES, f"{path}:{function.lineno} {function.name} has {lines} lines"


@pytest.mark.parametrize("path", sources("src"), ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py" and not text.strip():
        return
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    found = FORBIDDEN_WORDS.findall(text)
    assert not found, f"{path} holds an unfinished piece: finish it, or leave it out"


@pytest.mark.parametrize("path", sources("src"), ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_error_is_swallowed_and_nothing_is_unpickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: a bare except"
            silent = all(isinstance(part, ast.Pass) for part in node.body)
            assert not silent, f"{path}:{node.lineno}: an error is swallowed: use contextlib.suppress, and say why"
        if isinstance(node, ast.Import):
            assert not FORBIDDEN_IMPORTS & {name.name.split(".")[0] for name in node.names}, f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", sources("tests"), ids=lambda path: str(path.name))
def test_tests_never_wait_by_the_clock(path: Path) -> None:
    if path.name == "test_tidy.py":
        return
    text = path.read_text()
    for found in re.finditer(r"^.*\btime\.sleep\(.*$", text, re.MULTILINE):
        assert "deadline" in found.group() or "poll" in found.group(), (
            f"{path}: {found.group().strip()!r}: wait for a condition (a poll of a child process says so in a comment)"
        )


def test_source_class_names_are_unique() -> None:
    """A reader who searches for a class finds one. Private names count: they are searched for like the others."""
    places: dict[str, list[str]] = {}
    for path in sources("src"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    shown = "\n".join(f"{name}: {', '.join(found)}" for name, found in sorted(repeated.items()))
    assert not repeated, f"two classes of one name; give one a more exact name:\n{shown}"


def test_the_public_surface_is_complete() -> None:
    for name in syncline.__all__:
        assert hasattr(syncline, name), name
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SynclineError)
    }
    assert raised <= set(errors.__all__), raised - set(errors.__all__)
    for name in raised:
        assert name in (errors.__doc__ or ""), f"{name} is not drawn in the tree of errors.py"


def test_no_text_names_this_or_that_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    machine = re.compile(r"/work/|/root/|/home/\w+/")
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml"} and path.is_file() and path.name != "test_tidy.py":
            found = machine.findall(path.read_text())
            assert not found, f"{name} names a path of one machine: {found}"


PRIVATE_WORDS = re.compile(
    r"\b(who|whom|whoever|(some|no|any|every)body|(some|any|every)one|hand(s|ed|ing)? (\w+ ){0,2}over|hand-over"
    r"|for ever|anew|turned back|lets? go|doorkeepers?|disowned|rotten|rotted|rots|learnt|says? so|said so"
    r"|lived with)\b",
    re.IGNORECASE,
)
"""Words that name no actor, and private words: readers search for the field's (docs/glossary.md, CONTRIBUTING.md)."""

PRIVATE_WORDS_LEFT = {
    # Findings of checkers, which the table of planted bugs and the regressions compare.
    "testing/invariants/durability.py": {"nobody"},
    "testing/invariants/memberships.py": {"nobody"},
    "testing/invariants/outcomes.py": {"nobody"},
    "testing/linearizability/format.py": {"nobody"},
    "testing/linearizability/promises.py": {"nobody"},
    # A line of the trace, whose traces are compared.
    "testing/faults/memberships.py": {"anybody"},
}
"""Words that stay, by file, each with its reason."""


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a source file, by line. (Up to Python 3.11 an f-string is one string.)"""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type in kinds:
                yield token.start[0], token.string


@pytest.mark.parametrize("path", sources("src"), ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_source_texts_use_the_words_of_the_field(path: Path) -> None:
    name = str(path.relative_to(ROOT / "src" / "syncline"))
    left = PRIVATE_WORDS_LEFT.get(name, set())
    found = {
        f"{path}:{line}: {match.group()!r}"
        for line, text in texts_of(path)
        for match in PRIVATE_WORDS.finditer(re.sub(r"\{[^{}]*\}", "", text))
        if " " in text and match.group().lower() not in left
    }
    assert not found, f"name the actor, and use the field's word: {sorted(found)}"


def test_documentation_uses_the_words_of_the_field() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()!r}"
        for path in sorted((ROOT / "docs").rglob("*.md"))
        for match in PRIVATE_WORDS.finditer(re.sub(r"`[^`\n]*`", "", path.read_text()))
    ]
    assert found == [], "name the actor, and use the field's word"


PRIVATE_TEST_WORDS = re.compile(
    r"_(who|whoever|(some|no|any|every)body|anew|hands?_over|handed_(over|on|out)|rotten|rotted)(_|$)"
)


@pytest.mark.parametrize("path", sources("tests"), ids=lambda path: str(path.name))
def test_names_of_tests_are_short_and_name_their_subject(path: Path) -> None:
    """`test_<subject>_<condition>_<result>`: they sort by subject, and fit on a line of the report."""
    names = [function.name for function in functions(path) if function.name.startswith("test_")]
    assert not [name for name in names if len(name) > 70], "at most 70 characters; the reason goes into the docstring"
    assert not [name for name in names if PRIVATE_TEST_WORDS.search(name)], "name the actor"
