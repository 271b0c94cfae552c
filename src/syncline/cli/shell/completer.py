"""Completion in the shell: of commands, options and keys, by what completes them in bash."""

from __future__ import annotations

import shlex
from typing import Final

import click
from click.shell_completion import ShellComplete

__all__ = ["Completer"]

_ESCAPES: Final = str.maketrans({mark: f"\\{mark}" for mark in "\\\"'"})
"""A key may hold what the shell's lines have for quotation."""


class Completer:
    """Answers what can stand at the cursor, as `readline` asks it: one candidate a call."""

    def __init__(self, command: click.Command, endpoints: str | None, words: tuple[str, ...]) -> None:
        """`words`: commands of the shell itself."""
        self._command = command
        self._before = [] if endpoints is None else ["--endpoints", endpoints]
        self._words = words
        self._found: list[str] = []

    def candidates(self, line: str, word: str) -> list[str]:
        """What can stand in place of `word`, the last one of `line`."""
        try:
            words = shlex.split(line[: len(line) - len(word)])
            typed = "".join(shlex.split(word))
        except ValueError:
            return []  # inside of a quotation
        complete = ShellComplete(self._command, {}, "syncline", "_SYNCLINE_COMPLETE")
        items = complete.get_completions([*self._before, *words], typed)
        own = [name for name in self._words if name.startswith(word)] if not words else []
        return sorted({*own, *(item.value.translate(_ESCAPES) for item in items if item.type == "plain")})

    def __call__(self, line: str, word: str, at: int) -> str | None:
        """The candidate number `at`, or None."""
        if at == 0:
            self._found = self.candidates(line, word)
        return self._found[at] if at < len(self._found) else None
