"""Copy keys and leases from an etcd cluster, and to one.

Both ways read all keys as they were at one revision. What is copied is keys, values and leases, with the ids of the
leases. Revisions and versions are not copied: the target counts its own. The time of a lease begins again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from syncline.cli.import_export.etcd_gateway import EtcdGateway, EtcdKey
from syncline.cli.import_export.work import CopyProgress, CopyReport, pass_on, run_each
from syncline.client import AsyncClient, PutOp
from syncline.errors import OperationError, Rejected, RequestFailed

__all__ = ["EtcdReport", "copy_from_etcd", "copy_to_etcd"]

REQUESTS: Final = 4
"""Requests that write at a time: they share the rounds of the target's log. More would only hold more in memory."""

BATCH_KEYS: Final = 100
"""Keys of a request. etcd takes 128 operations in a transaction by default."""

BATCH_BYTES: Final = 1024 * 1024
"""Keys and values of a request with several keys: etcd takes 1.5 MiB by default, base64 not counted."""

FIRST_PAGE_KEYS: Final = 16
PAGE_BYTES: Final = 4 * 1024 * 1024
"""What a page of etcd's keys should have. The limit of the next page follows from the size of the last."""

LEAST_TTL_S: Final = 2
"""The shortest time of a lease, here and in etcd."""

OWN_FAULT: Final = frozenset({400, 403, 404, 413})
"""HTTP statuses of a request that can't be carried out as it is: one of its keys may be the reason."""

ENDED: Final = "its lease has ended meanwhile"


class EtcdReport(CopyReport):
    """The result of a copy: keys and leases of one revision of the source."""

    keys: int = 0
    leases: int = 0
    revision: int = 0


async def copy_from_etcd(
    source: EtcdGateway, target: AsyncClient, prefix: bytes, progress: CopyProgress, report: EtcdReport
) -> None:
    """Write all keys of an etcd cluster below a prefix, and their leases. Without a prefix, leases without keys too.

    It is harmless to run it again. Keys that the target has besides stay. A key that can't be written is reported and
    the others go on. Raises `OperationError` if one of both clusters can't be used.
    """

    async def carry(number: int) -> bool:
        found = await source.lease(number)
        if found.ttl_s <= 0:
            return False
        ttl_s = max(LEAST_TTL_S, found.granted_ttl_s)
        try:
            await target.grant_lease(ttl_s, lease=number)
        except Rejected as error:
            if error.code != "lease_exists":
                raise
            await target.keep_alive([number])
        return True

    async def write(keys: list[EtcdKey]) -> None:
        puts = [PutOp(one.key, one.value, lease=one.lease or None) for one in keys]
        try:
            results = await target.batch(puts, idempotent=True)
        except OperationError as error:
            results = [error for _ in keys]
        for one, result in zip(keys, results, strict=True):
            _note(report, progress, one, result if isinstance(result, OperationError) else None)

    leases = _Leases(carry, report)
    await run_each(_batches(_etcd_keys(source, prefix, report), leases, report, progress), write, REQUESTS)
    if not prefix:
        await leases.carry_all(await source.leases())


async def copy_to_etcd(
    source: AsyncClient,
    target: EtcdGateway,
    prefix: bytes,
    progress: CopyProgress,
    report: EtcdReport,
    *,
    consistency: str | None = None,
) -> None:
    """Write all keys below a prefix to an etcd cluster, and their leases. It does what `copy_from_etcd` does.

    A time to live that is no whole number of seconds is rounded up: etcd counts whole ones.
    """

    async def carry(number: int) -> bool:
        try:
            found = await source.lease_details(number)
        except Rejected as error:
            if error.code != "lease_not_found":
                raise
            return False
        await target.grant(number, math.ceil(found.granted_ttl_s))
        return True

    async def keys() -> AsyncIterator[EtcdKey]:
        at = report.revision or None
        async for item in source.scan(prefix, values=True, page=BATCH_KEYS, revision=at, consistency=consistency):
            assert item.value is not None, "values were asked for"
            yield EtcdKey(item.key, item.value, item.lease)

    async def write(batch: list[EtcdKey]) -> None:
        try:
            await target.put(batch)
        except RequestFailed as error:
            if error.status not in OWN_FAULT:
                raise
            if len(batch) == 1:
                _note(report, progress, batch[0], error)
                return
            for one in batch:  # none was written: find the one that can't be
                await write([one])
            return
        for one in batch:
            _note(report, progress, one, None)

    report.revision = (await source.list(prefix, limit=1, consistency=consistency)).revision
    leases = _Leases(carry, report)
    await run_each(_batches(keys(), leases, report, progress), write, REQUESTS)
    if not prefix:
        await leases.carry_all([int(one.id, 16) for one in await source.leases()])


