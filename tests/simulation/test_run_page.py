"""A run as a page: the invariant that broke is marked at its moment, texts are escaped, the length has a limit."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from syncline.testing.sim import timeline
from syncline.testing.sim.page import Run, page_of
from syncline.testing.sim.recorded import run_of
from syncline.testing.sim.seeds import Options
from syncline.testing.sim.timeline import Lane, Moment
from syncline.testing.simulate import main
from tests.mutations.nodes import members_listed_wrongly_while_joint

HOSTILE = "<script>alert('x')</script>&\"\x00\ud800"
VOID = {"meta", "input", "br"}


class Balance(HTMLParser):
    """Each tag that is opened is closed, in order. Collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> ET.Element:
    """The drawing of a page that is sound HTML, without a script and without an outside address."""
    balance = Balance()
    balance.feed(page)
    balance.close()
    assert balance.open == []
    assert "script" not in balance.tags
    assert all(address.startswith("#") for address in balance.addresses)
    assert "url(http" not in page
    drawing = re.search(r"<svg class='picture'.*?</svg>", page, re.DOTALL)
    assert drawing is not None
    return ET.fromstring(drawing.group())


def texts(drawing: ET.Element) -> list[str]:
    """What is written in the drawing, from the top to the bottom: the texts, without their tips."""
    found = [(float(text.get("y", "0")), (text.text or "") + "".join(part.tail or "" for part in text))
             for text in drawing.iter("text")]  # fmt: skip
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def test_page_of_a_planted_bug_marks_the_invariant_at_its_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bug shows when a membership becomes joint: the mark is right below that line."""
    members_listed_wrongly_while_joint(monkeypatch)
    file = tmp_path / "run.html"
    command = "--seed 1 --nodes 5 --sim-seconds 1.1 --faults joint --clients none --shrink-seconds 0"
    assert main([*command.split(), "--html", str(file)]) == 1
    assert f"the run as a page: {file}" in capsys.readouterr().out
    page = file.read_text()
    drawing = checked(page)
    (mark,) = [part for part in drawing.iter("rect") if part.get("id") == "broken"]
    written = texts(drawing)
    at = next(number for number, text in enumerate(written) if text.startswith("✗ members are listed"))
    assert any(text.startswith("membership at ") for text in written[at - 3 : at])
    assert float(mark.get("y", "0")) > float(drawing.get("height", "0")) * 0.9
    assert '<p class="verdict bad"><a href="#broken">Broken</a>: members are listed' in page
    assert "--seed 1 --nodes 5" in page
    roles = {part.get("class") for part in drawing.iter("line")}
    assert {"line leader", "line follower", "line down", "arrow message vote", "arrow message append"} <= roles


def test_page_of_a_seed_that_holds_shows_the_newest_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_MOMENTS", 120)
    run = run_of(5, Options(nodes=3, sim_seconds=0.5, faults=("power",), trace=True), command="replay")
    page = page_of(run)
    drawing = checked(page)
    assert len(run.moments) == 120
    assert run.left_out > 500
    assert f"The picture shows the newest 120 events; {run.left_out} before them are left out." in page
    assert "All invariants held." in page
    assert {lane.role for lane in run.before.values()} == {"leader", "follower"}
    first = {part.get("class") for part in drawing.iter("line") if part.get("y1") == "16"}
    assert "line leader" in first, "the state before the first event that is kept"


def test_timeline_matches_messages_with_their_arrivals() -> None:
    """Each arrival has its sending before it, between the same two nodes, and some messages are lost."""
    run = run_of(5, Options(nodes=3, sim_seconds=0.8, faults=("power",), trace=True), command="replay")
    sent = {moment.number: (at, moment) for at, moment in enumerate(run.moments) if moment.kind == "sent"}
    heard = [(at, moment) for at, moment in enumerate(run.moments) if moment.kind == "heard"]
    assert len(heard) > 50
    known = [(sent[moment.number], at, moment) for at, moment in heard if moment.number in sent]
    assert len(known) > len(heard) * 0.9
    for (left_at, left), arrived_at, arrived in known:
        assert left_at < arrived_at
        assert (left.lane, left.peer) == (arrived.peer, arrived.lane)
    numbered = {number for number in sent if number}
    assert numbered - {moment.number for _, moment in heard}, "what was under way when the power failed did not arrive"


def test_page_escapes_all_texts_of_a_run() -> None:
    moments = [
        Moment(at_s=0.5, lane=lane, kind=kind, text=HOSTILE, role="leader", term=1, peer="n2", number=number)
        for number, (lane, kind) in enumerate(
            [
                (HOSTILE, "note"),
                (HOSTILE, "role"),
                (HOSTILE, "sent"),
                ("n2", "heard"),
                ("client", "note"),
                ("run", "broken"),
            ]
        )
    ]
    run = Run(
        title=HOSTILE,
        failure=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        moments=moments,
        before={HOSTILE: Lane(), "n2": Lane()},
        left_out=0,
        trace=[HOSTILE],
    )
    page = page_of(run)
    checked(page)
    assert "<script" not in page
    assert "\x00" not in page
    page.encode()


def test_simulate_refuses_a_page_that_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the run, which may take minutes."""
    with pytest.raises(SystemExit) as ended:
        main(["--seed", "1", "--html", str(tmp_path / "missing" / "run.html")])
    assert ended.value.code == 2
    assert "name a file in a folder that exists" in capsys.readouterr().err


def test_simulate_says_when_no_seed_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.html"
    assert main(["--seeds", "5", "--nodes", "3", "--sim-seconds", "0.1", "--faults", "none", "--html", str(file)]) == 0
    assert not file.exists()
    assert "no seed failed" in capsys.readouterr().out
