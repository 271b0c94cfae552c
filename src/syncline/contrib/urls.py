"""URLs of files and directories, as fsspec has them: their parts, and how they may be printed."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_url", "shown", "split_path", "without_slash"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_USER_INFO: Final = re.compile(r"://[^/?#\s]*@")


def is_url(text: str) -> bool:
    """Whether a text names a place by URL: `s3://…`, `file://…`, or `simplecache::s3://…`."""
    return _URL.match(text) is not None


def without_slash(path: str) -> str:
    """A directory without slashes at its end; the root, as a path or URL, as it is."""
    short = path.rstrip("/")
    return path if not short or (is_url(path) and short.endswith(":")) else short


def split_path(path: str) -> tuple[str, str]:
    """The directory and the name in it, of a path or URL. The name is empty if it ends with a slash."""
    before, slash, name = path.rpartition("/")
    if is_url(path) and before.endswith(":/"):  # memory://monday: the root
        before += slash
    return (before or slash or ".", name)


def shown(path: str) -> str:
    """A path or URL, or a text with URLs, as it may be printed: without a user and password in it."""
    return _USER_INFO.sub("://[removed]@", path)
