"""A token or password in a file: one line, in a file that only its owner can read, or on standard input."""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

from syncline.errors import ConfigError

__all__ = ["read_secret_line"]

FILE_LIMIT_BYTES: Final = 4096


def read_secret_line(path: str, what: str) -> str:
    """The one line of a file that only its owner can read; `-` is standard input. Raises `ConfigError`."""
    try:
        if path == "-":
            data = sys.stdin.buffer.readline(FILE_LIMIT_BYTES + 1)
        else:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if stat.S_ISREG(mode) and mode & 0o077:
                    raise ConfigError(
                        f"the {what} file {path} can be read or changed by other users (mode {stat.S_IMODE(mode):04o}):"
                        f" chmod 600 {path}"
                    )
                data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the {what} file {path} can't be read: {error.strerror or error}") from error
    shown = "standard input" if path == "-" else path
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigError(f"{shown} holds more than {FILE_LIMIT_BYTES} bytes: that is no {what}")
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{shown} is not UTF-8, so it holds no {what}") from None
    if not text or "\n" in text:
        raise ConfigError(f"{shown} does not hold one line with the {what}")
    return text
