"""`get`, `put`, `del`, `list` against a server with keys in it, and how every error ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from syncline.cli.main import cli
from tests.helpers.command import Ran, syncline
from tests.helpers.http_server import (
    HANG,
    HttpDouble,
    HttpRequest,
    KeyDouble,
    Reply,
    StoredValue,
    error_reply,
    in_thread,
    refused_url,
    scripted,
)


@pytest.fixture
def keys() -> KeyDouble:
    return KeyDouble(page_limit=2, max_value_bytes=1000)


@pytest.fixture
def server(keys: KeyDouble) -> Iterator[HttpDouble]:
    with in_thread(keys) as (double,):
        yield double


@pytest.fixture
def run(server: HttpDouble) -> Runner:
    return Runner(server.url)


class Runner:
    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return syncline(*arguments, stdin=stdin, endpoints=self.url)


def test_a_value_comes_back_byte_for_byte(run: Runner) -> None:
    data = bytes(range(256))
    assert run("put", "a/b", stdin=data).text == "revision 1\n"
    found = run("get", "a/b")
    assert (found.status, found.out, found.err) == (0, data, "")


def test_a_value_comes_from_the_argument_the_input_or_a_file(run: Runner, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "value")
    with open(path, "wb") as file:
        file.write(b"from a file")
    run("put", "k1", "an argument")
    run("put", "k2", "--file", path)
    run("put", "k3", "--file", "-", stdin=b"from the input")
    run("put", "--", "-k4", "-v")
    run("put", "k5", "")
    values = [run("get", *name).out for name in (("k1",), ("k2",), ("k3",), ("--", "-k4"), ("k5",))]
    assert values == [b"an argument", b"from a file", b"from the input", b"-v", b""]


def test_two_values_are_one_too_many(run: Runner) -> None:
    assert "not both" in run("put", "k", "v", "--file", "x").error()


def test_a_file_that_is_not_there_is_told(run: Runner) -> None:
    failed = run("put", "k", "--file", "/no/such/file")
    assert (failed.status, "No such file" in failed.error()) == (2, True)


def test_an_absent_key_is_an_error_with_its_own_status(run: Runner) -> None:
    for arguments in (("get", "nothing"), ("del", "nothing")):
        failed = run(*arguments)
        assert (failed.status, failed.out, failed.error()) == (3, b"", "syncline: key not found: nothing")


def test_an_error_can_be_json(run: Runner) -> None:
    failed = run("get", "nothing", "--json")
    assert failed.status == 3
    assert json.loads(failed.err) == {"error": {"code": "not_found", "message": "key not found: nothing"}}


def test_json_tells_all_there_is(run: Runner) -> None:
    assert run("put", "k", "v", "--json").json() == {"key": "k", "revision": 1}
    assert run("get", "k", "--json").json() == {"key": "k", "value": "v", "mod_revision": 1, "revision": 1}
    assert run("del", "k", "--json").json() == {"key": "k", "deleted": True, "revision": 2}
    run("put", "k", stdin=b"\xff")
    assert run("get", "k", "--json").json()["value_base64"] == "/w=="


def test_conditions_have_a_status_of_their_own(run: Runner) -> None:
    assert run("put", "k", "1", "--if-present").status == 6
    assert run("put", "k", "1", "--if-absent").status == 0
    assert run("put", "k", "2", "--if-absent").status == 6
    assert run("put", "k", "2", "--if-revision", "1").status == 0
    assert run("del", "k", "--if-revision", "1").status == 6
    assert run("del", "k", "--if-revision", "2").text == "deleted, revision 3\n"
    assert run("put", "k", "1", "--if-absent", "--if-present").status == 2


def test_a_listing_goes_over_all_pages_in_order(run: Runner) -> None:
    for name in ("b", "a/2", "a/1", "c", "a\nb"):
        run("put", name, f"value of {name}")
    assert run("list").text.splitlines() == ["a\\nb", "a/1", "a/2", "b", "c"]
    assert run("list", "a/").text.splitlines() == ["a/1", "a/2"]
    assert run("list", "--reverse", "--limit", "3").text.splitlines() == ["c", "b", "a/2"]
    assert run("list", "a", "--count").text == "3\n"
    assert run("list", "a/", "--values").text.splitlines() == ["a/1\tvalue of a/1", "a/2\tvalue of a/2"]


@pytest.mark.parametrize("counted", [(), ("--count",)])
def test_a_listing_is_as_fresh_as_it_was_asked_to_be(run: Runner, server: HttpDouble, counted: tuple[str, ...]) -> None:
    assert run("list", "--consistency", "stale", *counted).status == 0
    assert [request.parameters.get("consistency") for request in server.requests] == ["stale"]


def test_a_listing_as_json_is_one_document(run: Runner) -> None:
    assert run("list", "--json").json() == {"keys": [], "count": 0, "revision": 0}
    for name in ("b", "a", "c"):
        run("put", name, "v")
    found = run("list", "--json", "--values").json()
    assert (found["count"], found["revision"]) == (3, 3)
    listed = found["keys"]
    assert isinstance(listed, list)
    assert [(item["key"], item["value"], item["mod_revision"]) for item in listed] == [
        ("a", "v", 2), ("b", "v", 1), ("c", "v", 3)
    ]  # fmt: skip
    assert run("list", "--count", "--json").json() == {"count": 3, "revision": 3}


def test_a_key_may_be_any_bytes_that_the_shell_passes(run: Runner, keys: KeyDouble) -> None:
    name = os.fsdecode(b"\xff\\x")
    assert run("put", name, "v").status == 0
    assert list(keys.keys) == [b"\xff\\x"]
    assert run("get", name).out == b"v"
    assert run("list").text == "\\xff\\\\x\n"
    assert run("get", name, "--json").json()["key_base64"] == "/1x4"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("bad",), 2, "No such command 'bad'"),
        (("--bad",), 2, "No such option"),
        (("get",), 2, "Missing argument"),
        (("get", "k", "--bad"), 2, "No such option"),
        (("get", ""), 2, "must not be empty"),
        (("get", "k", "--timeout", "x"), 2, "not a time"),
        (("get", "k", "--timeout", "0"), 2, "not a time"),
        (("get", "k", "--consistency", "x"), 2, "linearizable"),
        (("get", "k", "--endpoints", "ftp://x"), 2, "scheme"),
        (("get", "k", "--endpoints", "https://127.0.0.1:1", "--cacert", "/none"), 2, "--cacert '/none'"),
        (("list", "--limit", "0"), 2, "--limit"),
        (("put", "k", "x" * 1001), 1, "above 1000 bytes"),
    ],
)
def test_bad_input_is_one_line_and_a_status(run: Runner, arguments: tuple[str, ...], status: int, words: str) -> None:
    failed = run(*arguments)
    assert (failed.status, failed.out) == (status, b"")
    assert words in failed.error()


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    url = refused_url()
    failed = syncline("get", "k", endpoints=url)
    assert failed.status == 4
    assert failed.error() == f"syncline: can't reach {url}: connection refused"


def test_a_server_that_is_none_of_ours_is_told() -> None:
    with in_thread(scripted(Reply(raw=b"SSH-2.0-x\r\n", close=True))) as (double,):
        assert "is this the address of a Syncline server?" in syncline("get", "k", endpoints=double.url).error()


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (error_reply(503, "no_leader", message="nobody leads"), 4, "nobody leads"),
        (error_reply(504, "deadline_exceeded", "unknown", "too slow"), 5, "outcome unknown: read before"),
        (error_reply(507, "disk_full", message="the disk is full"), 1, "the disk is full"),
        (error_reply(500, "internal", "unknown", "a fault\nof ours"), 5, "a fault of ours"),
    ],
)
def test_each_outcome_has_its_status(reply: Reply, status: int, words: str) -> None:
    with in_thread(scripted(reply)) as (double,):
        failed = syncline("put", "k", "v", "--timeout", "300ms", endpoints=double.url)
    assert failed.status == status
    assert words in failed.error()


def test_help_names_every_command_and_the_statuses() -> None:
    text = syncline("--help").text
    for name in cli.list_commands(None):  # type: ignore[arg-type]
        assert f"  {name} " in text
    assert "outcome unknown" in text


@pytest.mark.parametrize("name", cli.list_commands(None))  # type: ignore[arg-type]
def test_every_command_has_help(name: str) -> None:
    ran = syncline(name, "--help")
    assert ran.status == 0
    assert ran.text.startswith(f"Usage: syncline {name}")


def test_the_version_is_told_without_loading_the_rest() -> None:
    code = (
        "import sys; from syncline.cli.main import main; main(['--version'])\n"
        "heavy = {'asyncio', 'rich', 'httptools', 'uvloop', 'ssl', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (0, "syncline 0.1.0\n"), ran.stderr


def test_a_client_command_does_not_load_rich() -> None:
    code = (
        "import sys; from syncline.cli.main import main; main(['get', 'k', '--endpoints', 'http://127.0.0.1:1'])\n"
        "sys.exit('rich' in sys.modules or 'syncline.node' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr


def test_an_interrupted_command_is_one_line_and_its_status() -> None:
    arrived = threading.Event()

    async def hanging(_: HttpRequest) -> Reply:
        arrived.set()
        return HANG

    with in_thread(hanging) as (double,):
        command = [sys.executable, "-m", "syncline", "get", "k", "--endpoints", double.url, "--timeout", "60s"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert arrived.wait(30)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, "syncline: interrupted")


def test_control_characters_of_a_server_do_not_reach_the_terminal() -> None:
    with in_thread(scripted(error_reply(400, "bad_request", message="\x1b[31mred\x07\nline"))) as (double,):
        assert syncline("get", "k", endpoints=double.url).error() == "syncline: \ufffd[31mred\ufffd line"


def test_a_reader_that_goes_away_is_no_traceback(keys: KeyDouble, server: HttpDouble) -> None:
    for number in range(3000):
        keys.keys[b"key-%05d" % number] = StoredValue(b"v" * 100, 1, 1, 1)
    keys.page_limit = 1000
    command = [sys.executable, "-m", "syncline", "list", "--endpoints", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_put_and_delete_send_one_request_each(run: Runner, server: HttpDouble) -> None:
    """They open no session for a single write: that would be a second round trip."""
    run("put", "a", "1")
    run("del", "a")
    assert [(request.method, request.path) for request in server.requests] == [("PUT", "/key/a"), ("DELETE", "/key/a")]
