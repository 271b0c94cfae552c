"""The command on a terminal of its own: what it shows, and the keys that a user presses."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

__all__ = ["Terminal", "on_terminal"]

LIMIT_S: Final = 30.0


class Terminal:
    """A process, and the other end of its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process = process
        self.text = ""
        self._keyboard = keyboard
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def types(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def interrupts(self, shown: str) -> None:
        """Press Ctrl-C until `shown` is shown: Python's `input` misses a signal between its prompt and its wait."""
        for _ in range(int(LIMIT_S)):
            self.types("\x03")
            again_s = time.monotonic() + 1.0
            while shown not in self.text and time.monotonic() < again_s:
                self._read()
            if shown in self.text:
                break
        self.until(shown)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def until(self, text: str) -> str:
        """Wait until it is shown; what was shown up to its end. What follows is for the next wait."""
        deadline_s = time.monotonic() + LIMIT_S
        while text not in self.text:
            assert time.monotonic() < deadline_s, f"{text!r} was not shown: {self.text!r}"
            self._read()
        shown, _, self.text = self.text.partition(text)
        return shown + text

    def ended(self) -> int:
        """Wait for its end; its status. `text` has all that it has shown."""
        deadline_s = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"it does not end: {self.text!r}"
            self._read()
        while self._read():  # a terminal gives what is left in parts
            pass
        return self.process.wait()

    def lets_type(self) -> bool:
        """Whether the terminal shows what is typed, line by line: as a shell needs it."""
        flags = termios.tcgetattr(self._keyboard)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON)

    def _read(self) -> bool:
        """Take what is shown within a moment; whether there was anything."""
        if not select.select([self._keyboard], [], [], 0.1)[0]:
            return False
        try:
            shown = os.read(self._keyboard, 65536)
        except OSError:
            return False  # the process has closed its end
        self.text += self._decoder.decode(shown)
        return bool(shown)


@contextmanager
def on_terminal(
    *arguments: str, environment: Mapping[str, str], columns: int = 120, lines: int = 30
) -> Iterator[Terminal]:
    """Run `syncline ARGUMENTS…` on a terminal."""
    keyboard, screen = pty.openpty()
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "syncline", *arguments],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env={**os.environ, "TERM": "xterm", **environment},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(screen, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - Ctrl-C then reaches the process
    )
    terminal = Terminal(process, keyboard)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(screen)
        os.close(keyboard)
