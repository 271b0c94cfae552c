"""Running the command inside a test, as a shell would: arguments and input in, status and both outputs out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from syncline.cli.main import main


@dataclass
class Ran:
    """What a command did."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    def json(self) -> dict[str, object]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def error(self) -> str:
        """The error output, which is one line."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        return self.err.strip()


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Captured(io.TextIOWrapper):
    def __init__(self, content: bytes = b"") -> None:
        self.bytes = io.BytesIO(content)
        super().__init__(self.bytes, encoding="utf-8", write_through=True)


def syncline(*arguments: str, stdin: bytes = b"", endpoints: str | None = None) -> Ran:
    """Run `syncline ARGUMENTS…`."""
    out, err = _Captured(), _Captured()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = _Captured(stdin), out, err
    changes = {"COLUMNS": "100", **({} if endpoints is None else {"SYNCLINE_ENDPOINTS": endpoints})}
    try:
        with environment(changes):
            status = main(arguments)
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    return Ran(status, out.bytes.getvalue(), err.bytes.getvalue().decode())
