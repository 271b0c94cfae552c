"""The command at its edges: closed and full streams, names that could deceive, words of other tools, interruptions."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.cli.output import shown
from tests.helpers.command import syncline
from tests.helpers.http_server import (
    HANG,
    HttpDouble,
    HttpRequest,
    KeyDouble,
    Reply,
    StoredValue,
    in_thread,
    json_reply,
)


@pytest.fixture
def keys() -> KeyDouble:
    return KeyDouble()


@pytest.fixture
def server(keys: KeyDouble) -> Iterator[HttpDouble]:
    with in_thread(keys) as (double,):
        yield double


def shell(line: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `syncline` is the command."""
    command = f'syncline() {{ {sys.executable} -m syncline "$@"; }}; {line}'
    environment = {**os.environ, "SYNCLINE_ENDPOINTS": url}
    return subprocess.run(
        ["sh", "-c", command], env=environment, check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("line", ["put k v <&-", "put k v 2>&-", "get k <&-", "get k 2>&-"])
def test_cli_closed_stream_is_no_internal_error(line: str, keys: KeyDouble, server: HttpDouble) -> None:
    keys.keys[b"k"] = StoredValue(b"v", 1, 1, 1)
    ran = shell(f"syncline {line}", server.url)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("line", ["get k", "list", "--help", "--version", "completion bash", "logs --help"])
def test_cli_result_fails_if_the_output_is_closed(line: str, keys: KeyDouble, server: HttpDouble) -> None:
    """A script that has closed the output by mistake must not take the missing result for an empty one."""
    keys.keys[b"k"] = StoredValue(b"v", 1, 1, 1)
    ran = shell(f"syncline {line} >&-", server.url)
    assert (ran.returncode, ran.stderr) == (1, "syncline: the output can't be written: Bad file descriptor\n")


def test_cli_acknowledged_write_does_not_fail_for_a_closed_output(keys: KeyDouble, server: HttpDouble) -> None:
    ran = shell("syncline put k applied >&-", server.url)
    assert keys.keys[b"k"].value == b"applied"
    assert ran.returncode == 0
    assert ran.stderr == "syncline: done; the result could not be printed: Bad file descriptor\n"


def test_cli_error_line_never_goes_to_the_output(server: HttpDouble) -> None:
    ran = shell("syncline get nokey 2>&-", server.url)
    assert (ran.returncode, ran.stdout) == (3, "")


def test_cli_acknowledged_write_does_not_fail_for_its_output(keys: KeyDouble, server: HttpDouble) -> None:
    """The write is done: an exit status of 1 would make scripts write again, or give up."""
    ran = shell("syncline put k applied >/dev/full", server.url)
    assert keys.keys[b"k"].value == b"applied"
    assert ran.returncode == 0
    assert "done; the result could not be printed: No space left" in ran.stderr


def test_cli_acknowledged_write_does_not_fail_for_a_closed_pipe(keys: KeyDouble, server: HttpDouble) -> None:
    ran = shell("(syncline put k applied; echo status $? >&2) | true", server.url)
    assert keys.keys[b"k"].value == b"applied"
    assert "status 0" in ran.stderr


def test_cli_read_fails_if_its_output_can_not_be_written(keys: KeyDouble, server: HttpDouble) -> None:
    keys.keys[b"k"] = StoredValue(b"v", 1, 1, 1)
    for command in ("get k", "list", "--help"):
        ran = shell(f"syncline {command} >/dev/full", server.url)
        assert ran.returncode == 1
        assert ran.stderr == "syncline: the output can't be written: No space left on device\n"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain \xc3\xa9", "plain é"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xc2\x9b31m", "\\u009b31m"),
        ("a\u202eb".encode(), "a\\u202eb"),
        ("\u2066x\u2069".encode(), "\\u2066x\\u2069"),
        ("\U000e0001".encode(), "\\U000e0001"),
        (b"back\\slash", "back\\\\slash"),
        (b"\xff", "\\xff"),
    ],
)
def test_cli_names_are_escaped_if_they_are_not_printable(data: bytes, text: str) -> None:
    """C1 controls are obeyed by some terminals; marks of direction make one name look like another."""
    assert shown(data) == text


@pytest.mark.parametrize(("alias", "command"), [("ls", "list"), ("rm", "del"), ("delete", "del"), ("set", "put")])
def test_cli_words_of_other_tools_are_understood(alias: str, command: str) -> None:
    helped, expected = syncline(alias, "--help"), syncline(command, "--help")
    assert helped.status == 0
    assert helped.text.splitlines()[2:] == expected.text.splitlines()[2:]


@pytest.mark.parametrize(("mistyped", "meant"), [("statsu", "status"), ("improt", "import"), ("members", "member")])
def test_cli_unknown_command_suggests_a_known_one(mistyped: str, meant: str) -> None:
    failed = syncline(mistyped)
    assert failed.status == 2
    assert f"did you mean {meant!r}?" in failed.error()


def test_cli_unknown_command_like_no_other_suggests_nothing() -> None:
    assert "did you mean" not in syncline("xyzzy").error()


