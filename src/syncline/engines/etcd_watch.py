"""The watch of a log in etcd: records as they are appended, from one revision on, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

from syncline.engines.backend import BackendLost, LogRecord, LogReplaced
from syncline.engines.etcd_client import EtcdClient, rpc
from syncline.errors import ConfigError, NodeFailed

__all__ = ["EtcdWatch", "prefix_end", "record_of"]

BUFFER_BYTES: Final = 16 << 20
"""Above it the watch ends: the records are read by ranges, when there is room for them."""

log: Final = logging.getLogger("syncline.engines")


class EtcdWatch:
    """Gathers records behind a position. It ends at the first trouble; then a range finds what it has missed."""

    def __init__(self, client: EtcdClient, prefix: bytes, news: asyncio.Event) -> None:
        self._client = client
        self._prefix = prefix
        self._news = news
        self._task: asyncio.Task[None] | None = None
        self.position: int = 0
        """All records up to here were taken, or were read before the watch began."""
        self._records: list[LogRecord] = []
        self._bytes = 0

    @property
    def has_records(self) -> bool:
        """Whether `take` returns some."""
        return bool(self._records)

    def follows(self, seen: int) -> bool:
        """Whether the watch brings all records behind this position."""
        return self.position == seen and self._task is not None and (bool(self._records) or not self._task.done())

    def start(self, position: int, revision: int) -> None:
        """Watch from a revision on. Records up to `position` were read."""
        self.position = position
        if self._task is not None:
            self._task.cancel()
        self._records, self._bytes = [], 0  # one that still runs has the old list
        self._task = asyncio.get_running_loop().create_task(self._run(revision, self._records))

    def take(self) -> list[LogRecord]:
        """What has gathered."""
        records = self._records.copy()
        self._records.clear()
        self._bytes = 0
        if records:
            self.position = records[-1].position
        return records

    async def stop(self) -> None:
        """End the watch."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._records, self._bytes = [], 0

    async def _run(self, revision: int, records: list[LogRecord]) -> None:
        try:
            with contextlib.suppress(
                BackendLost, ConfigError, LogReplaced, NodeFailed
            ):  # the range that follows tells why
                await self._gather(revision, records)
        finally:
            self._news.set()

    async def _gather(self, revision: int, records: list[LogRecord]) -> None:
        create = rpc.WatchCreateRequest(
            key=self._prefix,
            range_end=prefix_end(self._prefix),
            start_revision=revision,
            filters=[rpc.WatchCreateRequest.NODELETE],
            fragment=True,
        )
        request = rpc.WatchRequest(create_request=create)
        async with self._client.stream(lambda channel: rpc.WatchStub(channel).Watch, request) as call:
            async for answer in call:
                self._client.check_cluster(answer.header)
                if answer.canceled:
                    log.info("the watch was ended: %s", answer.cancel_reason or "compacted")
                    return
                for event in answer.events:
                    records.append(record_of(event.kv, self._prefix))
                    self._bytes += len(event.kv.value)
                if answer.events:
                    self._news.set()
                if self._bytes > BUFFER_BYTES:
                    return


def record_of(kv: Any, prefix: bytes) -> LogRecord:
    """The record of a key. Raises NodeFailed if the key is none of ours."""
    name = kv.key[len(prefix) :]
    writer, _, sequence = name.partition(b"/")
    try:
        return LogRecord(kv.mod_revision, int(writer, 16), int(sequence), kv.value)
    except ValueError:
        raise NodeFailed(f"the key {kv.key!r} in etcd is not one of Syncline's: remove it") from None


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with this prefix. Its last byte is never 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
