"""The second process of `check_fsm`: runs a state machine on commands and prints each result, one JSON object a line.

`python -m syncline.testing.fsm.process` reads one `Task` from its standard input. Its hash seed is in its
environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from typing import BinaryIO, cast

import msgspec

from syncline.testing.fsm.line_trace import trace
from syncline.testing.fsm.run import MakeFSM, Record, made, record

__all__ = ["Task", "decode", "main"]


class Task(msgspec.Struct, frozen=True):
    """Which machine: `name` in the module `module`, which is loaded from `file` if it can't be imported by name."""

    module: str
    file: str
    name: str
    path: list[str]
    commands: list[bytes]
    traced: int = 0
    """A command whose lines are printed, as one `CommandTrace`, in place of the results. 0: none."""


def main() -> None:
    # What the machine prints must not come between the results: standard output is standard error for it.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with output:
        _run(output)


def _run(output: BinaryIO) -> None:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.path[:] = task.path
    encode = msgspec.json.Encoder().encode
    fsm = made(_found(_module(task), task.name))
    if task.traced:
        output.write(encode(trace(fsm, task.commands, task.traced)))
        return
    output.writelines(encode(line) + b"\n" for line in record(fsm, task.commands))


def decode(output: bytes) -> list[Record]:
    """Decode the output of a process."""
    return [msgspec.json.decode(line, type=Record) for line in output.splitlines()]


def _module(task: Task) -> types.ModuleType:
    if task.module != "__main__":
        try:
            return importlib.import_module(task.module)
        except ModuleNotFoundError:
            if not task.file:
                raise
    spec = importlib.util.spec_from_file_location("syncline_checked_module", task.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _found(module: types.ModuleType, name: str) -> MakeFSM:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part)
    return cast("MakeFSM", found)


if __name__ == "__main__":
    main()
