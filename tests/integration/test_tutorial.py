"""The tutorial's system as its reader runs it: real processes, told to do things over HTTP, and killed."""

from __future__ import annotations

import http.client
import io
import json
import multiprocessing
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final, TypeVar

import pytest
from examples.tutorial.store import Command, Store
from msgspec import msgpack

from syncline import Entry
from syncline.node.fsm import BatchingFSM, DurableFSM
from tests.ports import free_block

ROOT: Final = Path(__file__).resolve().parents[2]
DEADLINE_S: Final = 40.0
"""For anything that a node does by itself: to start, to join, to elect."""

Result = TypeVar("Result")


def eventually(what: str, check: Callable[[], Result | None]) -> Result:
    """Ask a child process again and again until the answer is not None; no connection counts as no answer."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            found, last = check(), "None"
        except OSError as error:
            found, last = None, repr(error)
        if found is not None:
            return found
        assert time.monotonic() < deadline_s, f"not in time: {what}; last: {last}"
        time.sleep(0.02)  # a poll of a child process, up to the deadline


class Node:
    """One process: its command line, and its answers."""

    def __init__(self, name: str, folder: Path, port: int, member: Node | None) -> None:
        self.name, self.port = name, port
        self._log = folder / f"{name}.log"
        join = [f"http://127.0.0.1:{member.port}"] if member else []
        self._arguments = [name, str(folder / name), str(port), str(port + 50), *join]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "examples.tutorial.server", *self._arguments]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def key(self, method: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask for a key until it is answered: who has just lost the leader says 503."""

        def answered() -> tuple[int, bytes] | None:
            answer = self.ask(method, f"/key/{urllib.parse.quote(key, safe='')}", body)
            return answer if answer[0] < 500 else None

        return eventually(f"{self.name} answers {method} {key}", answered)

    def has_voters(self, names: set[str]) -> bool | None:
        members: dict[str, str] = json.loads(self.ask("GET", "/")[1])["members"]
        return {name for name, role in members.items() if role == "voter"} == names or None


