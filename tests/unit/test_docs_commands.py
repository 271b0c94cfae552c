"""Every `syncline` command that the documentation shows exists, with each of its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from syncline.cli.main import cli

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_COMMANDS: Final = re.compile(r"peer (dialler|acceptor|key of the)")
"""Texts of the handshake, which begin with the name of the program."""
INLINE: Final = re.compile(r"`(syncline [^`\n]+)`")
COMMAND: Final = re.compile(r"(?:^|[\s(])(?:\.venv/bin/)?syncline (?=[a-z-])(.*)")
SHELLS: Final = {"", "sh", "console", "shell", "bash", "ini"}
ENDS: Final = {"|", "&&", "||", ";", "&", ">", ">>", "<", "--", "#"}
FEWEST: Final = 120
"""Commands in all pages: fewer mean that this test has stopped to find them."""


def shown(text: str) -> Iterator[str]:
    """The commands of a page, without the word `syncline`."""
    for language, block in BLOCK.findall(text):
        if language in SHELLS:
            for line in block.replace("\\\n", " ").splitlines():
                for found in re.split(r"&&|;|\$\(|<\(|coproc ", line.removeprefix("$ ")):
                    match = COMMAND.match(found)
                    if match is not None:
                        yield match[1]
    for inline in INLINE.findall(BLOCK.sub("", text)):
        if not NO_COMMANDS.match(inline.removeprefix("syncline ")):
            yield inline.removeprefix("syncline ")


def words_of(command: str) -> list[str]:
    """The words up to a pipe, a redirection, or the command that `run` runs."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="&;<>")
    lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "#", "\"'"
    try:
        words = list(lexer)
    except ValueError:
        words = command.split()  # a text with an apostrophe
    end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
    return words[:end]


def problems(command: str) -> Iterator[str]:
    """Words of a command that do not exist."""
    known: set[str] = {"--help", "-h"}
    current: click.Command | None = cli
    for word in words_of(command):
        if current is not None:
            known |= {flag for one in current.params for flag in [*one.opts, *one.secondary_opts]}
        if word.startswith("-"):
            if word.partition("=")[0].rstrip("]") not in known:
                yield f"{word} in: syncline {command}"
        elif isinstance(current, click.Group):
            if not re.fullmatch(r"[a-z-]+(\|[a-z-]+)*", word):
                return  # a place for a word
            inner = [current.get_command(click.Context(current), name) for name in word.split("|")]
            if None in inner:
                yield f"{word} in: syncline {command}"
                return
            current = inner[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_commands_and_their_options_exist(path: Path) -> None:
    assert [found for command in shown(path.read_text()) for found in problems(command)] == []


def test_docs_commands_are_found() -> None:
    commands = [command for path in PAGES for command in shown(path.read_text())]
    assert len(commands) > FEWEST
    assert any(command.startswith("serve --name") for command in commands)


@pytest.mark.parametrize("wrong", ["serv --name a", "member ad x", "serve --nmae a", "lease grant 30s --ttl 5"])
def test_docs_commands_that_do_not_exist_are_reported(wrong: str) -> None:
    assert len(list(problems(wrong))) == 1
