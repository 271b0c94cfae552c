"""Makes the golden snapshot of the key-value store: `python -m tests.compat.make_kv_snapshot FILE`.

It was run once for format 3; the result is `tests/fixtures/kv-snapshot-v3.bin`. `kv-snapshot-v2.bin` has the same state
without users: it is still written so. `kv-snapshot-v1.bin` was written by a
version that wrote format 1, with the state of `present` without its lease and history.
"""

from __future__ import annotations

import sys
from pathlib import Path

from syncline.kv.snapshots import KvSnapshot
from syncline.kv.store import KeyStore
from tests.helpers.auth_commands import add_users
from tests.helpers.kv_commands import Sink


def written_store() -> KeyStore:
    """Keys that were overwritten, deleted and made again, several in one revision; leases; a compaction."""
    store = KeyStore()
    store.leases.grant(7, 30_000)
    store.leases.grant(2**63 - 1, 9_000, own=True)
    store.leases.checkpoint(7, 12_000)
    for number in range(40):
        store.put(b"key/%02d" % (number % 25), b"value %d" % number, 0, store.revision + 1)
    revision = store.revision + 1
    store.delete(b"key/03", revision)
    store.put(b"key/99", bytes(range(256)), 7, revision)
    store.put(b"key/98", b"", 2**63 - 1, revision)
    store.put(b"key/03", b"again", 7, revision + 1)
    store.delete(b"key/04", revision + 2)
    store.put(b"key/99", b"shorter", 0, revision + 3)
    store.compact(30)
    store.sweep(7)
    return store


def snapshot_bytes(store: KeyStore) -> bytes:
    """The snapshot of a store."""
    sink, snapshot = Sink(), KvSnapshot(store.view())
    snapshot.persist(sink)
    snapshot.release()
    return sink.data


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(snapshot_bytes(add_users(written_store())))