class _Leases:
    """The leases that were carried to the target, each once."""

    def __init__(self, carry: Callable[[int], Awaitable[bool]], report: EtcdReport) -> None:
        """`carry` grants a lease of the source in the target. It returns False if the source has none of this id."""
        self._carry = carry
        self._report = report
        self._alive: dict[int, bool] = {0: True}  # 0: a key without a lease

    async def carry_all(self, numbers: Iterable[int]) -> None:
        unseen = [number for number in dict.fromkeys(numbers) if number not in self._alive]
        for start in range(0, len(unseen), BATCH_KEYS):
            part = unseen[start : start + BATCH_KEYS]
            for number, alive in zip(part, await asyncio.gather(*map(self._carry, part)), strict=True):
                self._alive[number] = alive
                self._report.leases += alive

    def is_alive(self, number: int) -> bool:
        return self._alive[number]


async def _etcd_keys(source: EtcdGateway, prefix: bytes, report: EtcdReport) -> AsyncIterator[EtcdKey]:
    """All keys below a prefix as they were when the first page was read."""
    after, limit, revision = None, FIRST_PAGE_KEYS, 0
    while True:
        page = await source.keys(prefix, after=after, limit=limit, revision=revision)
        revision = report.revision = revision or page.header.revision
        for one in page.kvs:
            yield one
        if not page.more or not page.kvs:
            return
        after = page.kvs[-1].key
        size_bytes = sum(len(one.key) + len(one.value) for one in page.kvs)
        limit = max(1, min(4 * limit, BATCH_KEYS, PAGE_BYTES * len(page.kvs) // max(1, size_bytes)))


async def _batches(
    keys: AsyncIterator[EtcdKey], leases: _Leases, report: EtcdReport, progress: CopyProgress
) -> AsyncIterator[list[EtcdKey]]:
    """The keys that share a request. Their leases are in the target before them."""
    batch: list[EtcdKey] = []
    size_bytes = 0
    async for one in keys:
        more_bytes = len(one.key) + len(one.value)
        if batch and (len(batch) == BATCH_KEYS or size_bytes + more_bytes > BATCH_BYTES):
            if kept := await _with_leases(batch, leases, report, progress):
                yield kept
            batch, size_bytes = [], 0
        batch.append(one)
        size_bytes += more_bytes
    if kept := await _with_leases(batch, leases, report, progress):
        yield kept


async def _with_leases(
    batch: list[EtcdKey], leases: _Leases, report: EtcdReport, progress: CopyProgress
) -> list[EtcdKey]:
    """The keys of a batch whose leases exist: a key of another one is deleted in the source by now."""
    await leases.carry_all(one.lease for one in batch)
    kept = []
    for one in batch:
        if leases.is_alive(one.lease):
            kept.append(one)
        else:
            report.skip(one.key, ENDED)
            progress.advance(len(one.value))
    return kept


def _note(report: EtcdReport, progress: CopyProgress, one: EtcdKey, error: OperationError | None) -> None:
    """Note that a key was written, or why it was not. Raises the errors that the next key would meet as well."""
    if error is None:
        report.keys += 1
        report.size_bytes += len(one.value)
    else:
        pass_on(error)
        report.fail(one.key, str(error))
    progress.advance(len(one.value))