def test_cli_endpoints_may_stand_before_the_command(keys: KeyDouble, server: HttpDouble) -> None:
    keys.keys[b"k"] = StoredValue(b"v", 1, 1, 1)
    assert syncline("--endpoints", server.url, "get", "k").out == b"v"
    other = "http://127.0.0.1:9"
    assert syncline("--endpoints", other, "get", "k", "--endpoints", server.url).out == b"v", "the nearer one wins"
    assert syncline("--endpoints", server.url, "get", "k", endpoints=other).out == b"v", "a word beats the environment"


def test_cli_unreachable_default_cluster_names_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.cli.common.DEFAULT_ENDPOINTS", "http://127.0.0.1:9")
    failed = syncline("get", "k")
    assert failed.status == 4
    assert "syncline up" in failed.error()
    assert "syncline up" not in syncline("get", "k", endpoints="http://127.0.0.1:9").error()


def test_cli_put_of_an_empty_input_asks_for_a_file_option(keys: KeyDouble, server: HttpDouble) -> None:
    failed = syncline("put", "k", endpoints=server.url)
    assert failed.status == 2
    assert "--file -" in failed.error()
    assert b"k" not in keys.keys
    assert syncline("put", "k", "--file", "-", endpoints=server.url).status == 0
    assert keys.keys[b"k"].value == b""


def deleting(keys: KeyDouble) -> None:
    """Let the double run the one transaction that these tests send."""

    def answer(request: HttpRequest) -> Reply:
        operations = request.json()["then"]
        assert isinstance(operations, list)
        prefix = operations[0]["prefix"].encode()
        gone = [key for key in keys.keys if key.startswith(prefix)]
        for key in gone:
            del keys.keys[key]
        result = {"op": "delete_range", "deleted": len(gone)}
        return json_reply({"succeeded": True, "revision": 9, "results": [result]})

    keys.answers["/txn"] = answer


def test_cli_delete_of_a_prefix_needs_a_confirmation(keys: KeyDouble, server: HttpDouble) -> None:
    deleting(keys)
    for name in (b"a/1", b"a/2", b"b"):
        keys.keys[name] = StoredValue(b"v", 1, 1, 1)
    asked = syncline("del", "--prefix", "a/", endpoints=server.url)
    assert asked.status == 2
    assert "this deletes 2 keys: give --yes" in asked.error()
    assert len(keys.keys) == 3
    done = syncline("del", "--prefix", "a/", "--yes", endpoints=server.url)
    assert (done.status, done.text) == (0, "deleted 2 keys, revision 9\n")
    assert list(keys.keys) == [b"b"]
    assert syncline("del", "--prefix", "a/", "--yes", endpoints=server.url).status == 3


def test_cli_delete_of_a_prefix_takes_no_revision(server: HttpDouble) -> None:
    assert syncline("del", "--prefix", "a/", "--if-revision", "3", "--yes", endpoints=server.url).status == 2


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o440])
def test_cli_export_keeps_the_mode_of_a_replaced_file(
    mode: int, tmp_path: Path, keys: KeyDouble, server: HttpDouble
) -> None:
    """A file that only its owner can read must not become readable for all by an export."""
    keys.keys[b"file"] = StoredValue(b"new", 1, 1, 1)
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(mode)
    assert syncline("export", str(tmp_path), endpoints=server.url).status == 0
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_cli_interrupted_import_says_how_far_it_came(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(b"x")
    arrived = threading.Event()

    async def second_hangs(request: HttpRequest) -> Reply:
        if request.path.endswith("/0"):
            return json_reply({"status": "success", "revision": 1})
        arrived.set()
        return HANG

    with in_thread(second_hangs) as (double,):
        command = [sys.executable, "-m", "syncline", "import", str(tmp_path), "--endpoints", double.url]
        command += ["--concurrency", "1"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert arrived.wait(30)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "file was done before it" in err
    assert "Traceback" not in err


def test_cli_refused_upload_prints_no_traceback(tmp_path: Path) -> None:
    """The server answers and closes while the client still sends."""
    (tmp_path / "large").write_bytes(bytes(8 << 20))
    refused = b"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    with EarlyAnswer(refused) as url:
        command = [sys.executable, "-m", "syncline", "import", str(tmp_path), "--endpoints", url]
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr


class EarlyAnswer:
    """A server that answers as soon as the header is there, and then reads the rest."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(self._answer)
                    while connection.recv(1 << 20):
                        pass
        except OSError:
            return  # the test is over, or the client has left


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["get", "k", "--timeout"], "syncline get"),
        (["member", "add", "--learner", "--timeout"], "syncline member add"),
        (["put", "k", "v", "--json", "--endpoints"], "syncline put"),
        (["--endpoints"], "syncline"),
        (["get", "k", "--unknown"], "syncline get"),
        (["get", ""], "syncline get"),
        (["ls", "--timeout"], "syncline ls"),
    ],
)
def test_cli_usage_error_names_the_help_of_its_command(arguments: list[str], command: str) -> None:
    """An option without its argument is found by click's parser, whose errors name no command."""
    failed = syncline(*arguments)
    assert failed.status == 2
    assert f"(see '{command} --help')" in failed.err
