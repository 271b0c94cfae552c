"""Lines for people never hold up a node, whatever happens to their reader."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.cli.log_lines import MAX_WAITING, DescriptorStream, ThreadHandler
from tests.helpers.ports import free_block

DEADLINE_S = 20.0
F_SETPIPE_SZ = 1031


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)  # a poll, until the deadline


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test has closed it


def handler_on(descriptor: int) -> ThreadHandler:
    return ThreadHandler(logging.StreamHandler(DescriptorStream(descriptor)), logging.Formatter("%(message)s"))


def test_output_unread_pipe_holds_up_no_caller_and_tells_of_lost_lines(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = handler_on(writer)
    for number in range(MAX_WAITING + 1000):
        handler.say(f"line {number} {'x' * 100}")
    os.set_blocking(reader, False)
    read = bytearray()

    def drained() -> bool:
        with contextlib.suppress(BlockingIOError):  # the thread has not written since
            read.extend(os.read(reader, 1 << 16))
        handler.say("end")
        return b"before this one could not be written" in read

    until(drained)
    assert read.startswith(b"line 0 ")


def test_output_unread_pipe_does_not_hold_up_the_end(pipe: tuple[int, int]) -> None:
    handler = handler_on(pipe[1])
    for _ in range(100):
        handler.say("x" * 200)
    closing = threading.Thread(target=handler.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()


def test_output_broken_pipe_and_full_disk_lose_lines_alone(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    broken, full = handler_on(writer), handler_on(os.open("/dev/full", os.O_WRONLY))
    for handler in (broken, full):
        handler.say("lost")
        handler.close()
        assert handler._lost == 1


def test_output_lines_are_written_in_order_and_escaped(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = handler_on(writer)
    handler.handle(logging.LogRecord("a", 20, "", 1, "path %s", (os.fsdecode(b"d\xff"),), None))
    handler.handle(logging.LogRecord("a", 20, "", 1, "%d", ("no number",), None))
    handler.say("last")
    handler.close()
    assert os.read(reader, 4096).decode().splitlines() == [
        "path d\\udcff",
        "a line of a can't be formatted: '%d'",
        "last",
    ]


class Served:
    """`syncline serve` as a process of its own."""

    def __init__(self, path: Path, **options: object) -> None:
        http, peer = free_block(2), 0
        peer = http + 1
        self.url = f"http://127.0.0.1:{http}"
        command = [sys.executable, "-m", "syncline", "serve", "--name", "a", "--data-dir", str(path / "a")]
        command += ["--http-listen", f"127.0.0.1:{http}", "--peer-listen", f"127.0.0.1:{peer}"]
        self.process = subprocess.Popen(command, **options)  # type: ignore[call-overload]

    def is_ready(self) -> bool:
        assert self.process.poll() is None
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return int(self.process.wait(DEADLINE_S))


@contextmanager
def served(path: Path, **options: object) -> Iterator[Served]:
    node = Served(path, **options)
    try:
        until(node.is_ready)
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()


def unread(_: Path) -> int:
    _reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    return writer


def broken(_: Path) -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full(_: Path) -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("output", [unread, broken, full])
def test_serve_with_a_bad_error_output_runs_and_stops_in_order(tmp_path: Path, output: Callable[[Path], int]) -> None:
    descriptor = output(tmp_path)
    with served(tmp_path, stderr=descriptor) as node:
        assert node.stop() == 0
    os.close(descriptor)


def test_serve_with_closed_standard_descriptors_keeps_their_numbers(tmp_path: Path) -> None:
    """A socket with the number 2 would get the log's lines."""

    def close_all() -> None:
        os.closerange(0, 3)

    with served(tmp_path, preexec_fn=close_all) as node:
        at = Path(f"/proc/{node.process.pid}/fd")
        assert {os.readlink(at / str(number)) for number in range(3)} == {os.devnull}
        assert node.stop() == 0


def test_serve_stops_in_order_on_sighup_unless_it_is_ignored(tmp_path: Path) -> None:
    usual = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}  # under nohup it would be ignored
    with (tmp_path / "log").open("wb") as log, served(tmp_path, stderr=log, **usual) as node:
        assert node.stop(signal.SIGHUP) == 0
    assert "signal=SIGHUP" in (tmp_path / "log").read_text()
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with served(tmp_path, stderr=subprocess.DEVNULL, **ignoring) as node:
        node.process.send_signal(signal.SIGHUP)
        until(node.is_ready)
        assert node.stop() == 0


def test_serve_under_python_o_runs_with_its_checks(tmp_path: Path) -> None:
    with served(tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONOPTIMIZE": "2"}) as node:
        environment = Path(f"/proc/{node.process.pid}/environ").read_bytes()
        assert b"PYTHONOPTIMIZE" not in environment
        assert node.stop() == 0


def test_node_import_under_python_o_is_refused() -> None:
    command = [sys.executable, "-O", "-c", "from syncline import Raft"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not run under python -O" in done.stderr
