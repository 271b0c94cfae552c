"""The lines that were typed, kept in a file from one shell to the next."""

from __future__ import annotations

import os
from typing import Final

from syncline.cli.streams import say

__all__ = ["ShellHistory"]

MOST_LINES: Final = 1000
HISTORY_VARIABLE: Final = "SYNCLINE_HISTORY"
"""Names another file; empty: none is kept."""


class ShellHistory:
    """Loads and keeps readline's history. Values that were typed stand in it: only its owner may read the file."""

    def __init__(self) -> None:
        given = os.environ.get(HISTORY_VARIABLE)
        home = os.path.expanduser("~")
        self._path = os.path.join(home, ".syncline_history") if given is None else given

    def load(self) -> None:
        """Read the file, if there is one."""
        import readline

        readline.set_history_length(MOST_LINES)
        if not self._path:
            return
        try:
            readline.read_history_file(self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            say(f"syncline: the history can't be read: {error}")

    def save(self) -> None:
        """Write the file."""
        import readline

        if not self._path:
            return
        try:
            # readline would create it for all to read, and leave it so if another program did.
            made = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600)
            try:
                if os.fstat(made).st_mode & 0o077:
                    os.fchmod(made, 0o600)
            finally:
                os.close(made)
            readline.write_history_file(self._path)
        except OSError as error:
            say(f"syncline: the history can't be kept: {error}")
