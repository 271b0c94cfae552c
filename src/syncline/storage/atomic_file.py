"""Small files that are read at once, and replaced as a whole or not at all."""

from __future__ import annotations

import os

from syncline.platform.disk import Disk

__all__ = ["TEMPORARY_SUFFIX", "read_file", "replace_file"]

TEMPORARY_SUFFIX = ".tmp"


def read_file(disk: Disk, path: str, *, limit_bytes: int) -> bytes:
    """Return the file's content, or its first `limit_bytes`: no valid file is larger. Raises `OSError`."""
    file = disk.open(path)
    try:
        return file.read_at(0, limit_bytes)
    finally:
        file.close()


def replace_file(disk: Disk, path: str, content: bytes) -> None:
    """Make `content` the file at `path`, durably: a crash leaves the old file or the new one. Raises `OSError`."""
    temporary = path + TEMPORARY_SUFFIX
    if disk.exists(temporary):
        disk.remove(temporary)
    file = disk.open(temporary, create=True, write=True)
    try:
        file.write_at(0, content)
        file.sync()  # before the rename: else a crash could leave the name on an empty file
    finally:
        file.close()
    disk.rename(temporary, path)
    # A rename is durable with its directory. Without this a crash could bring the old file back after the return.
    disk.sync_dir(os.path.dirname(path) or ".")
