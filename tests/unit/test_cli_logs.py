"""`logs`: the lines of several nodes in the order of time, each record as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from syncline.cli.main import cli
from syncline.cli.up.plan import make_plan, write_plan
from syncline.platform.disk import OsDisk
from tests.helpers.command import syncline


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_plan(make_plan(str(tmp_path), nodes=2, port=None), OsDisk())
    (tmp_path / "n1" / "log").write_text(
        "2026-01-01T00:00:01.000+00:00 INFO    n1 node: first\n"
        "2026-01-01T00:00:03.000+00:00 ERROR   n1 node: third\nTraceback: of the third\n"
    )
    (tmp_path / "n2" / "log").write_text(
        "2026-01-01T00:00:02.000+00:00 INFO    n2 node: second\n2026-01-01T00:00:04.000+00:00 INFO    n2 node: fourth\n"
    )
    return tmp_path


def words(text: str) -> list[str]:
    return [line.rsplit(maxsplit=1)[-1] for line in text.splitlines()]


def test_logs_of_all_nodes_are_in_the_order_of_time(data_dir: Path) -> None:
    ran = syncline("logs", "--data-dir", str(data_dir))
    assert ran.status == 0
    assert words(ran.text) == ["first", "second", "third", "third", "fourth"], "a trace stays below its line"


def test_logs_of_one_node_are_its_last_lines(data_dir: Path) -> None:
    assert words(syncline("logs", "n2", "-n", "1", "--data-dir", str(data_dir)).text) == ["fourth"]
    assert words(syncline("logs", "n1", "-n", "0", "--data-dir", str(data_dir)).text) == []


def test_logs_as_json_are_in_the_order_of_time_too(data_dir: Path) -> None:
    (data_dir / "n1" / "log").write_text('{"time":"2026-01-01T00:00:02Z","message":"later"}\n')
    (data_dir / "n2" / "log").write_text('{"time":"2026-01-01T00:00:01Z","message":"sooner"}\n')
    lines = syncline("logs", "--data-dir", str(data_dir)).text.splitlines()
    assert ["sooner" in lines[0], "later" in lines[1]] == [True, True]


def test_logs_without_any_file_are_empty(data_dir: Path) -> None:
    (data_dir / "n1" / "log").unlink()
    ran = syncline("logs", "n1", "--data-dir", str(data_dir))
    assert (ran.status, ran.out) == (0, b"")


def test_logs_keep_a_line_that_is_not_ended_for_later(data_dir: Path) -> None:
    """It is being written; `-f` prints it when it is whole."""
    with (data_dir / "n2" / "log").open("a") as file:
        file.write("2026-01-01T00:00:05.000+00:00 INFO    n2 node: half")
    assert words(syncline("logs", "n2", "--data-dir", str(data_dir)).text) == ["second", "fourth"]


def test_logs_escape_what_a_terminal_obeys(data_dir: Path) -> None:
    """A library or the interpreter writes to a node's error output as well, and its text may be a client's."""
    line = "2026-01-01T00:00:09.000+00:00 INFO    n2 node: {} é \\n\tend"
    with (data_dir / "n2" / "log").open("ab") as file:
        file.write(line.format("\x1b[2J\x07\u009b1m\u202e\r").encode() + b"\xff\x9b\n")
    ran = syncline("logs", "n2", "-n", "1", "--data-dir", str(data_dir))
    assert ran.text == line.format("\\u001b[2J\\u0007\\u009b1m\\u202e\\u000d") + "\\xff\\x9b\n"


def test_logs_of_json_lines_stay_the_same_documents(data_dir: Path) -> None:
    text = '{"time":"2026-01-01T00:00:02Z","message":"a\\\\b \U000e0001 \x7f"}\n'
    (data_dir / "n1" / "log").write_text(text)
    printed = syncline("logs", "n1", "--data-dir", str(data_dir)).text
    assert json.loads(printed) == json.loads(text)
    assert "\x7f" not in printed


def test_logs_as_json_escape_what_a_terminal_obeys(data_dir: Path) -> None:
    """JSON allows U+007F to U+009F and marks of direction as they are."""
    text = "2026-01-01T00:00:02Z \u009b1m\u202e\x7f"
    (data_dir / "n1" / "log").write_text(text + "\n")
    printed = syncline("logs", "n1", "--json", "--data-dir", str(data_dir)).text
    assert json.loads(printed)["text"] == text
    assert printed.strip().isprintable()


def test_logs_with_json_give_a_node_and_a_text_for_each_record(data_dir: Path) -> None:
    with (data_dir / "n1" / "log").open("ab") as file:
        file.write(b"2026-01-01T00:00:09.000+00:00 INFO    n1 node: \xff\n")
    lines = [json.loads(line) for line in syncline("logs", "--json", "--data-dir", str(data_dir)).text.splitlines()]
    assert [line["node"] for line in lines] == ["n1", "n2", "n1", "n2", "n1"]
    assert lines[2]["text"].endswith("third\nTraceback: of the third")
    assert "text_base64" in lines[4]


def test_secret_new_with_json_names_the_file_or_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert syncline("secret", "new", "--output", str(path), "--json").json() == {"file": str(path)}
    printed = syncline("secret", "new", "--output", "-", "--json").json()["secret"]
    assert isinstance(printed, str)
    assert len(bytes.fromhex(printed)) == 32
    again = syncline("secret", "new", "--output", str(path), "--json")
    assert "error" in json.loads(again.err)


def test_commands_take_json() -> None:
    """All but a server, a session of other commands, and a script for the shell."""

    def lacking(group: click.Group, path: str) -> Iterator[str]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from lacking(command, f"{path} {name}")
            elif command is not None and not any("--json" in one.opts for one in command.params):
                yield f"{path} {name}".strip()

    assert sorted(lacking(cli, "")) == sorted(["serve", "shell", "completion"])
