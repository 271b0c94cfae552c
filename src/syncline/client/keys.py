"""Calls about single keys."""

from __future__ import annotations

from syncline.client.arguments import checked_revision, checked_ttl_s, duration_text, lease_text, to_bytes, to_key
from syncline.client.caller import ClientRequest
from syncline.client.calls import Key, ServerCalls, as_read, reading
from syncline.client.gathered import (
    BATCH_CONSISTENCIES,
    condition_headers,
    delete_in_batch,
    get_in_batch,
    put_condition,
    put_in_batch,
)
from syncline.client.gathering import SendAlone
from syncline.client.results import DeleteResult, KeyValue, PutResult
from syncline.client.wire import decode, key_target, revision_of
from syncline.errors import ConfigError

__all__ = ["KeyCalls"]


class KeyCalls(ServerCalls):
    """Read, write and delete one key."""

    async def get(
        self,
        key: Key,
        *,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Read a key, or what it was at a past revision; None if there is no such key, or was none.

            found = await kv.get("greeting")
            print(found.value if found is not None else "no such key")

        `consistency`: `linearizable` (the server's default: sees every write acknowledged before), `leader`, or
        `stale` (that node's own state; `max_stale_s` limits its age). With a `revision` that is still to come the call
        waits for it.

        Raises:
            Rejected: the revision was compacted: code `compacted`, and the oldest readable one in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        name = to_key(key)
        gathering = self._gathered_reads
        if gathering is not None:
            if consistency not in BATCH_CONSISTENCIES or revision is not None or max_stale_s is not None:
                gathering = None  # no batch carries these
            elif gathering.busy:
                try:
                    return await get_in_batch(gathering, name, self._limit_s(timeout))
                except SendAlone as left:
                    timeout = left.timeout_s
        request = ClientRequest(
            method="GET",
            target=key_target(name),
            parameters=reading(consistency, max_stale_s, revision),
            idempotent=True,
        )
        with as_read():
            if gathering is not None:
                gathering.begin_alone()
            try:
                response = await self._call(request, timeout, absent_ok=True)
            finally:
                if gathering is not None:
                    gathering.end_alone()
            if response is None:
                return None
            return KeyValue(
                key=name,
                value=response.body,
                mod_revision=revision_of(response, "etag"),
                revision=revision_of(response, "syncline-revision"),
            )

    async def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        ttl: float | None = None,
        lease: str | int | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write a key, with at most one condition.

            written = await kv.put("greeting", "hello")
            await kv.put("greeting", "good day", if_revision=written.revision)
            await kv.put("session/7", "open", ttl=30)

        `ttl`: seconds to live; the key gets a lease of its own (`touch` renews it). `lease`: the id of a lease that is
        granted (`grant_lease`); the key ends with it. With neither the key has none.

        `idempotent=True`: it is harmless to write this twice (no other client writes this key meanwhile), so that the
        client may try again if an attempt's outcome is unknown.

        Raises:
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        condition = put_condition(if_revision, if_absent=if_absent, if_present=if_present)
        if ttl is not None and lease is not None:
            raise ConfigError("give one of ttl and lease, not both")
        name, body = to_key(key), to_bytes(value, "value")
        life = None if ttl is None else f"{duration_text(checked_ttl_s(ttl))}s"
        lease_id = None if lease is None else lease_text(lease)
        gathering = self._gathered_writes
        if gathering is not None and gathering.busy and (self._keys is not None or not idempotent):
            try:
                return await put_in_batch(gathering, name, body, condition, life, lease_id, self._limit_s(timeout))
            except SendAlone as left:
                timeout = left.timeout_s
        request = ClientRequest(
            method="PUT",
            target=key_target(name),
            parameters={"ttl": life, "lease": lease_id},
            headers=condition_headers(condition),
            body=body,
            idempotent=idempotent,
            keyed=True,
        )
        return decode(await self._alone(gathering, request, timeout), PutResult)

    async def delete(
        self, key: Key, *, if_revision: int | None = None, idempotent: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete a key; it is no error if there is none. `idempotent` as in `put`.

            print((await kv.delete("greeting")).deleted)

        `if_revision` (1 or more): delete only if the key was last written at this revision.

        Raises:
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        condition = None if if_revision is None else checked_revision(if_revision, "if_revision", 1)
        name = to_key(key)
        gathering = self._gathered_writes
        if gathering is not None and gathering.busy and (self._keys is not None or not idempotent):
            try:
                return await delete_in_batch(gathering, name, condition, self._limit_s(timeout))
            except SendAlone as left:
                timeout = left.timeout_s
        headers = condition_headers(condition)
        request = ClientRequest(
            method="DELETE", target=key_target(name), headers=headers, idempotent=idempotent, keyed=True
        )
        return decode(await self._alone(gathering, request, timeout), DeleteResult)
