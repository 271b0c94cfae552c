"""Snapshots of a node: the table of sessions, then the state machine's data."""

from __future__ import annotations

from syncline.errors import CorruptionError, FormatVersionError
from syncline.node.fsm import FSMSnapshot, SnapshotSink
from syncline.node.machine import persist
from syncline.node.machine import release as release_view
from syncline.sessions.snapshot import SECTION_FORMAT, Source, read_section, write_section
from syncline.sessions.table import SessionTable, TableView
from syncline.storage.snapshots.file import SnapshotReader, snapshot_rot

__all__ = ["SessionsView", "load_sessions", "read_sessions"]


class SessionsView:
    """A view of the table and of the state machine, taken between the same two applies."""

    def __init__(self, sessions: TableView, view: FSMSnapshot) -> None:
        self._sessions: TableView | None = sessions
        self.view: FSMSnapshot = view
        """The state machine's own."""

    def persist(self, sink: SnapshotSink) -> None:
        """Write both."""
        assert self._sessions is not None, "it is released"
        write_section(self._sessions, sink.write)
        persist(self.view, sink)

    def release(self) -> None:
        """Release both."""
        self._sessions = None
        release_view(self.view)


def read_sessions(reader: SnapshotReader, source: Source) -> SessionTable:
    """The table of a snapshot, from the beginning of its data. `source` is then at the state machine's.

    Raises:
        CorruptionError: the section is damaged.
        FormatVersionError: a later version wrote it.
    """
    held = reader.manifest.sessions
    if not held:
        return SessionTable()  # the version that wrote it had no sessions
    if held != SECTION_FORMAT:
        raise FormatVersionError(
            f"{reader.path} has sessions in format {held}; this version of Syncline reads format {SECTION_FORMAT}."
            " Start the node with the version that wrote it."
        )
    try:
        return read_section(source)
    except ValueError as error:
        raise _damaged(reader, error) from error


def load_sessions(reader: SnapshotReader) -> SessionTable:
    """The table of a snapshot alone: for a state machine that has its own state. Raises as `read_sessions` does."""
    with reader, reader.buffered() as source:
        return read_sessions(reader, source)


def _damaged(reader: SnapshotReader, error: ValueError) -> CorruptionError:
    return snapshot_rot(reader.path, 0, f"the table of sessions is damaged: {error}")
