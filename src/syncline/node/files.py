"""Read and replace a file as a whole: for state machines that keep their state on disk themselves."""

from __future__ import annotations

from syncline.platform.disk import OsDisk
from syncline.storage import atomic_file

__all__ = ["read_file", "replace_file"]


def read_file(path: str) -> bytes | None:
    """Return the content of the file at `path`; None if there is none.

        content = read_file("state") or b""

    Raises:
        OSError: the file can't be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def replace_file(path: str, content: bytes) -> None:
    """Make `content` the file at `path`: synced under a temporary name, renamed, and the directory synced.

    A crash leaves the old file or the new one, and on return it is the new one, power cuts included. One caller at a
    time: hold a lock if there may be several.

        replace_file("state", b"7 42")

    Raises:
        OSError: the file can't be written; the old one is as it was.
    """
    atomic_file.replace_file(OsDisk(), path, content)
