"""Where a command's output is gathered: with levels, and with indented parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LEVELS", "Output"]

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
_TRACE_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_QUIET = LEVELS.index("NONE")


class Output:
    """The text of one command. At level NONE everything is suppressed, not the library's log alone."""

    def __init__(self) -> None:
        self.level = 0
        self._parts: list[str] = []

    @property
    def quiet(self) -> bool:
        return self.level == _QUIET

    def set_level(self, name: str) -> None:
        """Raises ValueError for a name that is not in LEVELS, in any case."""
        if name.upper() not in LEVELS:
            raise ValueError(f"log levels must be either of [{' '.join(LEVELS)}]")
        self.level = LEVELS.index(name.upper())

    def write(self, text: str) -> None:
        if not self.quiet:
            self._parts.append(text)

    def trace(self, level: str, text: str) -> None:
        """A line of the library's own log."""
        number = _TRACE_LEVELS[level]
        if self.level <= number:
            self._parts.append(f"{LEVELS[number]} {text}\n")

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is written inside is indented by two, line by line."""
        outer, self._parts = self._parts, []
        try:
            yield
        finally:
            inner, self._parts = "".join(self._parts), outer
            lines = inner.removesuffix("\n").split("\n") if inner else []
            self._parts.extend(f"  {line}\n" for line in lines)

    def take(self) -> str:
        """The text so far, which is cleared."""
        text = "".join(self._parts)
        self._parts.clear()
        return text
