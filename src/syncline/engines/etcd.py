"""The log in etcd (`syncline[etcd]`). `docs/engines.md` has the keys.

Each record is a key of its own, `LOG/log/WRITER/SEQUENCE`, that is made by a transaction if it is not there. Its
revision is its position. The same transaction writes `LOG/head`, so the revision of that key is that of the newest
record. Writers compare no key in common: none of them has to try again because of another one.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import Any, Final

import msgspec

from syncline.engines.backend import (
    PART_BYTES,
    BackendFull,
    BackendLost,
    FenceLost,
    LogPage,
    LogReplaced,
    Mark,
    StoredSnapshot,
    check_left,
)
from syncline.engines.etcd_client import EtcdClient, read_only, rpc
from syncline.engines.etcd_watch import EtcdWatch, prefix_end, record_of
from syncline.engines.urls import EtcdUrl
from syncline.errors import NodeFailed

__all__ = ["EtcdBackend"]

FORMAT: Final = 1
SNAPSHOT_BYTES: Final = 64 << 20
"""One part is 1 MiB, and a transaction compares all of them: etcd takes 128 compares."""
PAGE_RECORDS: Final = 32
TRIM_KEYS: Final = 100
VERIFY_S: Final = 1.0
"""How long a silent watch is believed."""
SILENT_S: Final = 0.25
"""How long a watch may take for a record that is known to be there."""


class StoredIdentity(msgspec.Struct, frozen=True):
    """The value of `LOG/id`."""

    format: int
    id: int


class CurrentSnapshot(msgspec.Struct, frozen=True):
    """The value of `LOG/snap/current`."""

    position: int
    folder: str
    parts: int


class EtcdBackend:
    """A log in etcd."""

    snapshot_bytes: int = SNAPSHOT_BYTES

    def __init__(self, url: EtcdUrl) -> None:
        self.name: str = url.shown
        self._client = EtcdClient(url)
        base = url.log.encode()
        self._id, self._head, self._trim = base + b"/id", base + b"/head", base + b"/trim"
        self._log, self._leader = base + b"/log/", base + b"/leader"
        self._machine = base + b"/machine"
        self._snaps, self._current = base + b"/snap/", base + b"/snap/current"
        self._news = asyncio.Event()
        self._watch = EtcdWatch(self._client, self._log, self._news)
        self._told = 0
        """A position that is known to be in the log."""
        self._told_s = 0.0
        self._verified_s = -math.inf
        self._lease = 0
        self._made = 0
        """The revision of the log's id: another one is that of another log."""

    # -- the log ------------------------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Make the log's id, if it has none."""
        await self._watch.stop()
        made = StoredIdentity(FORMAT, secrets.randbits(62) + 1)
        held = await self._get(self._id)
        if held is None:
            await self._client.txn([_absent(self._id)], [_put(self._id, msgspec.json.encode(made))])
            held = await self._get(self._id)
        if held is None:
            raise BackendLost(f"{self.name}: the id of the log is not there", sent=False)
        try:
            identity = msgspec.json.decode(held.value, type=StoredIdentity)
        except msgspec.DecodeError:
            raise NodeFailed(f"{self.name}: the key {self._id.decode()} is of another program") from None
        if identity.format != FORMAT:
            raise NodeFailed(f"{self.name} has format {identity.format}; this version of Syncline reads {FORMAT}")
        self._made = held.mod_revision
        return identity.id

    async def claim(self, machine: str) -> str:
        """Note the machine in a key of its own, which earlier versions do not know."""
        looks = [read_only(self._machine), read_only(self._id, keys_only=True)]
        if machine:
            compare = [_unchanged(self._id, self._made), _absent(self._machine)]
            answer = await self._client.txn(compare, [_put(self._machine, machine.encode())], looks)
            if answer.succeeded:
                return machine
        else:
            answer = await self._client.txn([], looks, writes=False)
        noted, made = [response.response_range.kvs for response in answer.responses]
        if not made or made[0].mod_revision != self._made:
            raise LogReplaced(f"{self.name}: the log was removed, or made again")
        return noted[0].value.decode(errors="replace") if noted else ""

    async def renew(self, log_id: int) -> None:
        """Give the log another id."""
        put = _put(self._id, msgspec.json.encode(StoredIdentity(FORMAT, log_id)))
        answer = await self._client.txn([_unchanged(self._id, self._made)], [put])
        if not answer.succeeded:
            raise LogReplaced(f"{self.name}: the log was removed, or made again")
        self._made = answer.header.revision

    def _check(self, answers: list[Any], mark: Mark, seen: int = 0) -> tuple[int, int]:
        """The newest position and what is trimmed, by the answers to `_looks`."""
        head = answers[0].kvs[0].mod_revision if answers[0].kvs else 0
        trimmed = self._trimmed(answers[1].kvs[0]) if answers[1].kvs else 0
        held = answers[2].kvs[0].mod_revision if answers[2].kvs else 0
        if not answers[3].kvs or answers[3].kvs[0].mod_revision != self._made:
            raise LogReplaced(f"{self.name}: the log was removed, or made again")
        if head < seen or head < mark.position:
            raise LogReplaced(f"{self.name} ends at revision {head}, and this node has read up to {mark.position}")
        if mark.position > trimmed and held != mark.position:
            raise LogReplaced(f"{self.name}: the record of revision {mark.position} is not the one that was read")
        return head, trimmed

    def _trimmed(self, kv: Any) -> int:
        try:
            return int(kv.value)
        except ValueError:
            raise self._foreign(self._trim) from None

    def _foreign(self, key: bytes) -> NodeFailed:
        return NodeFailed(
            f"{self.name}: the key {key.decode()} was written by another program. Restore it from a backup"
            " (docs/engines.md)"
        )

    def _looks(self, mark: Mark) -> list[Any]:
        key = self._key(mark.writer, mark.sequence)
        made = read_only(self._id, keys_only=True)
        return [read_only(self._head), read_only(self._trim), read_only(key, keys_only=True), made]

    def _key(self, writer: int, sequence: int) -> bytes:
        return b"%s%016x/%012d" % (self._log, writer, sequence)

    async def read(self, mark: Mark, seen: int, limit_bytes: int) -> LogPage:  # noqa: ARG002 - bounded by PAGE_RECORDS
        """Records behind `seen`: from the watch, or by a range where there is none."""
        now_s = asyncio.get_running_loop().time()
        if self._watch.follows(seen):
            records = self._watch.take()
            if records:
                return LogPage(records, records[-1].position, 0)
            silent = self._told > seen and now_s - self._told_s >= SILENT_S
            if not silent and now_s - self._verified_s >= VERIFY_S:
                await self.confirm(mark)  # what it finds has a moment to come
            if not silent or self._watch.has_records:
                return LogPage((), seen, 0)
        await self._watch.stop()
        ranged = read_only(
            self._log,
            range_end=prefix_end(self._log),
            min_mod_revision=seen + 1,
            sort_target=rpc.RangeRequest.MOD,
            sort_order=rpc.RangeRequest.ASCEND,
            limit=PAGE_RECORDS,
        )
        answer = await self._client.txn([], [*self._looks(mark), ranged], writes=False)
        answers = [response.response_range for response in answer.responses]
        head, trimmed = self._check(answers, mark, seen)
        self._verified_s = now_s
        records = [record_of(kv, self._log) for kv in answers[4].kvs]
        if not records:
            check_left(self.name, mark, head, trimmed)
        if len(records) >= PAGE_RECORDS:
            return LogPage(records, records[-1].position, trimmed)
        if trimmed <= seen:
            self._watch.start(head, answer.header.revision + 1)
        return LogPage(records, head, trimmed)

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Wait for the watch."""
        if self._watch.has_records or not self._watch.follows(seen):
            return
        self._news.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return

    def kick(self) -> None:
        """A record was appended: the watch brings it."""

    async def append(self, writer: int, sequence: int, body: bytes, fence: int, mark: Mark) -> None:
        """Append, in one transaction, if the record of the mark is still there."""
        key = self._key(writer, sequence)
        compare = [_absent(key), _unchanged(self._id, self._made)]
        if fence:
            compare.append(_created(self._leader, fence))
        unless = [read_only(key, keys_only=True), read_only(self._leader, keys_only=True), *self._looks(mark)]
        marked = [_unchanged(self._key(mark.writer, mark.sequence), mark.position)] if mark.position else []
        while True:
            steps = [_put(key, body), _put(self._head, key)]
            try:
                answer = await self._client.txn([*compare, *marked], steps, unless)
            except BackendFull:
                if await self._has_taken(key):
                    return
                raise
            if answer.succeeded:
                self._note(answer.header.revision)
                return
            held, leader, *looks = [response.response_range for response in answer.responses]
            if held.kvs:
                return  # an earlier attempt
            self._check(looks, mark)
            if fence and (not leader.kvs or leader.kvs[0].create_revision != fence):
                raise FenceLost  # or it was appended before, and trimmed meanwhile: the caller looks
            if not marked:
                raise BackendLost(f"{self.name}: the log has changed meanwhile", sent=False)
            marked = []  # its record was trimmed

    async def _has_taken(self, key: bytes) -> bool:
        """Whether a record is there whose transaction was refused for lack of space.

        etcd looks for space when it takes a request, and again when it applies it. If others have filled the space
        in between, it writes, and refuses all the same.
        """
        try:
            return await self._get(key) is not None
        except BackendLost as error:
            raise BackendLost(str(error), sent=True) from error

    async def confirm(self, mark: Mark) -> int:
        """The revision of the newest record, by a linearizable read."""
        answer = await self._client.txn([], self._looks(mark), writes=False)
        head, _ = self._check([response.response_range for response in answer.responses], mark)
        self._verified_s = asyncio.get_running_loop().time()
        self._note(head)
        return head

    def _note(self, position: int) -> None:
        if self._told <= self._watch.position:
            self._told_s = asyncio.get_running_loop().time()
        self._told = max(self._told, position)

    async def trim(self, position: int) -> None:
        """Record what is trimmed, then delete it: a reader never misses records without knowing why."""
        if position <= 0:
            return  # a range of etcd "up to revision 0" is all of it
        held = await self._get(self._trim)
        noted = 0 if held is None else held.mod_revision
        current, stored = await self._current_snapshot()
        if current is None or current.position < position:
            raise LogReplaced(f"{self.name}: no snapshot has the records up to revision {position}")
        if held is None or self._trimmed(held) < position:
            compare = [_unchanged(self._trim, noted), _unchanged(self._current, stored)]
            answer = await self._client.txn(compare, [_put(self._trim, b"%d" % position)])
            if not answer.succeeded:
                return  # another node trims
            noted = answer.header.revision
        while True:
            found = await self._range(self._log, keys_only=True, max_mod_revision=position, limit=TRIM_KEYS)
            if not found:
                return
            # A record that was appended again after it was trimmed has a newer revision, and stays.
            # Without the note the log is another one now, or another node goes on with this.
            compare = [_unchanged(self._trim, noted), *(_unchanged(kv.key, kv.mod_revision) for kv in found)]
            steps = [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=kv.key)) for kv in found]
            answer = await self._client.txn(compare, steps, [read_only(self._trim, keys_only=True)])
            if not answer.succeeded:
                trim = answer.responses[0].response_range.kvs
                if not trim or trim[0].mod_revision != noted:
                    return

    # -- snapshots ----------------------------------------------------------------------------------------------------

    async def snapshot(self) -> StoredSnapshot | None:
        """The newest stored one, part by part."""
        current, revision = await self._current_snapshot()
        if current is None:
            return None
        parts: list[bytes] = []
        for number in range(current.parts):
            kv = await self._get(self._part(current.folder, number))
            if kv is None:
                if (await self._current_snapshot())[1] == revision:
                    raise NodeFailed(
                        f"{self.name}: part {number} of {current.parts} of the newest snapshot is gone: another program"
                        " has deleted it. Restore the backend from a backup (docs/engines.md)"
                    )
                raise BackendLost(f"{self.name}: the snapshot was replaced while it was read", sent=False)
            parts.append(kv.value)
        return StoredSnapshot(current.position, b"".join(parts))

    async def stored_position(self) -> int:
        """Of the newest stored one."""
        current, _ = await self._current_snapshot()
        return 0 if current is None else current.position

    async def _current_snapshot(self) -> tuple[CurrentSnapshot | None, int]:
        kv = await self._get(self._current)
        if kv is None:
            return None, 0
        try:
            return msgspec.json.decode(kv.value, type=CurrentSnapshot), kv.mod_revision
        except msgspec.DecodeError:
            raise self._foreign(self._current) from None

    def _part(self, folder: str, number: int) -> bytes:
        return b"%s%s/%06d" % (self._snaps, folder.encode(), number)

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        """Store the parts in a folder of their own, then the pointer to it, if all parts are there."""
        await self.confirm(mark)
        held, revision = await self._current_snapshot()
        if held is not None and held.position >= snapshot.position:
            return False
        folder, body = secrets.token_hex(8), snapshot.body
        pieces = [body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES)]
        keys = [self._part(folder, number) for number in range(len(pieces))]
        for key, piece in zip(keys, pieces, strict=True):
            await self._client.txn([], [_put(key, piece)])
        current = msgspec.json.encode(CurrentSnapshot(snapshot.position, folder, len(pieces)))
        compare = [_unchanged(self._current, revision), *(_present(key) for key in keys)]
        compare += [_unchanged(self._id, self._made), _unchanged(self._key(mark.writer, mark.sequence), mark.position)]
        answer = await self._client.txn(compare, [_put(self._current, current)])
        await self._remove_folders(folder if answer.succeeded else "", "" if answer.succeeded else folder)
        return bool(answer.succeeded)

    async def _remove_folders(self, kept: str, removed: str) -> None:
        """Delete one folder, or all but the one that is kept, and with it what another node is storing: that node's
        snapshot is older, and its pointer is refused.
        """
        keys = [kv.key for kv in await self._range(self._snaps, keys_only=True)]
        folders = {key[len(self._snaps) :].split(b"/")[0].decode() for key in keys if key != self._current}
        for folder in {removed} & folders if removed else folders - {kept}:
            prefix = b"%s%s/" % (self._snaps, folder.encode())
            request = rpc.DeleteRangeRequest(key=prefix, range_end=prefix_end(prefix))
            await self._client.call(lambda channel: rpc.KVStub(channel).DeleteRange, request)

    # -- the leadership -----------------------------------------------------------------------------------------------

    async def acquire(self, holder: str, ttl_s: float) -> int:
        """Make the key of the leader, with a lease."""
        if await self._get(self._leader) is not None:
            return 0
        grant = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        lease = (await self._client.call(lambda channel: rpc.LeaseStub(channel).LeaseGrant, grant)).ID
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=self._leader, value=holder.encode(), lease=lease))
        answer = await self._client.txn([_absent(self._leader)], [put])
        if not answer.succeeded:
            await self._revoke(lease)
            return 0
        self._lease = lease
        return int(answer.header.revision)

    async def keep(self, token: int, ttl_s: float) -> bool:  # noqa: ARG002 - the lease has its time
        """Keep the lease alive. The key is read as well: a member that was cut off may renew a lease that is over."""
        request = rpc.LeaseKeepAliveRequest(ID=self._lease)
        async with self._client.stream(lambda channel: rpc.LeaseStub(channel).LeaseKeepAlive, request) as call:
            answer = await call.read()
        if not answer or answer.TTL <= 0:
            return False
        kv = await self._get(self._leader)
        return kv is not None and kv.create_revision == token

    async def release(self, token: int) -> None:  # noqa: ARG002 - the lease is that of the token
        """Revoke the lease, and with it the key."""
        lease, self._lease = self._lease, 0
        if lease:
            await self._revoke(lease)

    async def _revoke(self, lease: int) -> None:
        await self._client.call(lambda channel: rpc.LeaseStub(channel).LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))

    # -- keys ---------------------------------------------------------------------------------------------------------

    async def _get(self, key: bytes) -> Any:
        request = rpc.RangeRequest(key=key)
        found = (await self._client.call(lambda channel: rpc.KVStub(channel).Range, request, writes=False)).kvs
        return found[0] if found else None

    async def _range(self, prefix: bytes, **more: Any) -> list[Any]:
        request = rpc.RangeRequest(key=prefix, range_end=prefix_end(prefix), **more)
        return list((await self._client.call(lambda channel: rpc.KVStub(channel).Range, request, writes=False)).kvs)

    async def close(self) -> None:
        """Close the connection."""
        await self._watch.stop()
        await self._client.close()
        self._news.set()


def _put(key: bytes, value: bytes) -> Any:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))


def _absent(key: bytes) -> Any:
    return _created(key, 0)


def _created(key: bytes, revision: int) -> Any:
    compare = rpc.Compare
    return compare(result=compare.EQUAL, target=compare.CREATE, key=key, create_revision=revision)


def _unchanged(key: bytes, revision: int) -> Any:
    compare = rpc.Compare
    return compare(result=compare.EQUAL, target=compare.MOD, key=key, mod_revision=revision)


def _present(key: bytes) -> Any:
    compare = rpc.Compare
    return compare(result=compare.GREATER, target=compare.CREATE, key=key, create_revision=0)
