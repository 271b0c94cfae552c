"""The command `wal`: show and check a node's log on disk without changing it."""

from __future__ import annotations

import click
import msgspec

from syncline.cli.exits import EXIT_DAMAGED, EXIT_FAILED, Failure
from syncline.cli.files.common import DataFiles, data_command, hex_id
from syncline.cli.output import json_text, print_json, print_line, shown
from syncline.consensus.types import HardState, LogEntry, MembershipState, SnapshotMeta
from syncline.platform.texts import counted
from syncline.storage.inspect import FrameView, LogReport, SegmentEnd, SegmentStart, check_log, read_log

__all__ = ["membership_object", "wal"]

DATA_SHOWN_BYTES = 80
"""Bytes of an entry's data in the output for people."""


@click.group("wal", short_help="Look at a node's log on disk, or check it.")
def wal() -> None:
    """A node's log on disk. The node may be running or stopped: nothing is written, and nothing is locked."""


@wal.command("dump")
@data_command
@click.option("--from", "first", type=click.IntRange(min=1), help="Only writes with entries from this index on.")
@click.option("--to", "last", type=click.IntRange(min=1), help="Only writes with entries up to this index.")
@click.option("--entries", is_flag=True, help="Show each entry, too.")
def dump(files: DataFiles, *, first: int | None, last: int | None, entries: bool) -> None:
    """Print what the log holds, write by write, in the order of the files.

    Entries may come twice: later ones replace earlier ones of the same index. With --json each line is an object.
    A damaged segment is shown as far as it can be read, then the next one; the exit status is 7 then.
    """
    damage: list[str] = []
    if not files.disk.exists(files.wal_path):
        raise Failure(f"{files.wal_path}: there is no log", EXIT_FAILED, as_json=files.as_json)
    for part in read_log(files.disk, files.wal_path, entries=entries):
        if isinstance(part, SegmentEnd) and part.damage is not None:
            damage.append(part.damage)
        if isinstance(part, FrameView) and not _wanted(part, first, last):
            continue
        if files.as_json:
            print_line(json_text(_object(part)))
        else:
            _print(part)
    if damage:
        raise Failure(
            f"{len(damage)} damaged: {damage[0]}", EXIT_DAMAGED, code="corruption_error", as_json=files.as_json
        )


def _wanted(frame: FrameView, first: int | None, last: int | None) -> bool:
    if first is None and last is None:
        return True
    if frame.first_index is None or frame.last_index is None:
        return False
    return frame.last_index >= (first or 1) and frame.first_index <= (last or frame.first_index)


def _print(part: SegmentStart | FrameView | SegmentEnd) -> None:
    match part:
        case SegmentStart():
            after = f"after entry {part.base_index} of term {part.base_term}" if part.base_index else "at the beginning"
            print_line(f"{part.path}: segment {part.sequence}, {part.size_bytes} bytes, begins {after}")
        case SegmentEnd(damage=None):
            print_line(f"  {part.offset:>10}  end: {part.end}")
        case SegmentEnd():
            print_line(f"  {part.offset:>10}  DAMAGED: {part.damage}")
        case FrameView():
            print_line(f"  {part.offset:>10}  {part.size_bytes:>8} B  {'; '.join(_said(part))}")
            for entry in part.entries:
                data = shown(entry.data[:DATA_SHOWN_BYTES]) + ("…" if len(entry.data) > DATA_SHOWN_BYTES else "")
                print_line(f"{entry.index:>16}  term {entry.term}  {_kind(entry)}  {len(entry.data)} B  {data}")


def _said(frame: FrameView) -> list[str]:
    said = []
    if frame.snapshot is not None:
        said.append(f"snapshot at {frame.snapshot.index} of term {frame.snapshot.term}")
    if frame.first_index is not None:
        indexes = (
            f"{frame.first_index}"
            if frame.first_index == frame.last_index
            else f"{frame.first_index}-{frame.last_index}"
        )
        terms = (
            f"{frame.first_term}" if frame.first_term == frame.last_term else f"{frame.first_term}-{frame.last_term}"
        )
        said.append(f"entries {indexes} of term {terms}")
    if frame.hard_state is not None:
        said.append(_state_text(frame.hard_state))
    if frame.next_segment is not None:
        said.append(f"segment {frame.next_segment} follows")
    return said


