"""The bundle: a `tar.gz` with texts, and a manifest that names them, and what is missing with the reason."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
from types import TracebackType
from typing import Final, Self

from syncline.platform.texts import encode_json

__all__ = ["Bundle"]

MODE: Final = 0o600
"""It has addresses and names of keys: for its owner alone."""

NOTE: Final = """\
A bundle of `syncline debug`, for a bug report. It has no secrets, no values and no files of the log or of snapshots.
It has addresses, names of nodes and users, paths, and log lines, in which names of keys may stand.
Read it before you send it.

"""


class Bundle:
    """Written to a new file that appears when it is complete. Use it as a context manager.

    Raises:
        FileExistsError: there is such a file already.
        OSError: it can't be written.
    """

    def __init__(self, path: str) -> None:
        if os.path.lexists(path):
            raise FileExistsError(path)
        self.path: str = os.path.abspath(path)
        self.size_bytes: int = 0
        """Of the file, when it is complete."""
        self.names: list[str] = []
        self.problems: list[str] = []
        """What is not in it, with the reason."""
        self._partial = f"{self.path}.part"
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w:gz")  # noqa: SIM115 - closed at the end of the block
        self._now_s = int(time.time())
        self._folder = os.path.basename(path).partition(".")[0] or "syncline-debug"

    def add(self, name: str, text: str) -> None:
        """Add a text. A name that is there gets a number."""
        base, dot, kind = name.rpartition(".")
        number = 2
        while name in self.names:
            name = f"{base}-{number}{dot}{kind}"
            number += 1
        self.names.append(name)
        data = text.encode("utf-8", "backslashreplace")
        about = tarfile.TarInfo(f"{self._folder}/{name}")
        about.size, about.mtime, about.mode = len(data), self._now_s, MODE
        self._tar.addfile(about, io.BytesIO(data))

    def add_json(self, name: str, value: object) -> None:
        """Add a value as JSON."""
        self.add(name, encode_json(value).decode() + "\n")

    def missing(self, what: str, why: object) -> None:
        """Note what could not be had."""
        self.problems.append(f"{what}: {why}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                rows = ["Contents:", *(f"  {name}" for name in self.names)]
                rows += ["", "Missing:", *(f"  {problem}" for problem in self.problems or ["nothing"])]
                self.add("MANIFEST.txt", NOTE + "\n".join([*rows, ""]))
            self._tar.close()
            self._file.close()
            if error is None:
                self.size_bytes = os.path.getsize(self._partial)
                os.rename(self._partial, self.path)
        finally:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial)
