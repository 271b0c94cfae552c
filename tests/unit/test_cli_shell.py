"""`syncline shell`: commands one after the other, with history and completion."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

from syncline.cli.main import cli
from syncline.cli.shell.completer import Completer
from tests.helpers.command import syncline
from tests.helpers.site_server import site_in_thread
from tests.helpers.terminal import on_terminal


def test_shell_runs_each_line_of_its_input() -> None:
    with site_in_thread() as site:
        ran = syncline(
            "shell", "--endpoints", site.url, stdin=b'# a comment\n\nput a "two words"\nlist\nexit\nput b 1\n'
        )
        assert (ran.status, ran.err) == (0, "")
        assert ran.text == "revision 1\na\n"


def test_shell_goes_on_after_errors_and_ends_with_one() -> None:
    with site_in_thread() as site:
        ran = syncline("--endpoints", site.url, "shell", stdin=b'get none\nput "x\nshell\nnothing\nput a 1\n')
    assert ran.status == 1
    assert ran.text == "revision 1\n"
    told = ran.err.splitlines()
    assert len(told) == 4
    assert "key not found" in told[0]
    assert told[1] == 'syncline: no closing quotation: put "x'
    assert "can't be used inside" in told[2]
    assert "No such command 'nothing'" in told[3]


def test_shell_help_explains_a_command() -> None:
    ran = syncline("shell", stdin=b"help put\nhelp\n")
    assert "Write a key." in ran.text
    assert "Commands:" in ran.text


def test_shell_on_a_terminal_completes_and_keeps_its_history(tmp_path: Path) -> None:
    history = tmp_path / "history"
    history.write_text("list\n")
    history.chmod(0o644)
    with (
        site_in_thread() as site,
        on_terminal(
            "shell", environment={"SYNCLINE_ENDPOINTS": site.url, "SYNCLINE_HISTORY": str(history)}
        ) as terminal,
    ):
        terminal.until("syncline> ")
        terminal.types("put greeting hello\n")
        terminal.until("revision 1")
        terminal.until("syncline> ")
        terminal.types("get gre\t\n")
        terminal.until("get greeting")
        terminal.until("hello")
        terminal.until("syncline> ")
        terminal.interrupts("syncline> ")
        terminal.types("exit\n")
        assert terminal.ended() == 0
    assert history.read_text().splitlines()[-3:] == ["put greeting hello", "get greeting", "exit"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_shell_completer_knows_commands_options_and_keys() -> None:
    with site_in_thread() as site:
        assert syncline("put", "jobs/one", "1", endpoints=site.url).status == 0
        completer = Completer(cli, site.url, ("exit", "help"))
        assert completer.candidates("ex", "ex") == ["exit", "export"]
        assert completer.candidates("get jobs/", "jobs/") == ["jobs/one"]
        assert "--consistency" in completer.candidates("get --con", "--con")
        assert completer.candidates('put "a b', "b") == []
        for key in ("a'b", 'c"d', "e\\f"):
            assert syncline("put", key, "1", endpoints=site.url).status == 0
            [found] = completer.candidates(f"get {key[0]}", key[0])
            assert shlex.split(found) == [key]
            assert completer.candidates(f"get {found[:3]}", found[:3]) == [found]
        assert completer("get jo", "jo", 0) == "jobs/"
        assert completer("get jo", "jo", 1) is None
