"""Docstrings as the site's parser wants them.

The docstrings of this project are plain text with `names` in backticks, examples that are indented by four spaces,
lists of errors below `Raises:`, and settings (`name: type = default`, with an indented text). Sphinx wants
reStructuredText.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Final

__all__ = ["to_rst"]

INDENT: Final = "    "
CODE: Final = re.compile(r"(`+)(.+?)\1")
SPECIAL: Final = re.compile(r"([\\*|])|(?<=\w)(_)(?=\W|$)")
BOLD: Final = re.compile(r"(?<!\w)\*\*(\S[^*]*?)\*\*(?!\w)")
LINK: Final = re.compile(r"\[([^]\n]+)\]\(([^)\s]+)\)")
ENTRY: Final = re.compile(r"([\w.]+(?:, [\w.]+)*): +(.*)")
SETTING: Final = re.compile(r"\w+: \S.*")


def to_rst(lines: list[str]) -> list[str]:
    """Convert a docstring whose indentation is removed."""
    made: list[str] = []
    example: list[str] = []
    for block in [*_blocks(_with_margin(lines)), []]:
        if block and all(line.startswith(INDENT) for line in block):
            example += [*block, ""]
            continue
        if example:
            made += [f".. code-block:: {_language(example)}", "", *example]
            example = []
        if block:
            made += [*_paragraph(block), ""]
    return made


def _with_margin(lines: list[str]) -> list[str]:
    """If all that follows the first line is an example, its indentation was removed, too: put it back."""
    rest = lines[1:]
    if lines and any(line.strip() for line in rest) and _is_python(rest):
        return [lines[0], *(f"{INDENT}{line}" if line.strip() else "" for line in rest)]
    return lines


def _is_python(lines: list[str]) -> bool:
    body = textwrap.indent(textwrap.dedent("\n".join(lines)), INDENT)
    try:
        compile(f"async def example():\n{body}\n", "docstring", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """The parts between blank lines."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def _language(block: list[str]) -> str:
    """Python, if its first line could be; else plain text: drawings, shell lines, formats."""
    first = block[0].strip()
    if first.startswith(("$ ", "syncline ", "python -m ", "curl ", "├", "└", "│")):
        return "text"
    return "python" if _is_python(block) else "text"


def _paragraph(block: list[str]) -> list[str]:
    """A paragraph, a list, or a heading with a list of what is indented below it."""
    if len(block) > 1 and SETTING.fullmatch(block[0]) and all(line.startswith(INDENT) for line in block[1:]):
        return [f"``{block[0]}``", *(f"{INDENT}{_text(line.strip())}" for line in block[1:])]
    made: list[str] = []
    for number, line in enumerate(_with_whole_code(block)):
        bullet = line.lstrip().startswith("- ")
        if line.startswith(INDENT) and not bullet:
            entry = ENTRY.fullmatch(line.strip())
            deeper = line.startswith(INDENT + "  ")
            if not deeper and (entry is not None or (number > 0 and block[0].endswith(":") and len(made) == 1)):
                if len(made) == 1:
                    made.append("")
                text = f"``{entry[1]}``: {_text(entry[2])}" if entry is not None else _text(line.strip())
                made.append(f"* {text}")
            else:
                made.append(("  " if len(made) > 1 else "") + _text(line.strip()))
            continue
        if bullet and made and not made[-1].startswith(("* ", "  ")) and made[-1]:
            made.append("")
        made.append(f"* {_text(line.lstrip()[2:])}" if bullet else _continued(line, made))
    return made


def _continued(line: str, made: list[str]) -> str:
    """A line of text; in a list it belongs to the item above."""
    in_item = bool(made) and made[-1].startswith(("* ", "  ")) and line.startswith(" ")
    return ("  " if in_item else "") + _text(line.strip())


def _with_whole_code(block: list[str]) -> list[str]:
    """Join lines of which the first one ends within backticks."""
    made: list[str] = []
    for line in block:
        if made and made[-1].count("`") % 2:
            made[-1] += f" {line.strip()}"
        else:
            made.append(line)
    return made


def _text(line: str) -> str:
    """Inline markup: names in backticks are literal, and nothing else is special."""
    parts: list[str] = []
    end = 0
    for found in CODE.finditer(line):
        before, after = line[: found.start()][-1:], line[found.end() : found.end() + 1]
        literal = f"``{found[2].strip()}``"
        # Within a word, such as the plural of a name, markup needs an escaped space on its side.
        parts += [_plain(line[end : found.start()]), "\\ " if before.isalnum() else "", literal]
        parts.append("\\ " if after.isalnum() else "")
        end = found.end()
    return "".join([*parts, _plain(line[end:])])


def _plain(text: str) -> str:
    parts = BOLD.split(LINK.sub(r"\1 (\2)", text))  # every second one is bold
    escaped = [SPECIAL.sub(r"\\\g<0>", part) for part in parts]
    return "".join(f"**{part}**" if at % 2 else part for at, part in enumerate(escaped))