def _span(first: int | None, last: int | None) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def _state_text(state: HardState) -> str:
    return f"term {state.term}, vote {hex_id(state.vote)}, commit {state.commit}"


def _kind(entry: LogEntry) -> str:
    return entry.type.name.lower()


def _object(part: SegmentStart | FrameView | SegmentEnd) -> dict[str, object]:
    match part:
        case SegmentStart():
            return {"kind": "segment", **msgspec.structs.asdict(part)}
        case SegmentEnd():
            return {"kind": "end", **msgspec.structs.asdict(part)}
        case FrameView():
            plain = {name: value for name, value in msgspec.structs.asdict(part).items() if value not in (None, ())}
            if part.hard_state is not None:
                plain["hard_state"] = _state_object(part.hard_state)
            if part.snapshot is not None:
                plain["snapshot"] = _meta_object(part.snapshot)
            if part.entries:
                plain["entries"] = [_entry_object(entry) for entry in part.entries]
            return {"kind": "frame", **plain}


def _entry_object(entry: LogEntry) -> dict[str, object]:
    return {"index": entry.index, "term": entry.term, "type": _kind(entry), "data_base64": entry.data}


def _state_object(state: HardState) -> dict[str, object]:
    return {"term": state.term, "vote": hex_id(state.vote) if state.vote else None, "commit": state.commit}


def _meta_object(meta: SnapshotMeta) -> dict[str, object]:
    return {"index": meta.index, "term": meta.term, "membership": membership_object(meta.membership)}


def membership_object(state: MembershipState) -> dict[str, object]:
    """A membership with its ids as they are shown everywhere."""
    ids = {name: [hex_id(member) for member in getattr(state, name)] for name in _ID_LISTS}
    return {**ids, "auto_leave": state.auto_leave}


_ID_LISTS = ("voters", "learners", "voters_outgoing", "learners_next")


@wal.command("verify")
@data_command
def verify(files: DataFiles) -> None:
    """Read the whole log as a starting node would, every checksum included.

    Exit status 0 if a node could start on it (a torn last write, which a start cuts off, included), 7 if it is
    damaged.
    """
    log_id = files.identity.node_id if files.identity is not None else None
    report = check_log(files.disk, files.wal_path, log_id=log_id)
    if files.trouble is not None and report.damage is None:
        report = msgspec.structs.replace(report, damage=files.trouble)
    if files.as_json:
        print_json(_report_object(report))
    elif report.damage is None:
        _print_report(files.wal_path, report)
    if report.damage is not None:
        raise Failure(report.damage, EXIT_DAMAGED, code="corruption_error", as_json=files.as_json)


def _report_object(report: LogReport) -> dict[str, object]:
    plain = msgspec.structs.asdict(report)
    marker = report.snapshot
    return {
        "sound": report.damage is None,
        **plain,
        "hard_state": _state_object(report.hard_state),
        "snapshot": _meta_object(marker) if marker is not None else None,
    }


def _print_report(path: str, report: LogReport) -> None:
    count = report.last_index - report.first_index + 1
    held = f"entries {report.first_index} to {report.last_index}" if count else f"no entries after {report.last_index}"
    print_line(f"{path}: sound")
    print_line(
        f"  {held} (last term {report.last_term}), {report.size_bytes} bytes in {counted(report.segments, 'segment')}"
    )
    print_line(f"  {_state_text(report.hard_state)}")
    if report.snapshot is not None:
        print_line(f"  restarted after the snapshot at {report.snapshot.index} of term {report.snapshot.term}")
    for note in (*report.notes, *([report.torn] if report.torn else [])):
        print_line(f"  note: {note}")
