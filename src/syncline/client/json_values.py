"""Values as JSON, read as the type that the caller names."""

from __future__ import annotations

from typing import TypeVar, overload

import msgspec

from syncline.client.arguments import to_key
from syncline.client.calls import Key
from syncline.client.results import PutResult
from syncline.client.single_keys import SingleKeyCalls
from syncline.client.wire import text_of
from syncline.decoding import UNDECODABLE, json_fault
from syncline.errors import Outcome, RequestFailed
from syncline.platform.texts import encode_exact_json

__all__ = ["JsonCalls"]

Value = TypeVar("Value")


class JsonCalls(SingleKeyCalls):
    """Read and write JSON."""

    @overload
    async def get_json(self, key: Key, type: type[Value], *, timeout: float | None = None) -> Value | None: ...

    @overload
    async def get_json(self, key: Key, type: None = None, *, timeout: float | None = None) -> object: ...

    async def get_json(
        self,
        key: Key,
        type: type[Value] | None = None,  # noqa: A002 - it reads as what it is
        *,
        timeout: float | None = None,
    ) -> object:
        """Read a value that is JSON, as an object of `type`; None if there is no such key.

            import msgspec

            class Job(msgspec.Struct):
                name: str
                tries: int = 0

            await kv.put_json("job/7", Job("send"))
            job = await kv.get_json("job/7", type=Job)
            print(job.tries if job is not None else "no such job")

        `type` is anything that msgspec decodes: a Struct, a dataclass, a TypedDict, `dict[str, int]`. Without it the
        result has Python's plain types. The value `null` without a type is None as well.

        Raises:
            RequestFailed: the value is no JSON, or does not fit the type: code `bad_value`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        found = await self.get(key, timeout=timeout)
        if found is None:
            return None
        try:
            return msgspec.json.decode(found.value) if type is None else msgspec.json.decode(found.value, type=type)
        except UNDECODABLE as error:
            kind = "JSON" if type is None else f"JSON of the type {getattr(type, '__name__', type)}"
            raise RequestFailed(
                f"the value of key {text_of(found.key)!r} (revision {found.mod_revision}) is not {kind}:"
                f" {json_fault(error, found.value)}",
                code="bad_value",
                outcome=Outcome.NOT_APPLIED,
            ) from error

    async def put_json(
        self,
        key: Key,
        value: object,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        ttl: float | None = None,
        lease: str | int | None = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Write a value as JSON. The other arguments are those of `put`.

            await kv.put_json("config/limits", {"clients": 100})

        `value` is anything that msgspec encodes: plain types, Structs, dataclasses, datetimes, UUIDs. Numbers that are
        not finite have no JSON form.

        Raises:
            TypeError: the value has no JSON form; nothing was sent.
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError: an argument can't be used; nothing was sent.
        """
        try:
            body = encode_exact_json(value)
        except TypeError as error:
            raise TypeError(f"the value of key {text_of(to_key(key))!r} has no JSON form: {error}") from error
        return await self.put(
            key,
            body,
            if_revision=if_revision,
            if_absent=if_absent,
            if_present=if_present,
            ttl=ttl,
            lease=lease,
            timeout=timeout,
        )
