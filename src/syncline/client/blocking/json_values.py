"""Blocking calls for values as JSON."""

from __future__ import annotations

from typing import TypeVar, overload

from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import PutResult

__all__ = ["BlockingJsonCalls"]

Value = TypeVar("Value")


class BlockingJsonCalls(PortalObject[AsyncClient]):
    """Read and write JSON."""

    @overload
    def get_json(self, key: Key, type: type[Value], *, timeout: float | None = None) -> Value | None: ...

    @overload
    def get_json(self, key: Key, type: None = None, *, timeout: float | None = None) -> object: ...

    def get_json(
        self,
        key: Key,
        type: type[Value] | None = None,  # noqa: A002 - as in the async face
        *,
        timeout: float | None = None,
    ) -> object:
        """Read a value that is JSON, as an object of `type`; None if there is no such key.

            class Job(msgspec.Struct):
                name: str
                tries: int = 0

            kv.put_json("job/7", Job("send"))
            job = kv.get_json("job/7", type=Job)
            print(job.tries if job is not None else "no such job")

        Its arguments and errors are those of `AsyncClient.get_json`.
        """
        if type is None:
            return self._call(lambda kv: kv.get_json(key, timeout=timeout))
        return self._call(lambda kv: kv.get_json(key, type, timeout=timeout))

    def put_json(
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

            kv.put_json("config/limits", {"clients": 100})

        Its arguments and errors are those of `AsyncClient.put_json`.
        """
        return self._call(
            lambda kv: kv.put_json(
                key,
                value,
                if_revision=if_revision,
                if_absent=if_absent,
                if_present=if_present,
                ttl=ttl,
                lease=lease,
                timeout=timeout,
            )
        )
