"""The tutorial's system as its reader runs it: real processes, told to do things over HTTP, and killed."""

from __future__ import annotations

import http.client
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final, TypeVar

import pytest
from examples.tutorial.replicated import Change
from examples.tutorial.snapshots import Store as LongStore
from examples.tutorial.store import Add, Delete, Set, State, Store
from msgspec import msgpack

from syncline import Entry
from syncline.errors import Rejected
from syncline.node.fsm import BatchingFSM, DurableFSM
from tests.helpers.ports import free_block

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

    def __init__(self, name: str, folder: Path, first_port: int, member: str = "") -> None:
        self.name, self.port = name, first_port + "abcdefg".index(name)
        self.folder = folder
        self._log = folder / f"{name}.log"
        self._arguments = [name, *([member] if member else [])]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "TUTORIAL_PORT": str(first_port)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "examples.tutorial.server", *self._arguments],
                cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip

    def start_twice(self) -> subprocess.CompletedProcess[str]:
        """The same command in a second shell, on ports of its own."""
        return subprocess.run(
            [sys.executable, "-m", "examples.tutorial.server", *self._arguments], check=False, cwd=self.folder,
            capture_output=True, text=True, timeout=60,
            env={**self._environment, "TUTORIAL_PORT": str(free_block(110))},
        )  # fmt: skip

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
        """Ask for a key until it is answered: a node that has just lost the leader says 503."""

        def answered() -> tuple[int, bytes] | None:
            answer = self.ask(method, f"/key/{urllib.parse.quote(key, safe='')}", body)
            return answer if answer[0] < 500 else None

        return eventually(f"{self.name} answers {method} {key}", answered)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """a, b and c, as all tests of this file use them: each leaves them running."""
    folder, first_port = tmp_path_factory.mktemp("tutorial"), free_block(110)
    nodes = [Node(name, folder, first_port) for name in "abc"]
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in nodes:
            if node.running:
                node.stop()
            print(f"--- {node.name}\n{node.log()}")


def test_tutorial_values_of_all_kinds_are_read_on_all_nodes(cluster: list[Node]) -> None:
    a, b, c = cluster
    values = {"greeting": b"hello", "empty": b"", "a/b c%": b"\0\xff\r\n\r\n", "ключ": b"x" * 50_000}
    for (key, value), node, method in zip(values.items(), [a, b, c, b], ["PUT", "POST", "PUT", "POST"], strict=True):
        assert node.key(method, key, value) == (200, b"ok\n")
        for reader in cluster:  # at once: a read on any node sees what was answered on another
            assert reader.key("GET", key) == (200, value)
    for node in cluster:
        assert node.key("GET", "absent")[0] == 404, "an empty value is not absent"
        assert node.key("DELETE", "absent")[0] == 200


def test_tutorial_requests_without_sense_are_refused_and_harm_nothing(cluster: list[Node]) -> None:
    a = cluster[0]
    assert a.key("PUT", "k", b"v")[0] == 200
    for method, path, body, status in [
        ("GET", "/nowhere", None, 404),
        ("GET", "/key/", None, 404),
        ("PATCH", "/key/k", b"w", 501),
        ("PUT", "/key/k", b"w" * ((1 << 20) + 1), 413),
        ("POST", "/count/k", b"", 409),
        ("POST", "/join", b"not json", 400),
        ("POST", "/join", b"[1, 2]", 400),
        ("POST", "/join", b'{"name": "b"}', 400),
        ("POST", "/join", b'{"name": "x", "address": "no address", "id": 5}', 400),
    ]:
        try:
            answer = a.ask(method, path, body)
        except ConnectionError:
            assert status == 413  # the answer may be lost if the server ends it before the body is through
            continue
        assert answer[0] == status, (method, path, answer)
    assert a.key("GET", "k") == (200, b"v")


def test_tutorial_count_is_the_same_sequence_on_any_node(cluster: list[Node]) -> None:
    counts = [int(cluster[number % 3].ask("POST", "/count/visits")[1]) for number in range(9)]
    assert counts == list(range(1, 10))


def test_tutorial_second_process_on_a_folder_is_told_in_one_line(cluster: list[Node]) -> None:
    a = cluster[0]
    second = a.start_twice()
    assert second.returncode == 1
    assert "a can't run" in second.stderr
    assert "is held by the process with pid" in second.stderr
    assert second.stderr.count("\n") == 1
    assert a.key("PUT", "k", b"v")[0] == 200


