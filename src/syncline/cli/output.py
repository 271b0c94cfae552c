"""Printing: JSON documents, plain tables, and bytes for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from syncline.client.wire import json_key
from syncline.platform.texts import encode_json, escape_controls

__all__ = [
    "json_key",
    "json_text",
    "print_bytes",
    "print_json",
    "print_line",
    "print_table",
    "shown",
]

_ESCAPES: Final = {**{code: f"\\x{code:02x}" for code in (*range(32), 127)}, 9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}


def print_json(value: object) -> None:
    """One JSON document, indented if a person reads it."""
    text = json_text(value)
    print_line(msgspec.json.format(text, indent=2) if sys.stdout.isatty() else text)


def json_text(value: object) -> str:
    """A value as JSON on one line. What a terminal would obey is escaped: JSON allows C1 controls as they are."""
    return escape_controls(encode_json(value).decode())


def print_line(text: str) -> None:
    """A line on the output, in UTF-8 whatever the terminal's locale is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")


def print_bytes(data: bytes) -> None:
    """Bytes as they are; on a terminal a line break after them, so that the prompt starts on a line of its own."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty() and not data.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def shown(data: bytes) -> str:
    """Bytes on one line: text, with backslashes; what is not printable and what is not UTF-8 is escaped.

    Not printable are control characters (C1 too, which some terminals obey) and marks that change the direction of
    text: with them a name could look like another one.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(_ESCAPES.get(byte) or (chr(byte) if byte < 128 else f"\\x{byte:02x}") for byte in data)
    text = text.translate(_ESCAPES)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) <= 0xFFFF else f"\\U{ord(letter):08x}"


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned by their widest cell; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    rights = [
        bool(rows) and all(row[at].lstrip("-").isdigit() or row[at] == "-" for row in rows) for at in range(len(titles))
    ]
    for row in (titles, *rows):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, rights, strict=True)
        ]
        print_line("  ".join(cells).rstrip())
