"""The harness itself: what it reads, what it compares, what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from syncline.consensus.types import (
    LOCAL_APPEND,
    EntryType,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    ReadState,
    Ready,
    Snapshot,
    SnapshotMeta,
)
from tests.conformance.__main__ import main
from tests.conformance.compare import difference, significant
from tests.conformance.datafile import Argument, FormatError, parse_bool, parse_line, read_cases, render
from tests.conformance.describe import Notation, changes_text, parse_changes, quote
from tests.conformance.output import Output
from tests.conformance.runner import find_files, rewrite_file, run_file
from tests.conformance.tables import naive_committed_index
from tests.conformance.verbs import Interaction

OWN = Path(__file__).with_name("traces")
REPOSITORY = Path(__file__).parents[2]


# -- the format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command", "arguments"),
    [
        ("stabilize", "stabilize", []),
        ("  propose 1   foo ", "propose", [("1", ()), ("foo", ())]),
        ("deliver-msgs 1 drop=(2,3)", "deliver-msgs", [("1", ()), ("drop", ("2", "3"))]),
        ("deliver-msgs drop=3 1", "deliver-msgs", [("drop", ("3",)), ("1", ())]),
        ("committed cfg=(1, 2) idx=(_,5)", "committed", [("cfg", ("1", "2")), ("idx", ("_", "5"))]),
        ("x a= b=()", "x", [("a", ("",)), ("b", ("",))]),
        ("x e=(f(a, b), c) d", "x", [("e", ("f(a, b)", "c")), ("d", ())]),
        ("", "", []),
    ],
)
def test_a_command_line_is_taken_apart(line: str, command: str, arguments: list[tuple[str, tuple[str, ...]]]) -> None:
    assert parse_line(line) == (command, tuple(Argument(key, values) for key, values in arguments))


@pytest.mark.parametrize("line", ["x a=(1,2", "x =1", "x e=(f(a)"])
def test_a_command_line_that_can_not_be_read_is_an_error(line: str) -> None:
    with pytest.raises(FormatError):
        parse_line(line)


FILE = """\
# A comment.

first 1 \\
  key=value
----
one
  two

subtest section

second
input
more
----
----
with

a blank line
----
----

