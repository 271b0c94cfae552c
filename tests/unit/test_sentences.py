"""The length of sentences in docstrings and comments: many readers have English as a second language."""

from __future__ import annotations

import ast
import re
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
LIMIT_WORDS = 25


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, texts behind constants and fields, and comments of several lines; each with its first line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, textwrap.dedent(" " * node.col_offset + node.value.value)
    block: list[str] = []
    last = 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type != tokenize.COMMENT:
                continue
            own_line = token.line.lstrip().startswith("#")
            if token.start[0] != last + 1 or not own_line:
                yield last, " ".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0] if own_line else 0
    yield last, " ".join(block)


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and items of lists, each on one line; without examples, tables, and what a command prints as it is."""
    for part in re.split(r"\n\s*\n", text):
        lines = [line for line in part.splitlines() if not line.lstrip().startswith("|")]
        if not part.startswith("\b") and not all(line.startswith("    ") for line in lines):
            yield from re.split(r"\n\s*(?:[-*]|\d+\.)\s+", "\n" + "\n".join(lines))


def sentences(text: str) -> Iterator[str]:
    """Sentences. A colon or a semicolon ends one; code counts as a word, and what is in brackets does not count."""
    for paragraph in paragraphs(text):
        plain = re.sub(r"\([^()]*\)", "", re.sub(r"`[^`]*`", "code", paragraph))
        yield from re.split(r"(?<=[.!?:;])\s+", " ".join(plain.split()))


def words(sentence: str) -> int:
    return len(re.findall(r"[A-Za-z0-9][\w'/-]*", sentence))


def test_split_finds_sentences_and_leaves_out_code() -> None:
    text = "One two: three `a b c` (not counted).\n\n    code = 1\n\n- four\n  five\n- six; seven.\n\n| a | table |"
    assert [words(one) for one in sentences(text) if words(one)] == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_sentences_of_a_source_file_are_short(path: Path) -> None:
    long = [
        f"{path}:{line}: {words(sentence)} words: {sentence}"
        for line, text in texts(path)
        for sentence in sentences(text)
        if words(sentence) > LIMIT_WORDS
    ]
    assert not long, f"at most {LIMIT_WORDS} words a sentence: split it\n" + "\n".join(long)
