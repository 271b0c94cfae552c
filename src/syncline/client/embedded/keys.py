"""Calls about single keys."""

from __future__ import annotations

from syncline.client.arguments import checked_revision, checked_ttl_s, lease_text, to_bytes, to_key
from syncline.client.calls import Key
from syncline.client.embedded.calls import EmbeddedCalls, check_reading, read_plan
from syncline.client.embedded.commands import lease_number, milliseconds
from syncline.client.results import DeleteResult, KeyValue, PutResult
from syncline.errors import ConfigError
from syncline.kv.commands import ABSENT, EXISTS, Delete, Put, encode_command
from syncline.kv.records import DeleteAnswer, PutAnswer
from syncline.kv.serving.key_limits import bad_request
from syncline.kv.serving.reads import MAX_REVISION
from syncline.kv.store import KeyStore

__all__ = ["EmbeddedKeyCalls"]


class EmbeddedKeyCalls(EmbeddedCalls):
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

            found = await store.get("greeting")
            print(found.value if found is not None else "no such key")

        The arguments and errors are those of `AsyncClient.get`. Gets of one moment share one confirmation.

        Raises:
            Rejected: the revision was compacted: code `compacted`, and the oldest readable one in `details`.
            DeadlineExceeded: it could not be confirmed in time.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used.
        """
        name = to_key(key)
        timeout_s = self._limit_s(timeout)
        limits = self._embedded.limits
        if not 0 < len(name) <= limits.max_key_bytes:
            check_reading(consistency, max_stale_s, revision)
            limits.check_key(name, "get")
        plan = read_plan(consistency, max_stale_s, revision, timeout_s)
        past = plan.revision

        def look(store: KeyStore) -> KeyValue | None:
            record = store.get(name, past)
            return None if record is None else KeyValue(name, record.value, record.mod_revision, store.revision)

        return await self._read(look, plan)

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
        idempotent: bool = False,  # noqa: ARG002 - the signature is the client's
        timeout: float | None = None,
    ) -> PutResult:
        """Write a key, with at most one condition.

            written = await store.put("greeting", "hello")
            await store.put("greeting", "good day", if_revision=written.revision)

        The arguments and errors are those of `AsyncClient.put`. `idempotent` changes nothing: the node itself proposes
        a write again as long as that is safe, and tells an unknown outcome at the deadline alone.

        Raises:
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        name, content = to_key(key), to_bytes(value, "value")
        expect = None
        if if_revision is not None or if_absent or if_present:
            expect = _expectation(if_revision, if_absent=bool(if_absent), if_present=bool(if_present))
        lease_id = ttl_ms = 0
        attached = ttl is not None or lease is not None
        if attached:
            _check_lease(ttl, lease)
        timeout_s = self._limit_s(timeout)
        self._check_key(name)
        self._embedded.limits.check_value(content, "put")
        if attached:
            lease_id, ttl_ms = self._lease_of(ttl, lease)
        command = encode_command(Put(name, content, lease_id, expect, ttl_ms))
        answer = await self._write(command, timeout_s)
        assert isinstance(answer, PutAnswer), answer
        return PutResult(answer.revision, f"{answer.lease:016x}" if answer.lease else "")

    async def delete(
        self,
        key: Key,
        *,
        if_revision: int | None = None,
        idempotent: bool = False,  # noqa: ARG002 - the signature is the client's
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete a key; it is no error if there is none. `idempotent` as in `put`.

            print((await store.delete("greeting")).deleted)

        `if_revision` (1 or more): delete only if the key was last written at this revision.

        Raises:
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded: no answer came in time (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was proposed.
        """
        expect = None if if_revision is None else _revision(checked_revision(if_revision, "if_revision", 1))
        name, timeout_s = to_key(key), self._limit_s(timeout)
        self._check_key(name)
        answer = await self._write(encode_command(Delete(name, expect)), timeout_s, frees_space=True)
        assert isinstance(answer, DeleteAnswer), answer
        return DeleteResult(answer.deleted, answer.revision)

    def _check_key(self, key: bytes) -> None:
        limits = self._embedded.limits
        if not 0 < len(key) <= limits.max_key_bytes:
            limits.check_key(key, "the call")

    def _lease_of(self, ttl: float | None, lease: str | int | None) -> tuple[int, int]:
        """The lease of a put, and the milliseconds of a new one."""
        if ttl is not None:
            return self._embedded.node.new_lease(), milliseconds(ttl, "put")
        return lease_number(lease_text(lease), "put"), 0


def _check_lease(ttl: float | None, lease: str | int | None) -> None:
    if ttl is not None and lease is not None:
        raise ConfigError("give one of ttl and lease, not both")
    if ttl is not None:
        checked_ttl_s(ttl)
    if lease is not None:
        lease_text(lease)


def _expectation(if_revision: int | None, *, if_absent: bool, if_present: bool) -> int | None:
    """The `expect` of a command."""
    if (if_revision is not None) + if_absent + if_present > 1:
        raise ConfigError("give one of if_revision, if_absent and if_present, not several")
    if if_revision is not None:
        return _revision(checked_revision(if_revision, "if_revision", 0))
    return ABSENT if if_absent else EXISTS


def _revision(revision: int) -> int:
    if revision > MAX_REVISION:
        raise bad_request(f"if_revision is {revision}: it must be at most {MAX_REVISION}")
    return revision
