"""The two forms of a watch's messages: Server-Sent Events, and lines of JSON.

| | Server-Sent Events | lines of JSON |
| --- | --- | --- |
| changes | `id: N`, `data: {"revision":N,"events":[…]}` | `{"revision":N,"events":[…]}` |
| progress | `id: N`, `event: progress`, `data: {"revision":N}` | `{"progress":{"revision":N}}` |
| error | `event: error`, `data: {"error":{…}}` | `{"error":{…}}` |

The `id` of an event is where a browser resumes: after it. So a mark of progress that must not be resumed from has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import json

from syncline.client.schemas import ErrorAnswer, ErrorBody, split
from syncline.client.watch_schemas import ChangeItem, ProgressItem, RevisionItem, ValueItem
from syncline.kv.records import Change, KeyRecord

__all__ = ["LINES", "LINES_WITH_PREVIOUS", "SSE", "SSE_WITH_PREVIOUS", "EventStreamForm", "LinesForm"]

_encode: Final = json.Encoder().encode


class LinesForm:
    """Lines of JSON (ndjson), with the previous records or without."""

    fields: Final = b"Content-Type: application/x-ndjson\r\nX-Accel-Buffering: no\r\n"

    def __init__(self, *, previous: bool) -> None:
        self._previous = previous

    def begin(self, first: int) -> bytes:
        """What is sent before anything has happened, for a watch from the revision `first` on."""
        del first
        return b""

    def changes(self, revision: int, changes: Sequence[Change]) -> bytes:
        return _revision_json(revision, changes, previous=self._previous) + b"\n"

    def progress(self, revision: int, *, resumable: bool) -> bytes:
        del resumable
        return _encode({"progress": ProgressItem(revision)}) + b"\n"

    def error(self, error: ErrorBody) -> bytes:
        """The last message."""
        return _encode(ErrorAnswer(error)) + b"\n"

    def size_bytes(self, message: bytes) -> int:
        return len(message)


class EventStreamForm:
    """Server-Sent Events, with the previous records or without."""

    fields: Final = b"Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n"
    """The second one keeps a proxy (nginx) from collecting events."""

    def __init__(self, *, previous: bool) -> None:
        self._previous = previous

    def begin(self, first: int) -> bytes:
        """An id alone: a browser that is cut off before the first event resumes from where it began."""
        return b"id: %d\n\n" % (first - 1)

    def changes(self, revision: int, changes: Sequence[Change]) -> bytes:
        return b"id: %d\ndata: %b\n\n" % (revision, _revision_json(revision, changes, previous=self._previous))

    def progress(self, revision: int, *, resumable: bool) -> bytes:
        event = b"event: progress\ndata: %b\n\n" % _encode(ProgressItem(revision))
        return b"id: %d\n%b" % (revision, event) if resumable else event

    def error(self, error: ErrorBody) -> bytes:
        """The last message."""
        return b"event: error\ndata: %b\n\n" % _encode(ErrorAnswer(error))

    def size_bytes(self, message: bytes) -> int:
        return len(message)


SSE: Final = EventStreamForm(previous=False)
SSE_WITH_PREVIOUS: Final = EventStreamForm(previous=True)
LINES: Final = LinesForm(previous=False)
LINES_WITH_PREVIOUS: Final = LinesForm(previous=True)


def _revision_json(revision: int, changes: Sequence[Change], *, previous: bool) -> bytes:
    items = [_item(change, previous=previous) for change in changes]
    return _encode(RevisionItem(revision=revision, events=items))


def _item(change: Change, *, previous: bool) -> ChangeItem:
    record = change.record
    key, key_base64 = split(record.key)
    item = ChangeItem(type="put" if record.version else "delete", key=key, key_base64=key_base64)
    if record.version:
        item.value, item.value_base64 = split(record.value)
        item.create_revision, item.version = record.create_revision, record.version
        if record.lease:
            item.lease = f"{record.lease:016x}"
    if previous and change.previous is not None:
        item.prev = _value(change.previous)
    return item


def _value(record: KeyRecord) -> ValueItem:
    value, value_base64 = split(record.value)
    item = ValueItem(
        value=value,
        value_base64=value_base64,
        mod_revision=record.mod_revision,
        create_revision=record.create_revision,
        version=record.version,
    )
    if record.lease:
        item.lease = f"{record.lease:016x}"
    return item
