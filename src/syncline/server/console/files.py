"""Load the console's static files from the installed package, once, with what a browser is told about each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import msgspec

__all__ = ["PAGE", "ConsoleFile", "console_files"]

PAGE: Final = "index.html"
"""The one page; all else is loaded by it."""

TYPES: Final[Mapping[str, bytes]] = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
"""Media types by a file's extension. A file of another kind is not served: it can't be there by accident."""


class ConsoleFile(msgspec.Struct, frozen=True):
    """One file. `etag` is in double quotes."""

    media_type: bytes
    content: bytes
    etag: bytes


@cache
def console_files() -> Mapping[str, ConsoleFile]:
    """Every file by its path below `/console/`. They are read at the first call, and kept: some 100 KiB."""
    return dict(_found(files("syncline.server.console") / "static", ""))


def _found(folder: Traversable, above: str) -> Iterator[tuple[str, ConsoleFile]]:
    for entry in folder.iterdir():
        name = above + entry.name
        if entry.is_dir():
            yield from _found(entry, f"{name}/")
            continue
        media_type = TYPES.get(name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            etag = b'"%s"' % hashlib.blake2b(content, digest_size=16).hexdigest().encode()
            yield name, ConsoleFile(media_type, content, etag)
