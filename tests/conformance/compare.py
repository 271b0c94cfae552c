"""When an output is the expected one, and how it is shown where it is not.

Compared is every line but those of the library's own log. A block that holds nothing else equals any other such block,
and `ok`.
"""

from __future__ import annotations

import difflib
import re

__all__ = ["difference", "significant"]

_LOG_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR|FATAL)\b")
_CONTEXT_LINES = 3


def significant(output: str) -> list[str]:
    """The lines that count."""
    lines = [line for line in output.removesuffix("\n").split("\n") if not _LOG_LINE.match(line)]
    return [] if lines in ([], ["ok"], [""]) else lines


def difference(expected: str, actual: str) -> str:
    """A unified diff of the lines that count; empty where they are equal."""
    wanted, got = significant(expected), significant(actual)
    if wanted == got:
        return ""
    lines = difflib.unified_diff(wanted, got, "expected", "actual", n=_CONTEXT_LINES, lineterm="")
    return "\n".join(lines)