third
----
"""


def test_a_file_is_read_case_by_case() -> None:
    first, second, third = read_cases(FILE)
    assert (first.command, first.arguments, first.expected) == (
        "first",
        (Argument("1"), Argument("key", ("value",))),
        "one\n  two",
    )
    assert (second.input, second.expected) == ("input\nmore", "with\n\na blank line")
    assert (third.line, third.input, third.expected) == (22, "", "")


def test_rewriting_replaces_outputs_and_keeps_the_rest() -> None:
    cases = list(read_cases(FILE))
    assert render(FILE, [(case, case.expected) for case in cases]) == FILE
    changed = render(FILE, [(cases[0], "new\n\nlines"), (cases[1], "short\n"), (cases[2], "ok")])
    assert [case.expected for case in read_cases(changed)] == ["new\n\nlines", "short", "ok"]
    assert changed.startswith("# A comment.\n\nfirst 1 \\\n  key=value\n----\n----\nnew\n")


@pytest.mark.parametrize("text", ["first\n", "first\n----\n----\nno end\n", "first a=(1\n----\n"])
def test_a_broken_file_is_an_error(text: str) -> None:
    with pytest.raises(FormatError):
        list(read_cases(text))


def test_truth_is_written_as_in_go() -> None:
    assert [parse_bool(text) for text in ("true", "1", "F", "False")] == [True, True, False, False]
    with pytest.raises(FormatError):
        parse_bool("yes")


# -- the comparison -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("ok", ""),
        ("INFO 1 became leader\n  DEBUG x", "ok"),
        ("a\n  INFO 1 something\nb\n", "a\nb"),
        ("a\nWARN x", "ERROR y\na\nFATAL z"),
    ],
)
def test_log_lines_do_not_count(expected: str, actual: str) -> None:
    assert difference(expected, actual) == ""


@pytest.mark.parametrize(
    ("expected", "actual"),
    [("ok", "a"), ("a", "ok"), ("a\nb", "b\na"), ("a", " a"), ("INFORMATION", "ok"), ("a", "a\n\nb"), ("ok\na", "a")],
)
def test_every_other_line_counts(expected: str, actual: str) -> None:
    diff = difference(expected, actual)
    assert diff.startswith("--- expected\n+++ actual\n")


def test_what_counts_of_an_output_is_without_its_log() -> None:
    assert significant("INFO x\na\n") == ["a"]
    assert significant("") == []


# -- the notation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", '""'),
        (b'a"b\\c', '"a\\"b\\\\c"'),
        (b"\n\t\x00\x7f", '"\\n\\t\\x00\\x7f"'),
        ("é\u200b".encode(), '"é\\u200b"'),
        (b"\xff\xfe", '"\\xff\\xfe"'),
    ],
)
def test_data_is_quoted_as_in_go(data: bytes, text: str) -> None:
    assert quote(data) == text


def test_changes_are_written_in_letters() -> None:
    assert changes_text(parse_changes("v1 l2 r3 u4")) == "v1 l2 r3 u4"
    for wrong in ("v", "x1", "vx"):
        with pytest.raises(ValueError, match=r"unknown|invalid"):
            parse_changes(wrong)


def test_a_message_shows_all_its_fields() -> None:
    snapshot = Snapshot(SnapshotMeta(7, 2, MembershipState((1, 2), (3,), (1,), (), True)))
    inner = Message(MessageType.STORAGE_APPEND_RESP, to=1, sender=LOCAL_APPEND, term=2, index=9, log_term=2)
    message = Message(
        MessageType.APP,
        to=LOCAL_APPEND,
        sender=26,
        term=2,
        log_term=1,
        index=5,
        entries=[LogEntry(1, 6, data=b"a"), LogEntry(2, 7, EntryType.CONF_CHANGE_V2)],
        commit=4,
        vote=3,
        snapshot=snapshot,
        reject=True,
        reject_hint=8,
        context=b"c",
        session=11,
        responses=[inner],
    )
    members = "Voters:[1 2] VotersOutgoing:[1] Learners:[3] LearnersNext:[] AutoLeave:true"
    lines = [
        "1a->AppendThread MsgApp Term:2 Log:1/5 Rejected (Hint: 8) Commit:4 Vote:3 Entries:[",
        '  1/6 EntryNormal "a"',
        "  2/7 EntryConfChangeV2",
        "]",
        f"  Snapshot: Index:7 Term:2 ConfState:{members} Responses:[",
        "  AppendThread->1 MsgStorageAppendResp Term:2 Log:2/9",
        "]",
    ]
    assert Notation().message(message).split("\n") == lines
    shown = Notation(sessions=True, contexts=True).message(message)
    assert ' Vote:3 Session:11 Context:"c" Entries:[' in shown


def test_an_empty_ready_and_one_with_a_read() -> None:
    assert Notation().ready(Ready()) == "<empty Ready>"
    ready = Ready(read_states=[ReadState(5, b"ab"), ReadState(6, b"")])
    assert Notation().ready(ready) == "Ready MustSync=false:\nReadStates [{5 [97 98]} {6 []}]\n"


def test_output_below_the_level_is_left_out_and_none_silences_all() -> None:
    output = Output()
    output.set_level("warn")
    output.trace("info", "unheard")
    output.trace("warning", "heard")
    with output.indented():
        output.write("inside\n\nlines")
    assert output.take() == "WARN heard\n  inside\n  \n  lines\n"
    output.set_level("NONE")
    output.write("x")
    output.trace("error", "x")
    assert output.take() == ""
    with pytest.raises(ValueError, match="log levels"):
        output.set_level("loud")


# -- runs ---------------------------------------------------------------------------------------------------------


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "add-nodes 1 voters=(1) index=2\n----\nok\n\nraft-state\n----\n1: StateFollower (Voter) Term:0 Lead:0\n"


def _outcome(text: str) -> str:
    interaction = Interaction()
    output = ""
    for case in read_cases(text):
        output = interaction.run(case)
    return output


@pytest.mark.parametrize(
    ("commands", "output"),
    [
        ("nonsense", "unknown command"),
        ("add-nodes 1 voters=(1) index=1", "index must be specified as > 1 due to bootstrap"),
        ("add-nodes 1 read-only=maybe", 'invalid read-only option "maybe"'),
        ("raft-state", "ok"),
        ("log-level loud", "log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]"),
        ("add-nodes 1 voters=(1) index=2\n----\n\npropose 1 x", "raft proposal dropped"),
        ("add-nodes 1 voters=(1) index=2\n----\n\npropose-conf-change 1 v1=true\nv2 v3", "v1 conf change can only"),
        ("add-nodes 1 voters=(1) index=2\n----\n\npropose-conf-change 1 transition=odd", "unknown transition odd"),
        ("add-nodes 1 voters=(1) index=2\n----\n\ndeliver-msgs 1", "no messages"),
        ("add-nodes 1 voters=(1) index=2\n----\n\nraft-log 1", "log is empty: first index=3, last index=2"),
        ("add-nodes 1 voters=(1) index=2\n----\n\nprocess-ready 1", "<empty Ready>"),
        ("add-nodes 1 voters=(1) index=2\n----\n\nprocess-append-thread 1", "no append work to perform"),
        ("add-nodes 1 voters=(1) index=2\n----\n\nreport-unreachable 1", "must specify exactly two node indexes"),
        ("raft-state 1\nlog-level none\nnonsense", "unknown command"),
    ],
)
def test_what_commands_say_when_there_is_little_to_say(commands: str, output: str) -> None:
    assert _outcome(commands + "\n----\n").splitlines()[-1].startswith(output)


def test_trace_that_differs_fails_at_its_line(tmp_path: Path) -> None:
    assert run_file(_write(tmp_path, "good.txt", GOOD)).failure == ""
    verdict = run_file(_write(tmp_path, "bad.txt", GOOD.replace("Term:0", "Term:1")))
    assert "bad.txt:5: raft-state" in verdict.failure
    assert "-1: StateFollower (Voter) Term:1 Lead:0" in verdict.failure
    assert "+1: StateFollower (Voter) Term:0 Lead:0" in verdict.failure


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "add-nodes x\n----\n", "campaign 1\n----\n", "add-nodes 1 a=(\n----\n", "vote cfg=x\n----\n"],
)
def test_a_file_that_can_not_be_run_fails(tmp_path: Path, text: str) -> None:
    assert run_file(_write(tmp_path, "broken.txt", text)).failure


def test_rewriting_records_what_happens_without_log_lines(tmp_path: Path) -> None:
    path = _write(tmp_path, "new.txt", "# Mine.\nadd-nodes 1 voters=(1) index=2\n----\n\nraft-state\n----\n")
    assert rewrite_file(path)
    assert path.read_text() == "# Mine.\n" + GOOD
    assert not rewrite_file(path)
    assert list(tmp_path.iterdir()) == [path]


def test_each_line_of_an_expected_output_is_compared(tmp_path: Path) -> None:
    # Take away any one line that counts from a trace: it must fail.
    source = OWN / "a_vote_is_remembered_across_a_restart.txt"
    lines = source.read_text().split("\n")
    tried = 0
    for case in read_cases(source.read_text()):
        start, end = case.output_lines
        for at in range(start, end):
            if lines[at] == "ok":
                continue
            tried += 1
            assert run_file(_write(tmp_path, "cut.txt", "\n".join(lines[:at] + lines[at + 1 :]))).failure
    assert tried > 10


def test_every_command_of_our_traces_is_run() -> None:
    for path in find_files([str(OWN)]):
        lines = path.read_text().split("\n")
        assert run_file(path).commands == lines.count("----"), path


def test_the_naive_quorum_counts_by_trying() -> None:
    assert naive_committed_index([1, 2, 3], {1: 5, 2: 3, 3: 4}) == 4
    assert naive_committed_index([1, 2], {1: 5}) == 0


# -- the command line ---------------------------------------------------------------------------------------------


def test_the_command_line_gives_a_line_per_file_and_a_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, "a.txt", GOOD)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"
    _write(tmp_path, "b.txt", GOOD.replace("Voter", "Learner"))
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("passed ")
    assert out[1].startswith("FAILED ")
    assert out[-1] == "1 passed, 1 failed"
    assert main(["--rewrite", str(tmp_path)]) == 0
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize("arguments", [[], ["/nowhere"]])
def test_a_command_line_that_can_not_be_used_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", GOOD)
    command = [sys.executable, "-m", "tests.conformance", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 passed, 0 failed"), done.stderr
