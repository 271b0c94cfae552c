"""The examples of a document: commands and requests, run against a server."""

from __future__ import annotations

import json
import re
import shlex
import urllib.error
import urllib.request
from typing import Final

from tests.helpers.command import syncline

__all__ = ["BLOCK", "PYTHON", "documents", "run_commands", "send_request"]

BLOCK: Final = re.compile(r"^```(console|http)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_commands(text: str, url: str) -> None:
    """Run each `$ syncline …`. What follows is its output; for `txn` its input comes first."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, rest = part.partition("\n")
        lines = rest.splitlines(keepends=True)
        split = next((at for at, line in enumerate(lines) if not line.startswith(("if ", "then ", "else "))), 0)
        ran = syncline(*shlex.split(command)[1:], stdin="".join(lines[:split]).encode(), endpoints=url)
        assert (ran.status, ran.text.rstrip("\n")) == (0, "".join(lines[split:]).rstrip("\n")), (command, ran.err)


def send_request(text: str, url: str) -> None:
    """Send the request before the blank line; compare its answer with what follows."""
    asked, _, answered = text.partition("\n\n")
    first, *rest = asked.split("\n")
    method, target = first.split(" ")
    body, fields = "", {}
    if rest and ": " in rest[0] and not rest[0].startswith("{"):
        name, _, value = rest.pop(0).partition(": ")
        fields[name] = value
    body = "\n".join(rest)
    request = urllib.request.Request(url + target, body.encode() or None, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status, content = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read().decode()
    expected_status, _, expected = answered.partition("\n")
    assert status == int(expected_status), content
    assert documents(content) == documents(expected), target


def documents(text: str) -> list[object]:
    """The JSON documents of a text, one after the other, or the text itself."""
    decoder, found, position = json.JSONDecoder(), [], 0
    text = text.strip()
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            found.append(value)
            position += len(text[position:]) - len(text[position:].lstrip())
    except json.JSONDecodeError:
        return [text]
    return found
