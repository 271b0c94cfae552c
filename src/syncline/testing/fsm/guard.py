"""`guard_determinism`: report calls whose result differs from node to node, with their line.

    with guard_determinism():
        Jobs.take(machine, "w3")

A command takes the time and random numbers from its entry (`Entry.time_s`, `Entry.random`; in a `Machine`
`self.entry`). `pytest --syncline-guard` guards all that the nodes of a test run apply (docs/pytest.md).

The interpreter's profiler sees the calls of this thread. So nothing is replaced, and the code does what it does in
production. It can't see the order of a set, hashes of texts, and arguments: `datetime.fromtimestamp(7)` reads the time
zone, and with a zone it does not. The other processes of `check_fsm` find these, with their line (`line_trace`).
"""

from __future__ import annotations

import gc
import io
import linecache
import logging
import os
import platform
import random
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import CodeType, FrameType, FunctionType
from typing import Final

__all__ = ["MOST", "NotDeterministic", "guard_determinism", "is_guarded", "is_users_code", "without_collections"]

_CLOCK, _CHANCE, _FILES = "the time", "a random number", "files or the network"
_ZONE, _MACHINE, _ADDRESS, _THREAD = "the time zone", "the machine", "an address in memory", "a thread"

_POSIX_FILES: Final = (
    *("open", "stat", "lstat", "listdir", "scandir", "access", "statvfs", "getcwd", "read", "pread", "write", "pwrite"),
    *("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "system", "posix_spawn"),
)
_SOCKET_CALLS: Final = ("connect", "accept", "send", "sendall", "sendto", "recv", "recv_into", "recvfrom")

_CALLS: Final[dict[str, str]] = {
    **dict.fromkeys(
        [
            f"time.{name}{end}"
            for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
            for end in ("", "_ns")
        ]
        + [f"time.{name}" for name in ("localtime", "gmtime", "ctime", "strftime", "sleep")]
        + ["datetime.now", "datetime.utcnow", "datetime.today", "date.today"],
        _CLOCK,
    ),
    **dict.fromkeys(
        ["posix.urandom", "nt.urandom", "posix.getrandom", "_uuid.generate_time_safe", "_uuid.UuidCreate"], _CHANCE
    ),
    **dict.fromkeys([f"{system}.{name}" for system in ("posix", "nt") for name in _POSIX_FILES], _FILES),
    **dict.fromkeys([f"socket.{name}" for name in _SOCKET_CALLS], _FILES),
    **dict.fromkeys(["_socket.getaddrinfo", "_posixsubprocess.fork_exec"], _FILES),
    **dict.fromkeys(["_io.open", "io.open"], _FILES),
    **dict.fromkeys(
        [
            f"{reader}.{name}"
            for reader in ("TextIOWrapper", "BufferedReader", "BufferedRandom", "FileIO")
            for name in ("read", "read1", "readinto", "readline", "readlines")
        ],
        _FILES,
    ),
    **dict.fromkeys(["_socket.gethostname", "posix.uname", "posix.cpu_count", "posix.getloadavg"], _MACHINE),
    **dict.fromkeys(["time.mktime", "date.fromtimestamp"], _ZONE),
    **dict.fromkeys(["_thread.start_new_thread", "_thread.start_joinable_thread"], _THREAD),
    "builtins.id": _ADDRESS,
    **dict.fromkeys(["posix.getpid", "posix.getppid"], "the process"),
}
"""Functions written in C, by module or class, and what they read."""

_INSTEAD: Final[dict[str, str]] = {
    _CLOCK: "entry.time_s has a time that is the same on all nodes (self.entry.time_s in a Machine)",
    _CHANCE: "entry.random has numbers that are the same on all nodes (self.entry.random in a Machine)",
    _ZONE: "it is a setting of the machine; give the datetime a zone, such as datetime.UTC",
    _THREAD: "it goes on while later commands are applied; do the work in the command itself",
}
"""What a command uses in place of what it must not read. The rest is an argument of the command."""

_ARGUMENT: Final = "pass the value as an argument of the command"

_LOGGING: Final = os.path.dirname(logging.__file__)
"""A record of a log has the time, which does not come into the state."""

_GLOBAL_RANDOM: Final = random._inst  # the source of the functions of `random`
_STANDARD: Final = sysconfig.get_paths()["stdlib"]
_OURS: Final = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_SEED: Final = random.Random.seed.__code__
_PYTHON_CALLS: Final[dict[CodeType, str]] = {
    type(os.environ).__getitem__.__code__: "the environment",
    type(os.environ).__iter__.__code__: "the environment",
    **{
        function.__code__: _MACHINE
        for function in map(vars(platform).get, vars(platform))
        if isinstance(function, FunctionType) and not function.__name__.startswith("_")
    },
}
"""Functions written in Python. Those of `platform` remember what they have read."""

_PROGRAM: Final = ("<frozen importlib", linecache.__file__)
"""Files that read the program itself: an import, or the lines of a traceback."""
MOST: Final = 20
"""Findings that are reported."""


class NotDeterministic(AssertionError):
    """Guarded code has called what gives another result on each node. `findings` has a line for each place."""

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        super().__init__("a command must be deterministic:\n  " + "\n  ".join(findings))


@contextmanager
def guard_determinism(*, files: bool = True) -> Iterator[None]:
    """Raise at the end of the block if code in it has read the clock, random numbers, files or the environment.

    `files=False`: files are let pass, for a machine that keeps its state in them.

        with guard_determinism():
            Jobs.take(machine, "w3")

    It takes the place of a profiler or coverage tool of this thread meanwhile.

    Raises:
        NotDeterministic: with the file and line of each call.
    """
    findings: dict[str, None] = {}
    outermost = sys._getframe(2)  # behind `contextmanager`: what called the guarded code is not judged

    def watch(frame: FrameType, event: str, called: object) -> None:
        what = ""
        if event == "c_call":
            what = _read_by(called)
        elif event == "call":
            what = _read_in(frame)
        if (what == _FILES and not files) or (what == _ADDRESS and not is_users_code(frame.f_code.co_filename)):
            return  # `copy` and `repr` of the standard library look addresses up to know an object again
        if what and len(findings) < MOST:
            place = _user_frame(frame, outermost)
            if place is not None:
                found = f"{place.f_code.co_filename}:{place.f_lineno} ({place.f_code.co_name})"
                verb = "starts" if what == _THREAD else "reads"
                findings[f"{found} {verb} {what}: {_INSTEAD.get(what, _ARGUMENT)}"] = None

    with without_collections():
        before = sys.getprofile()
        sys.setprofile(watch)
        try:
            yield
        finally:
            sys.setprofile(before)
    if findings:
        raise NotDeterministic(list(findings))


@contextmanager
def without_collections() -> Iterator[None]:
    """Put the garbage collector's runs off to the end of the block, unless its code calls for one.

    A run may begin at any line. It calls `gc.callbacks`, and finalizers of objects that the block has nothing to do
    with: what these read would be taken for the block's.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_guarded() -> bool:
    """Whether a guard watches this thread."""
    return getattr(sys.getprofile(), "__module__", "") == __name__


def is_users_code(file: str) -> bool:
    """Whether code of this file is neither the standard library's nor Syncline's."""
    own = file.startswith((_STANDARD, _OURS)) and "site-packages" not in file
    return not own and not file.startswith(("<frozen", "<attrs generated"))


def _read_in(frame: FrameType) -> str:
    """What a function written in Python reads, at its start."""
    if frame.f_code is _SEED:
        return _CHANCE if frame.f_locals.get("a") is None else ""
    return _PYTHON_CALLS.get(frame.f_code, "")


def _read_by(called: object) -> str:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, datetime) and owner.tzinfo is None:
        return _ZONE if getattr(called, "__name__", "") in ("timestamp", "astimezone") else ""
    if owner is _GLOBAL_RANDOM or isinstance(owner, random.SystemRandom):
        return _CHANCE
    if isinstance(owner, io.TextIOWrapper | io.BufferedReader | io.BufferedRandom) and _in_memory(owner):
        return ""
    home = getattr(called, "__module__", None) or getattr(
        owner if isinstance(owner, type) else type(owner), "__name__", ""
    )
    return _CALLS.get(f"{home}.{getattr(called, '__name__', '')}", "")


def _in_memory(file: object) -> bool:
    """Whether a stream reads bytes that the program has made itself."""
    while not isinstance(file, io.BytesIO):
        try:
            file = getattr(file, "buffer", None) or getattr(file, "raw", None)
        except ValueError:  # it was detached
            return False
        if file is None:
            return False
    return True


def _user_frame(frame: FrameType | None, outermost: FrameType) -> FrameType | None:
    """The nearest caller outside the standard library and Syncline, up to `outermost`; None in a call of a logger, or
    in a read of the program itself.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith((_LOGGING, *_PROGRAM)):
            return None
        if is_users_code(file):
            return frame
        frame = None if frame is outermost else frame.f_back
    return None
