"""The keyboard and the size of the terminal while `top` runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from syncline.cli.top.screen import ENTER, LEAVE

__all__ = ["TopTerminal", "is_terminal", "opened_terminal"]

QUIT = b"qQ\x03\x04"
"""q, and Ctrl-C and Ctrl-D as bytes."""

COLUMNS: Final = 80
LINES: Final = 24


class TopTerminal:
    """What has happened at the terminal since the last picture."""

    def __init__(self) -> None:
        self.quits: bool = False
        self._happened = asyncio.Event()

    def size(self) -> os.terminal_size:
        """Columns and lines, as they are now. A serial line knows no size: then those of an old terminal."""
        size = os.get_terminal_size(sys.stdout.fileno())  # shutil's would believe COLUMNS, which does not change
        return os.terminal_size((size.columns or COLUMNS, size.lines or LINES))

    def shows(self, text: str) -> None:
        """Write a text at once, in UTF-8 whatever the terminal's locale is."""
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until a key is pressed or the size has changed."""
        try:
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        except TimeoutError:
            return
        self._happened.clear()

    def pressed(self) -> None:
        """There is something to read."""
        try:
            keys = os.read(sys.stdin.fileno(), 64)
        except OSError:
            keys = b""  # the line was cut
        if not keys or any(key in QUIT for key in keys):  # nothing: the terminal is gone
            self.quits = True
        self._happened.set()

    def changed(self) -> None:
        """The size is another one."""
        self._happened.set()


def is_terminal() -> bool:
    """Whether a picture can be drawn in place, and a key be read."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def opened_terminal() -> Iterator[TopTerminal]:
    """The terminal as `top` needs it: keys come one by one. At the end it is as it was. Inside of an event loop."""
    loop = asyncio.get_running_loop()
    made = TopTerminal()
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        sys.stdout.write(ENTER)
        loop.add_reader(keyboard, made.pressed)
        loop.add_signal_handler(signal.SIGWINCH, made.changed)
        yield made
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
