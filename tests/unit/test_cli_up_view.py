"""What `up` shows: on a terminal of any width, on one that can't move its cursor, and in lines."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from syncline.cli.up.command import make_view
from syncline.cli.up.live import LiveView
from syncline.cli.up.plan import UpPlan, make_plan, write_plan
from syncline.cli.up.pulse import NewLeader, Pulse
from syncline.cli.up.supervisor import UpNode
from syncline.cli.up.traces import Traces
from syncline.cli.up.view import JsonView, PlainView, how_to_use
from syncline.platform.disk import OsDisk
from syncline.server.config import load_config
from tests.helpers.command import syncline

MIB = 1 << 20


def node(at: int, state: str, *, term: int = 2, revision: int = 5_340_000) -> UpNode:
    if state in {"ended", "stopped"}:
        return UpNode(name=f"n{at}", http=f"http://127.0.0.1:{18000 + at}", peer="h:1", state=state)
    return UpNode(
        name=f"n{at}", http=f"http://127.0.0.1:{18000 + at}", peer=f"127.0.0.1:{18100 + at}", state=state, term=term,
        applied=revision, lag=120_000, revision=revision, pid=4_000_000 + at,
    )  # fmt: skip


def three(*states: str) -> list[UpNode]:
    return [node(at, state) for at, state in enumerate(states, 1)]


class Terminal:
    """A live view and what it has written."""

    def __init__(self, width: int) -> None:
        self.out = io.StringIO()
        self.console = Console(file=self.out, force_terminal=True, width=width, height=24, color_system=None)
        self.view = LiveView(self.console)

    def text(self) -> str:
        return self.out.getvalue()

    def drawn_since(self, start: int) -> list[str]:
        """The lines without what moves the cursor between them."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", self.out.getvalue()[start:])
        return [line.rstrip() for line in text.splitlines()]


@pytest.fixture
def plan(tmp_path: Path) -> UpPlan:
    return make_plan(str(tmp_path / "d"), nodes=3, port=18001)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal(80)
    yield found
    found.view.close()


def test_live_view_at_80_columns_breaks_no_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With five-digit ports, seven-digit pids and millions of writes: a broken line can't be copied."""
    monkeypatch.setattr(sys, "argv", ["syncline"])
    plan = make_plan("d", nodes=3, port=18001)
    terminal.view.show(three("leader", "follower", "unreachable"), "revision 5340000, 1200 writes/s")
    terminal.view.ready(plan, three("leader", "follower", "unreachable"))
    lines = terminal.drawn_since(0)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    row = next(line for line in lines if "n1" in line and "leader" in line)
    assert row.split()[-6:] == ["leader", "http://127.0.0.1:18001", "2", "120000", "5340000", "4000001"]
    assert "  export SYNCLINE_ENDPOINTS=http://127.0.0.1:18001,http://127.0.0.1:18002" in lines
    assert "revision 5340000, 1200 writes/s" in lines


def test_live_view_after_a_resize_clears_and_draws_again(terminal: Terminal) -> None:
    nodes = three("leader", "follower", "follower")
    terminal.view.show(nodes)
    terminal.view.say("n9 said this")
    start = len(terminal.text())
    terminal.view.show(nodes)
    assert len(terminal.text()) == start, "an idle cluster leaves the terminal alone"
    terminal.console.width = 60
    terminal.view.show(nodes)
    drawn = terminal.text()[start:]
    assert "\x1b[2J" in drawn
    assert drawn.index("n9 said this") < drawn.index("http://127.0.0.1:18003")


def test_live_views_last_frame_shows_stopped_nodes(terminal: Terminal, plan: UpPlan) -> None:
    terminal.view.show(three("leader", "follower", "follower"))
    terminal.view.ready(plan, three("leader", "follower", "follower"))
    start = len(terminal.text())
    terminal.view.show(three("stopped", "stopped", "stopped"))
    again = "syncline up --data-dir " + "d" * 80
    terminal.view.stopped("/somewhere/d", again)
    terminal.view.close()
    last = "\n".join(terminal.drawn_since(start)[-8:])
    assert last.count("stopped") == 3
    assert "the data are in /somewhere/d" in last
    assert f"to start it again: {again}" in last, "not broken, so that it can be copied"
    assert "curl" not in last, "nothing is there to be asked"


