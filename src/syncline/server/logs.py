"""Log lines of the server: one event per line, as text for people or as JSON for machines.

Everything given as `extra=` is part of the line. The library itself only logs to `logging`; the embedding program
decides about handlers. `syncline serve` installs this formatter.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from syncline.platform.texts import escape_controls

__all__ = ["JsonFormatter", "TextFormatter", "set_up_logging"]

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_encoder = msgspec.json.Encoder(enc_hook=str)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", …extra, "error"}` on one line."""

    def __init__(self, *, node: str = "") -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._node:
            line["node"] = self._node
        line.update(_extras(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return escape_controls(_encoder.encode(line).decode())


SILENT: Final = ("hpack",)
"""Packages whose debug lines are left out: `hpack` logs each header that it decodes, and so the clients' tokens."""


class TextFormatter(logging.Formatter):
    """`time LEVEL node logger: message name=value …`; a trace follows it, on lines of its own.

    What is not printable is escaped, in the trace, too: a peer's or a client's text must not move a terminal's cursor.
    """

    def __init__(self, *, node: str = "") -> None:
        super().__init__()
        self._node = f"{node} " if node else ""

    def format(self, record: logging.LogRecord) -> str:
        extras = "".join(f" {name}={_shown(value)}" for name, value in _extras(record).items())
        name = record.name.removeprefix("syncline.")
        message = _plain(record.getMessage())
        line = f"{_time(record)} {record.levelname:<7} {self._node}{name}: {message}{extras}"
        if record.exc_info:
            line += "".join(f"\n{_plain(part)}" for part in self.formatException(record.exc_info).split("\n"))
        return line


def _plain(text: str) -> str:
    """A text on one line, with what is not printable as in a literal of Python."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or not c.isprintable() or c in "='\"" for c in text) else text


class JournalFormatter(logging.Formatter):
    """The lines of another formatter, each with its priority as systemd's journal reads it (sd-daemon(3)): so
    `journalctl --priority warning` finds them. The journal takes it away."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelno
        priority = next(number for least, number in _PRIORITIES if level >= least)
        return "\n".join(f"<{priority}>{line}" for line in self._lines.format(record).split("\n"))


_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""By the least level: the priority of syslog(3)."""


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream goes to systemd's journal: then `JOURNAL_STREAM` has its device and inode (systemd.exec(5)). A
    stream that was redirected has others."""
    named = environment.get("JOURNAL_STREAM", "")
    if not named:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file, or a closed one
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def set_up_logging(*, level: str, style: str, node: str = "", stream: TextIO | None = None) -> logging.Handler:
    """Send everything of the process's log to `stream` (standard error), `style` "text" or "json"."""
    formatter: logging.Formatter = JsonFormatter(node=node) if style == "json" else TextFormatter(node=node)
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(JournalFormatter(formatter) if is_journal(out, os.environ) else formatter)
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.addHandler(handler)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.INFO)
    return handler