@pytest.mark.parametrize(
    ("stage", "arguments", "words"),
    [
        ("server", [], "usage: python -m examples.tutorial.server NAME [URL_OF_A_MEMBER]"),
        ("server", ["z"], "usage: python -m examples.tutorial.server NAME [URL_OF_A_MEMBER]"),
        ("server", ["d"], "d joins: give the URL of a member, such as http://127.0.0.1:"),
        ("snapshots", ["d"], "usage: python -m examples.tutorial.snapshots NAME"),
    ],
)
def test_tutorial_wrong_arguments_are_told_in_one_line(stage: str, arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", f"examples.tutorial.{stage}", *arguments]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert ran.stderr.startswith(words)


def test_tutorial_joiner_waits_for_its_member(cluster: list[Node]) -> None:
    c = cluster[2]
    c.stop()
    d = Node("d", c.folder, c.port - 2, member=c.url)
    d.start()
    try:
        eventually("d says that it waits", lambda: f"d waits for {c.url}" in d.log() or None)
        c.start()
        assert c.key("PUT", "joined", b"yes")[0] == 200
        eventually("d has joined", lambda: d.ask("GET", "/key/joined") == (200, b"yes") or None)
        assert d.stop(signal.SIGTERM) == 0
        assert "Traceback" not in d.log()
    finally:
        if d.running:
            d.stop()


def test_tutorial_data_survives_that_all_nodes_are_killed_at_once(cluster: list[Node]) -> None:
    """The joiner of the test above is away, and a voter perhaps: the other three are a majority all the same."""
    for number in range(30):
        assert cluster[number % 3].key("PUT", f"{number}", b"v%d" % number)[0] == 200
    for node in cluster:
        node.stop(signal.SIGKILL)
    for node in cluster:
        node.start()
    for number in range(30):
        assert cluster[(number + 1) % 3].key("GET", f"{number}") == (200, b"v%d" % number)


# The state machine alone.


def command(key: str, value: bytes | None) -> bytes:
    return msgpack.encode(Delete(key) if value is None else Set(key, value))


def filled(folder: Path, *keys: str) -> Store:
    store = Store(str(folder))
    store.apply_batch([Entry(at + 1, 1, command(key, b"v-" + key.encode())) for at, key in enumerate(keys)])
    return store


def test_a_snapshot_is_of_one_moment_and_replaces_everything(tmp_path: Path) -> None:
    store = filled(tmp_path / "one", "a", "b")
    snapshot = store.snapshot()
    store.apply(Entry(3, 1, command("a", None)))
    stream = io.BytesIO()
    snapshot.persist(stream)
    snapshot.release()

    other = filled(tmp_path / "other", "x")
    other.restore(io.BytesIO(stream.getvalue()))
    assert [other.local_get(key) for key in ("a", "b", "x")] == [b"v-a", b"v-b", None]
    assert store.local_get("a") is None


def test_the_file_says_how_far_the_log_is_applied(tmp_path: Path) -> None:
    store = filled(tmp_path / "one", "a", "b")
    assert isinstance(store, DurableFSM)
    assert isinstance(store, BatchingFSM)
    again = Store(str(tmp_path / "one"))
    assert again.applied_index == 2
    assert again.local_get("b") == b"v-b"

    stream = io.BytesIO()
    store.snapshot().persist(stream)
    other = Store(str(tmp_path / "other"))
    assert other.applied_index == 0
    other.restore(io.BytesIO(stream.getvalue()))
    assert other.applied_index == 2


def test_a_write_that_fails_is_raised_and_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, "a")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(OSError, match="No space"):
        store.apply(Entry(2, 1, command("b", b"v")))
    monkeypatch.undo()
    assert store.local_get("a") == b"v-a"
    assert store.local_get("b") is None


def add_keys(folder: str, first: int, together: Barrier) -> None:
    store = Store(folder)
    together.wait(60)
    for number in range(first, first + 20):
        store.apply(Entry(number, 1, command(str(number), b"v")))


def test_two_processes_lose_nothing_under_one_lock(tmp_path: Path) -> None:
    store = filled(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)  # or one may be through before the other has begun
    writers = [spawn.Process(target=add_keys, args=(str(tmp_path), first, together)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert all(store.local_get(str(number)) == b"v" for first in (0, 100) for number in range(first, first + 20))


def test_tutorial_add_answers_with_the_number_and_refuses_text(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert [store.apply(Entry(at, 1, msgpack.encode(Add("n", 2)))) for at in (1, 2)] == [2, 4]
    store.apply(Entry(3, 1, command("n", b"many")))
    before = store.local_get("n"), store.applied_index
    with pytest.raises(Rejected, match="many"):
        store.apply(Entry(4, 1, msgpack.encode(Add("n"))))
    assert (store.local_get("n"), store.applied_index) == before


def test_tutorial_written_out_snapshot_is_the_short_one(tmp_path: Path) -> None:
    """Stage 4 and stage 5 write the same: `BytesSnapshot` is the class that was written out."""
    long, short = LongStore(str(tmp_path / "long")), Store(str(tmp_path / "short"))
    change = Change("k", b"v")
    long.apply(Entry(1, 1, msgpack.encode(change)))
    short.apply(Entry(1, 1, command("k", b"v")))
    streams = []
    for snapshot in (long.snapshot(), short.snapshot()):
        stream = io.BytesIO()
        snapshot.persist(stream)
        snapshot.release()
        streams.append(stream.getvalue())
    assert streams[0] == streams[1] == msgpack.encode(State(1, {"k": b"v"}))
    other = LongStore(str(tmp_path / "other"))
    other.restore(io.BytesIO(streams[1]))
    assert (other.local_get("k"), other.applied_index) == (b"v", 1)