def test_hints_name_living_nodes_only(plan: UpPlan) -> None:
    hints = "\n".join(how_to_use(plan, three("ended", "follower", "leader")))
    assert "18001" not in hints
    assert "curl -X PUT http://127.0.0.1:18002/key/hello" in hints
    assert "kill" not in hints, "two of three are left: both are needed"
    assert "kill -9 4000003 " in "\n".join(how_to_use(plan, three("follower", "follower", "leader")))
    assert "curl" not in "\n".join(how_to_use(plan, three("ended", "ended", "starting")))


def test_plain_view_counts_the_nodes_that_run(plan: UpPlan, capsys: pytest.CaptureFixture[str]) -> None:
    """A node may have ended before the others were ready."""
    ended = msgspec.structs.replace(node(1, "ended"), note="ended with status 5 (log: d/n1/log)")
    PlainView().ready(plan, [ended, *three("ended", "follower", "leader")[1:]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("peers h:1  ended with status 5 (log: d/n1/log)")
    assert lines[2].endswith("pid 4000002")
    assert lines[4].startswith("ready: 2 of 3 nodes, data in ")


def test_live_hints_follow_a_nodes_end(terminal: Terminal, plan: UpPlan) -> None:
    terminal.view.show(three("leader", "follower", "follower"))
    terminal.view.ready(plan, three("leader", "follower", "follower"))
    start = len(terminal.text())
    terminal.view.show(three("ended", "leader", "follower"))
    drawn = "\n".join(terminal.drawn_since(start))
    assert "curl -X PUT http://127.0.0.1:18002/key/hello" in drawn
    assert "18001/key" not in drawn


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False), ("", False), ("unknown", False)])
def test_up_on_a_dumb_terminal_prints_lines(term: str, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emacs' shell and many editors: what moves the cursor there is shown as garbage, or not at all."""
    monkeypatch.setenv("TERM", term)
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", out)
    view = make_view(as_json=False)
    view.close()
    assert isinstance(view, LiveView if live else PlainView)


def test_new_leaders_are_told_once_each() -> None:
    pulse = Pulse(lambda: 0.0)
    assert pulse.see(three("starting", "follower", "candidate")) is None
    assert pulse.see(three("leader", "follower", "follower")) == NewLeader("n1", 2, "")
    assert pulse.see(three("leader", "follower", "follower")) is None
    assert pulse.see([node(1, "ended"), node(2, "follower"), node(3, "candidate", term=3)]) is None
    change = pulse.see([node(1, "ended"), node(2, "leader", term=3), node(3, "follower", term=3)])
    assert change is not None
    assert change.line == "n2 leads now (term 3); before: n1"
    both = [node(1, "leader", term=2), node(2, "unreachable", term=3), node(3, "follower", term=3)]
    assert pulse.see(both) is None, "n1 does not know yet that it lost"


def test_rate_is_that_of_the_last_two_seconds() -> None:
    now_s = 0.0
    pulse = Pulse(lambda: now_s)
    assert pulse.line == ""
    for revision in (0, 50, 100, 150, 200, 250):
        pulse.see([node(1, "leader", revision=revision)])
        now_s += 0.5
    assert pulse.line == "revision 250, 100 writes/s"
    for _ in range(6):
        pulse.see([node(1, "leader", revision=250), node(2, "follower", revision=249)])
        now_s += 0.5
    assert pulse.line == "revision 250, 0 writes/s"


def test_leader_changes_are_lines_and_events(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    change = NewLeader("n2", 3, "n1")
    PlainView().new_leader(change)
    JsonView().new_leader(change)
    assert capsysbinary.readouterr().out.splitlines() == [
        b"n2 leads now (term 3); before: n1",
        b'{"event":"leader","name":"n2","term":3,"before":"n1"}',
    ]


def test_segments_under_up_are_small(tmp_path: Path) -> None:
    """Three nodes of 64 MiB each would be a lot for a trial."""
    plan = make_plan(str(tmp_path / "d"), nodes=1, port=None)
    write_plan(plan, OsDisk())
    assert load_config(file=plan.nodes[0].config_path, environment={}).segment_bytes == 4 * MIB


def test_traces_of_a_start_are_removed_and_nothing_else(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path / "new" / "deeper"), nodes=2, port=None)
    traces = Traces(plan)
    write_plan(plan, OsDisk())
    traces.remove()
    assert list(tmp_path.iterdir()) == []

    used = tmp_path / "used"
    (used / "n1").mkdir(parents=True)
    (used / "n1" / "identity").write_text("x")
    (used / "notes").write_text("x")
    plan = make_plan(str(used), nodes=2, port=None)
    traces = Traces(plan)
    write_plan(plan, OsDisk())
    traces.remove()
    assert sorted(os.listdir(used)) == ["n1", "notes"]
    assert (used / "n1" / "identity").exists()


def test_detached_log_begins_again_when_it_is_full(tmp_path: Path) -> None:
    """In a process of its own: the view takes the standard streams of its process."""
    code = (
        "import sys; from syncline.cli.up import detach, plan as plans\n"
        "detach.LOG_BYTES = 100\n"
        f"plan = plans.make_plan({str(tmp_path)!r}, nodes=1, port=None)\n"
        "view = detach.DetachedView(plan, 2)\n"
        "for number in range(20): view.say(f'a line of some twenty bytes, {number}')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    text = (tmp_path / "up.log").read_text()
    assert len(text) < 200
    assert text.endswith("a line of some twenty bytes, 19\n")


@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
@pytest.mark.parametrize("flags", ["", "as_json"])
def test_detached_start_succeeds_if_its_output_can_not_be_written(output: str, flags: str, tmp_path: Path) -> None:
    """The cluster runs: after another status than 0 a script would start it again, or give up without stopping it."""
    up = tmp_path / "stand_in.py"
    node = '[{"name":"n1","http":"http://127.0.0.1:1","peer":"127.0.0.1:2","state":"leader","pid":1}]'
    up.write_text(f"import os, sys; os.write(int(sys.argv[sys.argv.index('--ready-fd') + 1]), b'ready {node}\\n')")
    code = (
        "import sys; from syncline.cli.log_lines import keep_standard_descriptors; from syncline.cli.up import detach\n"
        "keep_standard_descriptors()\n"
        f"detach._program = lambda: (sys.executable, {str(up)!r})\n"
        f"detach.start_detached({str(tmp_path)!r}, nodes=1, port=None, options=[], as_json={bool(flags)})\n"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {output}', sys.executable, code]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.startswith("syncline: done; the result could not be printed: ")


def test_down_succeeds_if_its_output_can_not_be_written(tmp_path: Path) -> None:
    write_plan(make_plan(str(tmp_path), nodes=1, port=18001), OsDisk())
    command = f'"{sys.executable}" -m syncline down --data-dir "{tmp_path}" >&-'
    ran = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "syncline: done; the result could not be printed: Bad file descriptor\n"


def test_down_tells_of_a_node_that_was_started_by_hand(tmp_path: Path) -> None:
    """`up` is not to stop such a node: then not all nodes are stopped."""
    plan = make_plan(str(tmp_path), nodes=3, port=18001)
    disk = OsDisk()
    write_plan(plan, disk)
    disk.make_dirs(plan.nodes[1].data_dir)
    lock = disk.lock(f"{plan.nodes[1].data_dir}/LOCK", b"4711\n")
    try:
        told = syncline("down", "--data-dir", str(tmp_path))
        as_json = syncline("down", "--json", "--data-dir", str(tmp_path)).json()
    finally:
        lock.release()
    assert "n2 (pid 4711) was started by hand and still runs" in told.text
    assert as_json["still_running"] == [{"name": "n2", "pid": 4711}]
    assert "still runs" not in syncline("down", "--data-dir", str(tmp_path)).text
