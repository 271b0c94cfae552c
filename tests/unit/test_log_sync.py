"""Sandboxes that forbid the kernel's sync: a clear message or the thread, and a setting that chooses the thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.errors import ConfigError
from syncline.node.config import Config
from syncline.platform.kernel_sync import SYSCALLS
from syncline.server.config import load_config
from tests.helpers.ports import free_block

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in SYSCALLS, reason="the kernel of Linux is asked"
)

KILL, ERRNO_EPERM = 0x80000000, 0x00050001
SETUP, _, SUBMIT, GET_EVENTS = SYSCALLS.get(os.uname().machine, (0, 0, 0, 0))

SANDBOXED = """
import asyncio, ctypes, logging, struct, sys
from syncline import BytesSnapshot, Config, Raft

class Machine:
    def apply(self, entry): return entry.index
    def snapshot(self): return BytesSnapshot(b"")
    def restore(self, source): pass

number, action, path, port, log_sync = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
code = b"".join(
    struct.pack("HBBI", *line)
    for line in ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000))
)
kept = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(kept))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
if libc.prctl(22, 2, program, 0, 0):
    print("no seccomp")
    sys.exit(0)
logging.basicConfig(level="INFO")

async def main():
    address = f"127.0.0.1:{port}"
    config = Config(name="a", data_dir=path, listen=address, peers={"a": address}, log_sync=log_sync)
    async with await Raft.open(config, Machine()) as raft:
        await raft.apply(b"x", timeout=20)
        print("works")

asyncio.run(main())
"""


def sandboxed(path: Path, number: int, action: int, log_sync: str) -> subprocess.CompletedProcess[str]:
    """Run a node in a process to which one system call is forbidden."""
    arguments = [str(number), str(action), str(path), str(free_block(1)), log_sync]
    command = [sys.executable, "-c", SANDBOXED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "no seccomp" in done.stdout:
        pytest.skip("this system has no seccomp")
    return done


@pytest.mark.parametrize("number", [SETUP, SUBMIT])
def test_log_sync_auto_takes_a_thread_if_the_kernel_refuses(tmp_path: Path, number: int) -> None:
    done = sandboxed(tmp_path, number, ERRNO_EPERM, "auto")
    assert "works" in done.stdout, done.stderr
    assert "synced by a thread" in done.stderr


def test_log_sync_without_its_result_is_refused_with_advice(tmp_path: Path) -> None:
    """The sync was begun, and may have failed: a thread must not say that all is well."""
    done = sandboxed(tmp_path, GET_EVENTS, ERRNO_EPERM, "auto")
    assert done.returncode == 1
    assert "--log-sync thread" in done.stderr


@pytest.mark.parametrize("number", [SETUP, SUBMIT, GET_EVENTS])
def test_log_sync_thread_never_asks_the_kernel(tmp_path: Path, number: int) -> None:
    done = sandboxed(tmp_path, number, KILL, "thread")
    assert "works" in done.stdout, done.stderr


def test_log_sync_kernel_says_if_a_thread_does_it(tmp_path: Path) -> None:
    done = sandboxed(tmp_path, SETUP, ERRNO_EPERM, "kernel")
    assert "works" in done.stdout, done.stderr
    assert "log_sync is 'kernel'" in done.stderr


def test_log_sync_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto, kernel, thread"):
        Config(name="a", data_dir="d", listen="a:1", peers={"a": "a:1"}, log_sync="aio")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="auto, kernel, thread"):
        load_config(environment={}, flags={"name": "a", "data_dir": "d", "log_sync": "aio"})
    assert load_config(environment={}, flags={"name": "a", "data_dir": "d", "log_sync": "thread"}).log_sync == "thread"
