"""The format of the data files: commands with their expected output, between comments.

    # A comment.
    command first-argument key=value list=(a, b)
    further input, any number of lines
    ----
    the expected output, up to the first blank line

Output with blank lines in it stands between doubled separators: `----` twice before it and twice behind. A directive
may be continued on the next line with a backslash at its end. The format is that of the public Go package `datadriven`,
in which etcd/raft's traces are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Argument", "Case", "FormatError", "parse_bool", "parse_line", "read_cases", "render"]

SEPARATOR = "----"


class FormatError(ValueError):
    """A data file, or a command line in it, that can't be read."""


@dataclass(frozen=True, slots=True)
class Argument:
    """`key` (no values), `key=value` (one) or `key=(a, b)` (several)."""

    key: str
    values: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """The only value. Raises FormatError where there is not exactly one."""
        if len(self.values) != 1:
            raise FormatError(f"{self.key}: one value expected, {len(self.values)} given")
        return self.values[0]


@dataclass(frozen=True, slots=True)
class Case:
    """One command of a file."""

    line: int
    """Number of the directive's line, from 1."""

    command: str
    arguments: tuple[Argument, ...]
    input: str
    expected: str
    """Without the final line break."""

    output_lines: tuple[int, int]
    """The half-open range of lines, from 0, that hold the expected output with all separators but the first."""


def parse_line(line: str) -> tuple[str, tuple[Argument, ...]]:
    """A command and its arguments. Raises FormatError."""
    command, _, rest = line.strip().partition(" ")
    arguments: list[Argument] = []
    rest = rest.strip()
    while rest:
        key_end = min((at for at in (rest.find(" "), rest.find("=")) if at >= 0), default=len(rest))
        key = rest[:key_end]
        if not key:
            raise FormatError(f"an argument without a name: {line!r}")
        rest = rest[key_end:]
        values: tuple[str, ...] = ()
        if rest.startswith("=("):
            values, rest = _parse_list(rest[2:], line)
        elif rest.startswith("="):
            value, _, rest = rest[1:].partition(" ")
            values = (value,)
        arguments.append(Argument(key, values))
        rest = rest.strip()
    return command, tuple(arguments)


def _parse_list(text: str, line: str) -> tuple[tuple[str, ...], str]:
    """The values up to the parenthesis that closes the list, and what follows it. Values may hold pairs of them."""
    values: list[str] = []
    depth = 0
    start = 0
    for at, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif character in ",)" and not depth:
            values.append(text[start:at].lstrip() if values else text[start:at])
            start = at + 1
            if character == ")":
                return tuple(values), text[start:]
    raise FormatError(f"a list that is not closed: {line!r}")


def parse_bool(text: str) -> bool:
    """A truth value as Go writes it. Raises FormatError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise FormatError(f"neither true nor false: {text!r}")


def read_cases(text: str) -> Iterator[Case]:
    """The commands of a file, in order. Raises FormatError where a directive can't be read."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    at = 0
    while at < len(lines):
        directive, start = lines[at].strip(), at
        at += 1
        if not directive or directive.startswith("#"):
            continue
        while directive.endswith("\\") and at < len(lines):
            directive = f"{directive[:-1]} {lines[at].strip()}"
            at += 1
        command, arguments = parse_line(directive)
        if command == "subtest":  # marks a section; has neither input nor output
            continue
        try:
            separator = lines.index(SEPARATOR, at)
        except ValueError:
            raise FormatError(f"line {start + 1}: no {SEPARATOR} after {directive!r}") from None
        given = "\n".join(lines[at:separator]).strip()
        expected, end = _read_expected(lines, separator + 1)
        yield Case(start + 1, command, arguments, given, expected, (separator + 1, end))
        at = end


def _read_expected(lines: Sequence[str], at: int) -> tuple[str, int]:
    start = at
    if at < len(lines) and lines[at] == SEPARATOR:
        for at in range(start + 1, len(lines)):
            if lines[at] == SEPARATOR and lines[at + 1 : at + 2] == [SEPARATOR]:
                return "\n".join(lines[start + 1 : at]), at + 2
        raise FormatError(f"line {start + 1}: output between doubled separators does not end")
    while at < len(lines) and lines[at].strip():
        at += 1
    return "\n".join(lines[start:at]), at


def render(text: str, outputs: Sequence[tuple[Case, str]]) -> str:
    """The file with the expected outputs of the given cases (in order) replaced; all else is kept."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    result: list[str] = []
    kept = 0
    for case, output in outputs:
        start, end = case.output_lines
        result += lines[kept:start]
        body = output.removesuffix("\n").split("\n") if output else []
        if all(line.strip() for line in body):
            result += body
        else:
            result += [SEPARATOR, *body, SEPARATOR, SEPARATOR]
        kept = end
    return "\n".join(result + lines[kept:]) + "\n"
