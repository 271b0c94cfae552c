"""The next step after damage that stops a node, as a shell command."""

from __future__ import annotations

import os
import shlex

__all__ = ["data_dir_of", "how_to_repair"]


def how_to_repair(data_dir: str) -> str:
    """Return a sentence with the command that has the cluster replace the node of a data directory."""
    place = shlex.quote(data_dir or ".")
    return f"Have its cluster replace it: stop the node and run `syncline repair --data-dir {place} --endpoints URL,…`."


def data_dir_of(file: str) -> str:
    """The data directory of a file of the log or of a snapshot, which is in a directory below it."""
    return os.path.dirname(os.path.dirname(file))
