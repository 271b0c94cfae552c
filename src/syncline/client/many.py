"""Many keys in one call: as few batches as their number and sizes allow."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from syncline.client.arguments import checked_items, checked_mapping, checked_ttl_s, duration_text, to_bytes, to_key
from syncline.client.caller import ClientRequest
from syncline.client.calls import Key, as_read
from syncline.client.operations import OperationCalls
from syncline.client.results import KeyValue, OperationResult, PutResult
from syncline.client.txn import MSGPACK_BODY, Fields, packed_batch
from syncline.client.wire import batch_results, revision_of
from syncline.errors import OperationError, TooLarge

__all__ = ["ManyCalls", "ManyKeys"]

MANY: Final = 1_000
"""Operations of one batch: the server's limit."""

MANY_BYTES: Final = 2 << 20
"""Keys and values of one batch. The server takes a body of 4 MiB."""

FIELD_BYTES: Final = 32
"""Of an operation, beside key and value."""


class ManyKeys(ABC):
    """Read and write many keys."""

    _limit_s: Callable[[float | None], float]
    """The time of one call."""
    _many_bytes: int = MANY_BYTES

    async def get_many(self, keys: Iterable[Key], *, timeout: float | None = None) -> dict[bytes, KeyValue]:
        """Read many keys, linearizably. A key that does not exist is not in the result.

            found = await kv.get_many(["greeting", "visits"])
            print(found[b"greeting"].value if b"greeting" in found else "no such key")

        Each 1,000 keys are of one moment, unless their values come to more than 16 MiB. `timeout`: for all of them.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        left = list(dict.fromkeys(to_key(key) for key in checked_items(keys, "keys")))
        deadline_s = asyncio.get_running_loop().time() + self._limit_s(timeout)
        found: dict[bytes, KeyValue] = {}
        order = list(left)
        while left:
            asked, left = left[:MANY], left[MANY:]
            too_many = await self._get_some(asked, deadline_s, found)
            left = too_many + left
        return {key: found[key] for key in order if key in found}

    async def put_many(
        self,
        values: Mapping[str, bytes | str] | Mapping[bytes, bytes | str],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> dict[bytes, PutResult]:
        """Write many keys: in order, and not atomically (`txn` is). The result has the revision of each.

            written = await kv.put_many({"greeting": "hello", "farewell": "bye"})
            print(written[b"farewell"].revision)

        `ttl`: seconds to live of each key; it gets a lease of its own. `timeout`: for all of them.

        Raises:
            TooLarge: a key or a value is above a limit. The others may have been written, as after any error.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        life = None if ttl is None else f"{duration_text(checked_ttl_s(ttl))}s"
        puts: list[Fields] = []
        for key, value in checked_mapping(values, "values").items():
            put: Fields = {"op": "put", "key": to_key(key), "value": to_bytes(value, "value")}
            if life is not None:
                put["ttl"] = life
            puts.append(put)
        deadline_s = asyncio.get_running_loop().time() + self._limit_s(timeout)
        written: dict[bytes, PutResult] = {}
        failed: OperationError | None = None
        for items in _batches(puts, self._many_bytes):
            for item, result in zip(items, await self._carry_out_batch(items, _left_s(deadline_s)), strict=True):
                name = item["key"]
                assert isinstance(name, bytes)
                if isinstance(result, OperationResult):
                    written[name] = PutResult(result.revision, result.lease)
                elif failed is None:
                    failed = result
        if failed is not None:
            raise failed
        return written

    if TYPE_CHECKING:

        @abstractmethod
        async def _carry_out_batch(
            self, items: Sequence[Fields], timeout_s: float, *, idempotent: bool = False
        ) -> list[OperationResult | OperationError]:
            """Carry out one batch that writes."""

        @abstractmethod
        async def _get_some(self, keys: list[bytes], deadline_s: float, found: dict[bytes, KeyValue]) -> list[bytes]:
            """Read up to 1,000 keys. Returns those for which the batch had no room any more."""


class ManyCalls(OperationCalls, ManyKeys):
    """Read and write many keys, by batches of a server."""

    async def _get_some(self, keys: list[bytes], deadline_s: float, found: dict[bytes, KeyValue]) -> list[bytes]:
        """Read up to 1,000 keys. Returns those for which the batch had no room any more."""
        left: list[bytes] = []
        with as_read():
            request = ClientRequest(
                method="POST",
                target="/batch",
                headers=MSGPACK_BODY,
                body=packed_batch([{"op": "get", "key": key} for key in keys]),
                idempotent=True,
                reads=True,
            )
            response = await self._answer(request, _left_s(deadline_s))
            revision = revision_of(response, "syncline-revision")
            for key, result in zip(keys, batch_results(response, len(keys)), strict=True):
                if isinstance(result, OperationError):
                    # TooLarge: the answer has no room, or the key itself is too long. The first key of the next batch
                    # tells. An error after that waits for it, so that the first key in order decides the error.
                    if key == keys[0] or not (left or isinstance(result, TooLarge)):
                        raise result
                    left.append(key)
                elif result.found:
                    found[key] = KeyValue(key, result.value, result.mod_revision, revision)
        return left


def _left_s(deadline_s: float) -> float:
    return max(0.001, deadline_s - asyncio.get_running_loop().time())


def _batches(items: list[Fields], most_bytes: int) -> Iterator[list[Fields]]:
    """Operations in pieces of the size of a batch."""
    piece: list[Fields] = []
    size_bytes = 0
    for item in items:
        key, value = item["key"], item["value"]
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        own_bytes = len(key) + len(value) + FIELD_BYTES
        if piece and (len(piece) == MANY or size_bytes + own_bytes > most_bytes):
            yield piece
            piece, size_bytes = [], 0
        piece.append(item)
        size_bytes += own_bytes
    if piece:
        yield piece
