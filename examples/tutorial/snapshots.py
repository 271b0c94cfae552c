"""Stage 4: snapshots, so that the log does not grow without end: written out once.

python -m examples.tutorial.snapshots NAME        # a, b or c: three shells
"""

from __future__ import annotations

from typing import BinaryIO

from msgspec import msgpack

from examples.tutorial import replicated
from syncline import SnapshotSink, replace_file


class StoreSnapshot:
    """The state at one log entry. The node goes on applying entries while this is written."""

    def __init__(self, state: replicated.State) -> None:
        self.state = state  # loaded from the file a moment ago: nothing else changes it

    def persist(self, sink: SnapshotSink) -> None:
        """Write it; this may be slow. An exception of `sink.write` ends it: let it pass."""
        sink.write(msgpack.encode(self.state))

    def release(self) -> None:
        """Called once at the end, also after a failure: close here what `snapshot` has opened."""


class Store(replicated.Store):
    def snapshot(self) -> StoreSnapshot:
        """Called between two entries, so it must be quick."""
        with self.locked() as state:
            return StoreSnapshot(state)

    def restore(self, source: BinaryIO) -> None:
        """Replace everything: this node was too far behind for the leader's log."""
        with self.locked():
            replace_file(self.path, source.read())


if __name__ == "__main__":
    replicated.run("examples.tutorial.snapshots", Store, snapshot_entries=20)