class Cluster:
    """The nodes of one test. The first starts a cluster of its own; the others join."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_block(100)
        self.nodes: list[Node] = []

    def add(self, name: str, member: Node | None = None) -> Node:
        """Start a node. When this returns it has joined and votes."""
        node = Node(name, self._folder, self._port + len(self.nodes), member)
        self.nodes.append(node)
        node.start()
        names = {one.name for one in self.nodes}
        for one in self.nodes:
            if one.running:
                eventually(f"{one.name} sees {names} vote", partial(one.has_voters, names))
        return node


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            if node.running:
                node.stop()
            print(f"--- {node.name}\n{node.log()}")


def test_written_on_one_read_on_all_one_killed_and_a_fourth_joined(cluster: Cluster) -> None:
    a = cluster.add("a")
    b = cluster.add("b", a)
    c = cluster.add("c", b)  # through any member
    three = [a, b, c]

    expected: dict[str, bytes] = {
        "greeting": b"hello",
        "empty": b"",
        "a/b c%": b"\0\xff\r\n\r\n",
        "ключ": b"x" * 50_000,
    }
    for (key, value), node in zip(expected.items(), [a, b, c, b], strict=True):
        assert node.key("POST", key, value) == (200, b'{"status": "success"}')
        for reader in three:  # at once: a read on any node sees what was answered on another
            assert reader.key("GET", key) == (200, value)
    for node in three:
        assert node.key("GET", "absent")[0] == 404  # and an empty value is not absent
        assert node.key("DELETE", "absent")[0] == 200

    b.stop(signal.SIGKILL)
    for number in range(20):
        expected[f"while away {number}"] = b"%d" % number
        assert c.key("POST", f"while away {number}", b"%d" % number)[0] == 200
    assert a.key("DELETE", "greeting")[0] == 200
    del expected["greeting"]
    b.start()
    for key, value in expected.items():
        assert b.key("GET", key) == (200, value)
    assert b.key("GET", "greeting")[0] == 404
    eventually("b came back as itself", partial(a.has_voters, {"a", "b", "c"}))

    d = cluster.add("d", c)
    a.stop(signal.SIGKILL)  # the one that everything began with
    assert d.key("POST", "last", b"word")[0] == 200
    expected["last"] = b"word"
    for node in (b, c, d):
        for key, value in expected.items():
            assert node.key("GET", key) == (200, value)


def test_after_all_were_killed_at_once_a_majority_has_everything_that_was_answered(cluster: Cluster) -> None:
    a = cluster.add("a")
    nodes = [a, cluster.add("b", a), cluster.add("c", a)]
    for number in range(60):
        assert nodes[number % 3].key("POST", f"{number}", b"v%d" % number)[0] == 200
    for node in nodes:
        node.stop(signal.SIGKILL)
    a.start()
    eventually("a listens", lambda: a.ask("GET", "/")[0] == 200 or None)
    with ThreadPoolExecutor() as both:  # alone it can't know what is true, nor make it so: it has the key, and says no
        for answer in [both.submit(a.ask, "GET", "/key/0"), both.submit(a.ask, "POST", "/key/0", b"alone")]:
            status, body = answer.result()
            assert (status, "outcome" in json.loads(body)) == (503, True)
    for node in nodes[1:]:
        node.start()
    for number in range(1, 60):
        assert nodes[(number + 1) % 3].key("GET", f"{number}") == (200, b"v%d" % number)


def test_what_makes_no_sense_is_said_and_harms_nothing(cluster: Cluster) -> None:
    a = cluster.add("a")
    assert a.key("POST", "k", b"v")[0] == 200
    for method, path, body, status in [
        ("GET", "/nowhere", None, 404),
        ("GET", "/key/", None, 404),
        ("PATCH", "/key/k", b"w", 405),
        ("POST", "/key/k", b"w" * ((1 << 20) + 1), 413),
        ("POST", "/raft/add", b"not json", 400),
        ("POST", "/raft/add", b"[1, 2]", 400),
        ("POST", "/raft/add", b'{"ID": "b"}', 400),
        ("POST", "/raft/add", b'{"ID": "b", "Address": "no address"}', 400),
    ]:
        try:
            answer = a.ask(method, path, body)
        except ConnectionError:
            assert status == 413  # the answer may be lost where the server ends it before the body is through
            continue
        assert answer[0] == status, (method, path, answer)
        assert json.loads(answer[1])["error"]
    connection = http.client.HTTPConnection("127.0.0.1", a.port, timeout=20)
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
    assert connection.sock.recv(12) == b"HTTP/1.1 400"
    connection.close()
    assert a.key("GET", "k") == (200, b"v")


def test_a_second_process_on_the_folder_is_told_so_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    a = cluster.add("a")
    assert a.key("POST", "k", b"v")[0] == 200
    command = [sys.executable, "-m", "examples.tutorial.server", "a", str(tmp_path / "a"), str(a.port + 1)]
    second = subprocess.run(
        [*command, str(a.port + 51)], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert "a can't run" in second.stderr
    assert "is held by the process with pid" in second.stderr
    assert second.stderr.count("\n") == 1
    assert a.key("GET", "k") == (200, b"v")  # and has touched nothing


def test_it_stops_in_order_when_it_is_told_to(cluster: Cluster) -> None:
    a = cluster.add("a")
    assert a.stop(signal.SIGTERM) == 0
    assert "Traceback" not in a.log()


# The state machine alone.


def command(key: bytes, value: bytes | None) -> bytes:
    return msgpack.encode(Command(key, value))


def filled(folder: Path, *keys: bytes) -> Store:
    store = Store(str(folder))
    store.apply_batch([Entry(at + 1, 1, command(key, b"v-" + key)) for at, key in enumerate(keys)])
    return store


def test_a_snapshot_is_of_one_moment_and_replaces_everything(tmp_path: Path) -> None:
    store = filled(tmp_path / "one", b"a", b"b")
    snapshot = store.snapshot()
    store.apply(Entry(3, 1, command(b"a", None)))
    stream = io.BytesIO()
    snapshot.persist(stream)
    snapshot.release()

    other = filled(tmp_path / "other", b"x")
    other.restore(io.BytesIO(stream.getvalue()))
    assert [other.local_get(key) for key in (b"a", b"b", b"x")] == [b"v-a", b"v-b", None]
    assert store.local_get(b"a") is None


def test_the_file_says_how_far_the_log_is_applied(tmp_path: Path) -> None:
    store = filled(tmp_path / "one", b"a", b"b")
    assert isinstance(store, DurableFSM)
    assert isinstance(store, BatchingFSM)
    again = Store(str(tmp_path / "one"))
    assert again.applied_index == 2
    assert again.local_get(b"b") == b"v-b"

    stream = io.BytesIO()
    store.snapshot().persist(stream)
    other = Store(str(tmp_path / "other"))
    assert other.applied_index == 0
    other.restore(io.BytesIO(stream.getvalue()))
    assert other.applied_index == 2


def test_a_write_that_fails_is_raised_and_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, b"a")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(OSError, match="No space"):
        store.apply(Entry(2, 1, command(b"b", b"v")))
    monkeypatch.undo()
    assert store.local_get(b"a") == b"v-a"
    assert store.local_get(b"b") is None


def add_keys(folder: str, first: int, together: Barrier) -> None:
    store = Store(folder)
    together.wait(60)
    for number in range(first, first + 20):
        store.apply(Entry(number, 1, command(b"%d" % number, b"v")))


def test_two_processes_lose_nothing_because_the_lock_is_held_from_load_to_save(tmp_path: Path) -> None:
    store = filled(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)  # or one may be through before the other has begun
    writers = [spawn.Process(target=add_keys, args=(str(tmp_path), first, together)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert all(store.local_get(b"%d" % number) == b"v" for first in (0, 100) for number in range(first, first + 20))
