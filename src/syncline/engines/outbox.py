"""Appends the commands of one node, a record at a time.

Commands gather while a record is under way. So the order of the calls is the order of the log, and a slow backend gets
fewer and larger records.

A node is one *writer*: it numbers its records. A record whose answer is lost is appended again under its number. Each
node ignores a number that is not above the writer's newest one. So an attempt that arrives late has no second effect,
even if the record was trimmed meanwhile. A record that was given up has no effect behind a later one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from zlib import crc32

from syncline.engines.backend import RECORD_BYTES, BackendFull, BackendLost, FenceLost, LogBackend, LogRecord
from syncline.engines.contact import Contact
from syncline.engines.records import RecordBody, encode_record
from syncline.engines.taking import LogTaker
from syncline.engines.waiting import PendingCommand, PendingCommands
from syncline.errors import NodeFailed, NoSpace, Superseded
from syncline.node.envelope import LATEST_TIME_S, StampedProposal, encode

__all__ = ["MAX_COMMAND_BYTES", "CommandOutbox"]

MAX_COMMAND_BYTES: Final = RECORD_BYTES - 1024
"""The largest command: a record holds at least one."""

ITEM_BYTES: Final = 64
"""At most so many bytes around the data of a command in a record."""

WRITER_BITS: Final = 62


class CommandOutbox:
    """Sends what is queued in `commands`.

    `taker` is the log as it is read here: a callable, because a snapshot replaces it. `reach` waits until the log was
    taken up to a confirmed position. `claim` raises if the log is of another machine. `origin` is the node's id in its
    proposals.
    """

    def __init__(
        self,
        backend: LogBackend,
        contact: Contact,
        commands: PendingCommands,
        taker: Callable[[], LogTaker],
        reach: Callable[[], Awaitable[None]],
        claim: Callable[[], Awaitable[None]],
        *,
        origin: int,
        rng: random.Random,
        wall_time_s: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._contact = contact
        self._commands = commands
        self._taker = taker
        self._reach = reach
        self._claim = claim
        self._origin = origin
        self._rng = rng
        self._wall_time_s = wall_time_s
        self._wake = asyncio.Event()
        self._writer = 0
        """0: not registered yet."""
        self._sequence = 0
        self._records: dict[tuple[int, int], list[PendingCommand]] = {}
        """Commands in records that were not read from the log yet."""
        self._sums: dict[int, int] = {}
        """A checksum of each record of the current writer that was not read from the log yet, by its sequence."""

    def kick(self) -> None:
        """There is something in the queue."""
        self._wake.set()

    async def run(self) -> None:
        """Append, until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._commands.queue:
                if not self._writer and not await self._register():
                    continue
                await self._send_next()
            self._contact.idle()

    def check(self, record: LogRecord) -> None:
        """Raise NodeFailed if another process writes with this node's number: its commands would be taken for ours."""
        if record.writer != self._writer or record.sequence == 1:
            return
        held = self._sums.get(record.sequence)
        for sequence in [known for known in self._sums if known <= record.sequence]:
            del self._sums[sequence]  # of lower ones none has an effect any more
        if record.sequence > self._sequence or (held is not None and held != crc32(record.body)):
            raise self._copied(f"the record at position {record.position}")

    def _copied(self, record: str) -> NodeFailed:
        return NodeFailed(
            f"{record} of {self._backend.name} has the number of this node, and was written by another one: its process"
            " was copied (a snapshot of a virtual machine, or two nodes with the same random numbers). Commands under"
            " way may be lost: start both again"
        )

    def taken(self, writer: int, sequence: int, *, effective: bool) -> None:
        """A record was read from the log. Without an effect its writer is not known any more, or it is a repetition."""
        commands = self._records.get((writer, sequence))
        if commands is None:
            return
        if not effective:
            if self._taker().newest(writer) >= sequence:
                return  # a repetition of a record that had its effect before
            if writer == self._writer:
                self._writer = 0
            self._commands.queue_again(commands)
            self.kick()
        del self._records[writer, sequence]

    def missed(self) -> list[PendingCommand]:
        """After a snapshot was loaded: the commands of records that are in it, or may be. They have no answer here.

        If the writer is not known there, it is not known whether its records took effect before it was dropped.
        """
        newest = {writer: self._taker().newest(writer) for writer, _ in self._records}
        found = [key for key in self._records if key[1] <= newest[key[0]] or not newest[key[0]]]
        return [pending for key in found for pending in self._records.pop(key)]

    async def _register(self) -> bool:
        """Append the first record of a new writer. Returns whether it is there."""
        writer = self._rng.getrandbits(WRITER_BITS) + 1
        while self._waited_for(self._commands.queue):
            try:
                await self._contact.attempt(self._claim())
                await self._contact.attempt(self._append((writer, 1), self._encode([]), 0))
            except BackendFull as error:
                self._no_space(list(self._commands.queue), error)
            except BackendLost as error:
                await self._contact.pause(error)
            else:
                self._writer, self._sequence = writer, 1
                self._sums.clear()
                self._backend.kick()
                return True
        self._drop_ended()
        return False

    def _append(self, key: tuple[int, int], body: bytes, fence: int) -> Awaitable[None]:
        return self._backend.append(*key, body, fence, self._taker().mark)

    async def _send_next(self) -> None:
        batch = self._gather()
        if not batch:
            return
        self._sequence += 1
        key = self._writer, self._sequence
        self._records[key] = batch
        body = b""
        doubt = False
        while True:
            if not doubt:  # else every attempt has the same content
                batch[:] = [pending for pending in batch if not pending.ended]
                body = self._encode(batch)
            if not self._waited_for(batch) or key not in self._records:
                break  # no caller waits any more, or the log has it
            self._sums[key[1]] = crc32(body)
            try:
                for pending in batch:
                    pending.sent = True
                await self._contact.attempt(self._append(key, body, batch[0].fence))
            except FenceLost:
                await self._fence_lost(key, batch, doubt=doubt)
                break
            except BackendFull as error:
                if not doubt:
                    self._no_space(batch, error)
                    break
                await self._contact.pause(error)
            except BackendLost as error:
                doubt = doubt or error.sent
                for pending in batch:
                    pending.sent = doubt
                await self._contact.pause(error)
            else:
                if key in self._records and self._taker().newest(key[0]) >= key[1]:
                    raise self._copied(f"record {key[1]}")  # it was read before, and was not ours
                self._backend.kick()
                return
        if all(pending.ended for pending in batch):
            self._records.pop(key, None)

    async def _fence_lost(self, key: tuple[int, int], batch: list[PendingCommand], *, doubt: bool) -> None:
        """The leadership is over. An earlier attempt may have been in time: the log knows."""
        if doubt:
            await self._reach()
            if key not in self._records or self._taker().newest(key[0]) >= key[1]:
                return
        self._records.pop(key, None)
        self._commands.fail(batch, Superseded(f"the leadership with the token {batch[0].fence} is over"))

    def _no_space(self, batch: list[PendingCommand], error: BackendFull) -> None:
        self._records.pop((self._writer, self._sequence), None)
        self._commands.fail(batch, NoSpace(f"{self._backend.name} takes no more data: {error}"))
        self._drop_ended()

    def _gather(self) -> list[PendingCommand]:
        """Take commands with the same fence from the queue, as many as a record holds."""
        queue, batch, room = self._commands.queue, list[PendingCommand](), RECORD_BYTES - 512
        while queue:
            pending = queue[0]
            if pending.ended:
                queue.popleft()
                continue
            size = len(pending.data) + len(pending.extensions) + ITEM_BYTES
            if batch and (size > room or pending.fence != batch[0].fence):
                break
            room -= size
            batch.append(queue.popleft())
        return batch

    def _encode(self, batch: list[PendingCommand]) -> bytes:
        taker = self._taker()
        time_s = min(LATEST_TIME_S, max(0.0, self._wall_time_s()))  # another one would make the entry unreadable
        payloads = tuple(
            encode(
                StampedProposal(
                    pending.kind,
                    self._origin,
                    pending.future.number,
                    pending.data,
                    pending.extensions,
                    time_s,
                    taker.log_id,
                )
            )
            for pending in batch
        )
        return encode_record(RecordBody(taker.chain.position, taker.chain.value, payloads))

    def _drop_ended(self) -> None:
        queue = self._commands.queue
        while queue and queue[0].ended:
            queue.popleft()

    @staticmethod
    def _waited_for(commands: Iterable[PendingCommand]) -> bool:
        return any(not pending.ended for pending in commands)
