"""A run as one page of HTML: a time line for each node, messages as arrows, faults, and what broke.

The page is one file without an outside address and without a script: the boxes that hide kinds of lines are CSS.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from syncline.testing.sim.page_style import STYLE
from syncline.testing.sim.timeline import DOWN, PAUSED, Lane, Moment

__all__ = ["Run", "page_of"]

ROW: Final = 16
TOP: Final = 8
TIME_X: Final = 4
OUTSIDE_X: Final = 74
FIRST_LANE_X: Final = 310
LANE_WIDTH: Final = 230
TEXT_CHARACTERS: Final = 32
OUTSIDE_CHARACTERS: Final = 36
CHARACTER: Final = 7
"""The width of a character, about."""
LOST_PART: Final = 0.3
"""How far towards its receiver a message is drawn that does not arrive."""

ARROW_HEAD: Final = (
    "<defs><marker id='head' viewBox='0 0 6 6' refX='6' refY='3' markerWidth='6' markerHeight='6' orient='auto'>"
    "<path d='M0 0L6 3L0 6z'/></marker></defs>"
)
CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
HIDDEN: Final = (("heartbeat", "heartbeats"), ("detail", "log, disk, applied"), ("message", "all messages"))


class Run(msgspec.Struct, kw_only=True):
    """What a page tells: the run, and its newest moments."""

    title: str
    failure: str
    """The invariant that broke, with its text; empty: none did."""
    facts: Sequence[tuple[str, str]]
    """Rows of the table at the top: name and text."""
    moments: Sequence[Moment]
    before: Mapping[str, Lane]
    left_out: int
    trace: Sequence[str]


def page_of(run: Run) -> str:
    """The page. All texts of the run are escaped."""
    picture = _Picture(run)
    verdict = (
        f'<p class="verdict bad"><a href="#broken">Broken</a>: {_safe(run.failure)}</p>'
        if run.failure
        else '<p class="verdict good">All invariants held.</p>'
    )
    left_out = (
        f"<p>The picture shows the newest {len(run.moments)} events; {run.left_out} before them are left out.</p>"
        if run.left_out
        else ""
    )
    rows = "".join(f"<tr><th scope='row'>{_safe(name)}</th><td>{_safe(text)}</td></tr>" for name, text in run.facts)
    return "".join(
        (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
            "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>{_safe(run.title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{_safe(run.title)}</h1>{verdict}<table>{rows}</table>{left_out}{_boxes()}{_legend()}",
            picture.drawn(),
            "<details><summary>The end of the trace, as text</summary><pre>",
            _safe("\n".join(run.trace)),
            "</pre></details></body></html>\n",
        )
    )


def _boxes() -> str:
    made = [f"<label><input type='checkbox' id='show-{name}' checked> {text}</label>" for name, text in HIDDEN]
    return f"<p class='boxes'>Show: {' '.join(made)}</p>"


def _legend() -> str:
    roles = ("leader", "candidate", "follower", PAUSED, DOWN)
    shown = [f"<span class='key {role}'></span> {role}" for role in roles]
    return (
        f"<p class='legend'>{' '.join(shown)} · arrow: a message, from its sending to its arrival · \u00d7 : it did not"
        " arrive (lost, or later than the picture ends) · Time goes down; rows are events, in their order.</p>"
    )


class _Picture:
    """The drawing: a row for each moment, a column for each node."""

    def __init__(self, run: Run) -> None:
        self._run = run
        present = {moment.lane for moment in run.moments}
        self._lanes = sorted(name for name in run.before if name in present)
        self._sent = {moment.number: row for row, moment in enumerate(run.moments) if moment.kind == "sent"}
        self._heard = {moment.number: row for row, moment in enumerate(run.moments) if moment.kind == "heard"}
        self._width = FIRST_LANE_X + LANE_WIDTH * max(1, len(self._lanes))
        self._height = TOP * 2 + ROW * max(1, len(run.moments))

    def drawn(self) -> str:
        names = "".join(
            f"<text x='{self._x(name) - 4}' y='16' class='name'>{_safe(name)}</text>" for name in self._lanes
        )
        words = f"Time lines of {', '.join(self._lanes)}: {len(self._run.moments)} events"
        return (
            f"<div class='scroll'><svg class='names' width='{self._width}' height='22' aria-hidden='true'>"
            f"<text x='{TIME_X}' y='16' class='name'>seconds</text>"
            f"<text x='{OUTSIDE_X}' y='16' class='name'>outside of the nodes</text>{names}</svg>"
            f"<svg class='picture' role='img' aria-label='{_safe(words)}'"
            f" width='{self._width}' height='{self._height}'>{ARROW_HEAD}"
            f"{''.join(self._parts())}</svg></div>"
        )

    def _parts(self) -> Iterator[str]:
        yield from self._bands()
        for name in self._lanes:
            yield from self._time_line(name)
        yield from self._arrows()
        yield from self._texts()

    def _x(self, lane: str) -> int:
        return FIRST_LANE_X + LANE_WIDTH * self._lanes.index(lane)

    def _y(self, row: int) -> int:
        return TOP + ROW * row + ROW // 2

    def _bands(self) -> Iterator[str]:
        """Faults and the broken invariant, over the whole width."""
        for row, moment in enumerate(self._run.moments):
            if moment.kind in {"note", "broken"}:
                identity = " id='broken'" if moment.kind == "broken" else ""
                yield (
                    f"<rect{identity} class='band {moment.kind}' x='0' y='{self._y(row) - ROW // 2}'"
                    f" width='{self._width}' height='{ROW}'/>"
                )

    def _time_line(self, name: str) -> Iterator[str]:
        """The node's line, in a colour for each role."""
        x, role, since = self._x(name), self._run.before[name].role, 0
        for row, moment in enumerate(self._run.moments):
            if moment.lane == name and moment.role and moment.role != role:
                yield self._stretch(x, role, since, row)
                role, since = moment.role, row
        yield self._stretch(x, role, since, len(self._run.moments))

    def _stretch(self, x: int, role: str, first: int, last: int) -> str:
        return (
            f"<line class='line {_safe(role)}' x1='{x}' x2='{x}' y1='{self._y(first)}' y2='{self._y(last)}'>"
            f"<title>{_safe(role)}</title></line>"
        )

    def _arrows(self) -> Iterator[str]:
        for row, moment in enumerate(self._run.moments):
            if moment.kind == "sent" and moment.number and moment.peer in self._lanes:
                yield self._arrow(moment, row, self._heard.get(moment.number))
            elif moment.kind == "heard" and moment.number not in self._sent and moment.peer in self._lanes:
                yield self._arrival(moment, row)

    def _arrow(self, moment: Moment, row: int, arrives: int | None) -> str:
        x, to, y = self._x(moment.lane), self._x(moment.peer), self._y(row)
        kind = _kind_of(moment)
        tip = f"<title>{_safe(f'{moment.lane} {moment.text}')}</title>"
        if arrives is not None:
            ends = f"x1='{x}' y1='{y}' x2='{to}' y2='{self._y(arrives)}' marker-end='url(#head)'"
            return f"<line class='arrow {kind}' {ends}>{tip}</line>"
        end = x + (to - x) * LOST_PART
        return (
            f"<g class='arrow lost {kind}'>{tip}<line x1='{x}' y1='{y}' x2='{end:.0f}' y2='{y + ROW // 2}'/>"
            f"<text x='{end:.0f}' y='{y + ROW // 2 + 4}'>\u00d7</text></g>"
        )

    def _arrival(self, moment: Moment, row: int) -> str:
        """A message that left before the picture begins."""
        to, y = self._x(moment.lane), self._y(row)
        x = to + (self._x(moment.peer) - to) * LOST_PART
        return (
            f"<line class='arrow {_kind_of(moment)}' x1='{x:.0f}' y1='{y - ROW // 2}' x2='{to}' y2='{y}'"
            f" marker-end='url(#head)'><title>{_safe(f'{moment.peer} → {moment.lane} {moment.text}')}</title></line>"
        )

    def _texts(self) -> Iterator[str]:
        shown_s = -1.0
        for row, moment in enumerate(self._run.moments):
            y = self._y(row) + 4
            if moment.at_s != shown_s:
                shown_s = moment.at_s
                yield f"<text x='{TIME_X}' y='{y}' class='time'>{moment.at_s:.4f}</text>"
            if moment.kind == "heard":
                continue
            if moment.lane in self._lanes:
                yield self._text(moment, self._x(moment.lane) + 8, y, moment.text, TEXT_CHARACTERS)
            elif moment.kind == "broken":
                yield self._text(moment, OUTSIDE_X, y, f"✗ {moment.text}", (self._width - OUTSIDE_X) // CHARACTER)
            else:
                yield self._text(moment, OUTSIDE_X, y, f"{moment.lane}: {moment.text}", OUTSIDE_CHARACTERS)

    def _text(self, moment: Moment, x: int, y: int, text: str, most: int) -> str:
        shown = text if len(text) <= most else f"{text[: most - 1]}…"
        if moment.kind == "role":
            shown = f"{shown} (term {moment.term})"
        tip = f"<title>{_safe(f'{moment.at_s:.4f} s {moment.lane}@{moment.term} {text}')}</title>"
        if moment.kind in {"role", "commit", "note"} and moment.lane in self._lanes:
            dot = f"<circle class='dot {moment.kind}' cx='{x - 8}' cy='{y - 4}' r='4'/>"
        else:
            dot = ""
        return f"<g class='event {_kind_of(moment)}'>{dot}<text x='{x}' y='{y}'>{tip}{_safe(shown)}</text></g>"


def _kind_of(moment: Moment) -> str:
    """The classes of a moment: its kind, and whether a box hides it."""
    if moment.kind in {"log", "disk", "applied"}:
        return f"{moment.kind} detail"
    if moment.kind not in {"sent", "heard"}:
        return moment.kind
    text = moment.text.removeprefix(f"→ {moment.peer} ")
    refused = " refused" if "refused" in text else ""
    heartbeat = " heartbeat" if text.startswith("Heartbeat") else ""
    word = re.match(r"[A-Za-z]*", text)
    return f"message{heartbeat}{refused} {word.group().lower() if word is not None else ''}"


def _safe(text: str) -> str:
    return html.escape(CONTROL.sub("\ufffd", text))
