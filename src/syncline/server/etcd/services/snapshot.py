"""`Maintenance.Snapshot`: all keys at one revision, as lines of JSON, and a SHA-256 of them.

`etcdctl snapshot save` takes any content whose length is a multiple of 512 bytes and that 32 bytes of SHA-256 follow.
etcd's own content is a file of its database (bbolt), which only etcd reads: `etcdctl snapshot status` and `restore`
can't read this one. Each line is a key as in `GET /keys` with `values=base64`; the first line names revision and
format. Spaces fill it up to 512 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from syncline.errors import Rejected
from syncline.kv.records import RangePage
from syncline.server.api.json_bytes import item_of
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import UNAVAILABLE, EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace, Send
from syncline.server.etcd.messages import Message
from syncline.server.http.limits import KIB

__all__ = ["SnapshotService"]

FORMAT: Final = "syncline-keys-1"
BLOCK_BYTES: Final = 512
PIECE_KEYS: Final = 256
"""Keys of one message: about a millisecond of encoding."""
PIECE_BYTES: Final = 32 * KIB
"""Keys and values of one message, as etcd's messages have 32 KiB. One larger record is a message of its own."""

_encoder: Final = msgspec.json.Encoder()


class SnapshotService:
    """Streams the keys of one revision while writes go on; it holds one piece at a time."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def add_to(self, face: EtcdFace) -> None:
        """Register the method."""
        face.streaming("/etcdserverpb.Maintenance/Snapshot", self.snapshot)

    async def snapshot(self, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        """Send it. If the revision is compacted meanwhile, the call ends with an error, and without the SHA-256."""
        async for _ in inbox:
            break
        context = self._context
        await context.require(caller)
        header = context.header()
        revision = context.node.store.revision
        digest, size = hashlib.sha256(), 0
        page: RangePage | None = None
        lines = _encoder.encode({"format": FORMAT, "revision": revision}) + b"\n"
        while True:
            if page is not None:
                lines = _encoder.encode_lines([item_of(record, values="base64", mount="") for record in page.items])
            last = page is not None and not page.more
            if last:
                lines += b" " * (-(size + len(lines)) % BLOCK_BYTES)
            digest.update(lines)
            size += len(lines)
            await send({"header": header, "blob": lines})
            if last:
                break
            context.check(caller)  # the client may take long, and its permission may have ended meanwhile
            page = self._page(page, revision)
        await send({"header": header, "blob": digest.digest()})

    def _page(self, before: RangePage | None, revision: int) -> RangePage:
        after = None if before is None else before.after
        try:
            return self._context.node.store.range(
                after=after, limit=PIECE_KEYS, max_bytes=PIECE_BYTES, revision=revision
            )
        except Rejected as refusal:
            text = "etcdserver: the revision of the snapshot was compacted meanwhile: try again"
            raise EtcdError(UNAVAILABLE, text) from refusal
