"""Exit statuses of the command, and the one line that reports an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from syncline.errors import (
    ConfigError,
    CorruptionError,
    DeadlineExceeded,
    Dropped,
    NoLeader,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    RepairNeeded,
    SynclineError,
    Unreachable,
    UsageError,
)

__all__ = [
    "EXIT_CANT_RUN",
    "EXIT_CONFLICT",
    "EXIT_DAMAGED",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_LOST",
    "EXIT_NOT_ACQUIRED",
    "EXIT_NOT_FOUND",
    "EXIT_NOT_RUN",
    "EXIT_NO_COMMAND",
    "EXIT_UNAVAILABLE",
    "EXIT_UNKNOWN",
    "EXIT_USAGE",
    "Failure",
    "Told",
    "failure_of",
    "one_line",
]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_FOUND: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_UNKNOWN: Final = 5
EXIT_CONFLICT: Final = 6
EXIT_DAMAGED: Final = 7
"""The data directory needs `syncline repair`: starting again does not help."""
EXIT_LOST: Final = 123
"""`run`, `lock`, `elect`: what was held is lost; the command was stopped. From here on as `timeout` and shells have
them: other statuses of `run` are the command's own."""
EXIT_NOT_ACQUIRED: Final = 124
EXIT_NOT_RUN: Final = 125
EXIT_CANT_RUN: Final = 126
EXIT_NO_COMMAND: Final = 127
EXIT_INTERRUPTED: Final = 130

_UNAVAILABLE: Final = (Unreachable, NoLeader, NotLeader, Dropped, DeadlineExceeded)
_UNAVAILABLE_STATUS: Final = 503
_NOT_FOUND_CODES: Final = frozenset(
    {"not_found", "unknown_member", "lease_not_found", "user_not_found", "role_not_found", "token_not_found"}
)

LINE_LIMIT: Final = 1000
"""Characters of an error's text that are shown."""


class Failure(click.ClickException):
    """The command failed: an exit status and the line with the reason (a JSON object with `--json`).

    `outcome` and `details` are the server's, for the JSON object.
    """

    def __init__(
        self,
        message: str,
        exit_code: int,
        *,
        code: str = "failed",
        outcome: str = "",
        details: Mapping[str, int | str] | None = None,
        as_json: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = exit_code
        self.code = code
        self.outcome = outcome
        self.details = details
        self.as_json = as_json

    @property
    def line(self) -> str:
        """The line for the error output."""
        if not self.as_json:
            return f"syncline: {one_line(self.message)}"
        import json  # most commands succeed, and need none of it

        error: dict[str, object] = {"code": self.code, "message": one_line(self.message)}
        if self.outcome:
            error["outcome"] = self.outcome
        if self.details:
            error["details"] = dict(self.details)
        return json.dumps({"error": error})


class Told(Failure):
    """End with a status; everything was printed before."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("", exit_code)

    @property
    def line(self) -> str:
        return ""


def failure_of(error: SynclineError, *, as_json: bool = False, more: str = "") -> Failure:
    """Map an error of the library to the command's failure. `more` is put after its text."""
    if not isinstance(error, OperationError):
        return Failure(str(error) + more, _other_exit_code(error), code=_name(error), as_json=as_json)
    message = str(error)
    if error.outcome is Outcome.UNKNOWN:
        message += " (outcome unknown: read before you try again)"
    return Failure(
        message + more,
        _exit_code(error),
        code=error.code,
        outcome=error.outcome.value,
        details=error.details if isinstance(error, Rejected) else None,
        as_json=as_json,
    )


def _other_exit_code(error: SynclineError) -> int:
    if isinstance(error, CorruptionError | RepairNeeded):
        return EXIT_DAMAGED
    return EXIT_USAGE if isinstance(error, ConfigError | UsageError) else EXIT_FAILED


def one_line(text: str) -> str:
    """A text without line breaks and control characters, of limited length."""
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))
    return line if len(line) <= LINE_LIMIT else line[:LINE_LIMIT] + "…"


def _exit_code(error: OperationError) -> int:
    if error.outcome is Outcome.UNKNOWN:
        return EXIT_UNKNOWN
    if error.code == "bad_request":
        return EXIT_USAGE
    if error.code == "precondition_failed":
        return EXIT_CONFLICT
    if error.code in _NOT_FOUND_CODES:
        return EXIT_NOT_FOUND
    if isinstance(error, _UNAVAILABLE) or getattr(error, "status", None) == _UNAVAILABLE_STATUS:
        return EXIT_UNAVAILABLE
    return EXIT_FAILED


def _name(error: SynclineError) -> str:
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(error).__name__)
    return words.lstrip("_")
