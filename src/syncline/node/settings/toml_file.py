"""A TOML file of settings, with the line of each setting."""

from __future__ import annotations

import tomllib
from typing import Any, Final

from syncline.errors import ConfigError

__all__ = ["lines_of", "read_settings_file"]

LARGEST_FILE_BYTES: Final = 1 << 20
"""A file of settings has some kilobytes: a larger one is another file."""

MOST_READ_AGAIN: Final = 1 << 19
"""Characters of statements that are read more than once to find lines. Settings behind them have no line."""

CLOSERS: Final = ("]", '"' * 3, "'" * 3)
"""A statement of several lines is a list or a text: it ends on a line with one of these."""


def read_settings_file(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The settings of a file, and the line at which each begins.

    Raises:
        ConfigError: it can't be read, or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} can't be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte, or a lone surrogate
        raise ConfigError(f"the configuration file {path!r} can't be read: no file has such a name") from error
    if len(data) > LARGEST_FILE_BYTES:
        raise ConfigError(f"the configuration file {path} has more than {LARGEST_FILE_BYTES} bytes: name another one")
    try:
        text = data.decode()
        return tomllib.loads(text), lines_of(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"the configuration file {path} nests lists too deep: settings have simple lists") from None


def lines_of(text: str) -> dict[str, int]:
    """The first line of each top-level key of a TOML document, from 1.

    `tomllib` tells no lines. So the document is taken apart: a statement ends at the first line at which it can be
    read by itself. All lines of a table belong to the key in its head.
    """
    found: dict[str, int] = {}
    in_table = False
    begin, statement, left = 0, "", len(text) + MOST_READ_AGAIN
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            begin = number
        elif not any(closer in line for closer in CLOSERS):
            statement += line + "\n"
            continue
        statement += line + "\n"
        left -= len(statement)
        if left < 0:
            break
        try:
            keys = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on: a list or a text of several lines
        if statement.lstrip().startswith("["):
            in_table = True
            found.setdefault(next(iter(keys)), begin)
        elif not in_table:
            for key in keys:
                found.setdefault(key, begin)
        statement = ""
    return found
