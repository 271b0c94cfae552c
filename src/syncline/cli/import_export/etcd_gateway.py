"""Client of etcd's JSON gateway: the calls that `import --from-etcd` and `export --to-etcd` make.

Bytes are base64 in its JSON, and 64-bit integers are text. Each call is harmless to repeat, so it is repeated until its
deadline. Source: etcd 3.4, `etcdserver/etcdserverpb/rpc.proto` and `Documentation/dev-guide/api_grpc_gateway.md`.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from syncline.client.caller import Caller, ClientRequest
from syncline.client.connection import ClientResponse
from syncline.client.endpoints import Endpoint, EndpointSet, parse_endpoints
from syncline.client.wire import text_of
from syncline.decoding import UNDECODABLE
from syncline.errors import OperationError, Outcome, RequestFailed
from syncline.kv.store import prefix_end
from syncline.platform.network import TcpNetwork
from syncline.platform.tls import new_context
from syncline.version import __version__

__all__ = ["EtcdGateway", "EtcdKey", "EtcdKeys", "EtcdLease", "EtcdLogin"]

OLDEST_VERSION: Final = (3, 4)
"""Older servers have the gateway under other paths (`/v3beta`, `/v3alpha`), and none is maintained."""

NO_END: Final = b"\0"
"""As the end of a range: all keys from its start on. As its start: from the first key on."""

FIRST_ANSWER_S: Final = 10.0
"""Longest wait for the first answer: if it does not come, the URL is probably wrong."""

SHOWN_BYTES: Final = 300
"""Bytes of an answer that is none of etcd's, in an error."""

BAD_REQUEST: Final = 400
UNAUTHENTICATED: Final = 401
SERVER_FAULT: Final = 500
EXISTS: Final = 9
"""gRPC's FAILED_PRECONDITION: the answer to a grant if the lease exists."""

_CODES: Final = {
    3: "bad_request",
    4: "deadline_exceeded",
    5: "not_found",
    7: "permission_denied",
    8: "no_space",
    9: "failed_precondition",
    11: "out_of_range",
    14: "unavailable",
    16: "unauthenticated",
}
"""Names of gRPC's status codes, for `--json`."""

Answer = TypeVar("Answer")


class EtcdLogin(msgspec.Struct, frozen=True):
    """A user of etcd's, and the password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "EtcdLogin(…)"


class EtcdKey(msgspec.Struct, frozen=True):
    """A key of a range. `lease` is 0 if it has none."""

    key: bytes
    value: bytes = b""
    lease: int = 0


class _EtcdHeader(msgspec.Struct, frozen=True):
    revision: int = 0


class EtcdKeys(msgspec.Struct, frozen=True):
    """A page of a range, and the number of keys of the whole range."""

    header: _EtcdHeader
    kvs: tuple[EtcdKey, ...] = ()
    count: int = 0
    more: bool = False


class EtcdLease(msgspec.Struct, frozen=True, rename={"ttl_s": "TTL", "granted_ttl_s": "grantedTTL"}):
    """What is left of a lease's time, in seconds; -1 if there is no such lease."""

    ttl_s: int = 0
    granted_ttl_s: int = 0


class _EtcdLeaseId(msgspec.Struct, frozen=True, rename={"number": "ID"}):
    number: int


class _EtcdLeases(msgspec.Struct, frozen=True):
    leases: tuple[_EtcdLeaseId, ...] = ()


class _EtcdVersion(msgspec.Struct, frozen=True):
    etcdserver: str


class _EtcdToken(msgspec.Struct, frozen=True):
    token: str


class _EtcdError(msgspec.Struct, frozen=True):
    message: str = ""
    error: str = ""
    code: int = 0


class _Ignored(msgspec.Struct, frozen=True):
    """An answer of which only the arrival counts."""


class EtcdGateway:
    """The keys and leases of one etcd cluster.

    Methods raise `Unreachable`, `DeadlineExceeded`, or `RequestFailed` with etcd's own text.
    """

    def __init__(
        self,
        urls: str,
        *,
        timeout_s: float,
        login: EtcdLogin | None = None,
        tls: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`urls`: any of its nodes, with commas. `timeout_s` bounds a call, with its retries. Raises `ConfigError`."""
        found = parse_endpoints(urls)
        secure = any(url.startswith("https://") for url in found)
        context = new_context(tls or ssl.create_default_context(), server_side=False) if secure else None
        network = TcpNetwork()
        self.urls: str = ",".join(found)
        self._set = EndpointSet([Endpoint(url, network=network, tls=context) for url in found])
        self._timeout_s = timeout_s
        self._login = login
        self._rng = random.Random() if rng is None else rng
        self._caller = self._new_caller("")

    async def __aenter__(self) -> Self:
        """Look which version serves, and log in. Nothing is changed."""
        try:
            await self._check_version()
            if self._login is not None:
                await self._authenticate(self._login)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End its connections."""
        self._caller.close()
        await self._set.close()

    async def keys(self, prefix: bytes, *, after: bytes | None, limit: int, revision: int) -> EtcdKeys:
        """A page of the keys below a prefix, with their values. `revision` 0: as they are now."""
        body = {**_range(prefix, after), "limit": limit, "revision": revision}
        return await self._call("/v3/kv/range", body, EtcdKeys)

    async def count(self, prefix: bytes) -> int:
        """The number of keys below a prefix."""
        return (await self._call("/v3/kv/range", {**_range(prefix, None), "count_only": True}, EtcdKeys)).count

    async def put(self, keys: Sequence[EtcdKey]) -> None:
        """Write up to 128 keys, all or none (etcd's default limit of a transaction)."""
        puts = [{"request_put": {"key": one.key, "value": one.value, "lease": one.lease}} for one in keys]
        await self._call("/v3/kv/txn", {"success": puts}, _Ignored)

    async def lease(self, number: int) -> EtcdLease:
        """The times of a lease."""
        return await self._call("/v3/lease/timetolive", {"ID": number}, EtcdLease)

    async def leases(self) -> list[int]:
        """The ids of all leases."""
        return [one.number for one in (await self._call("/v3/lease/leases", {}, _EtcdLeases)).leases]

    async def grant(self, number: int, ttl_s: int) -> None:
        """Grant a lease with this id; if it exists, give it its full time again."""
        try:
            await self._call("/v3/lease/grant", {"ID": number, "TTL": ttl_s}, _Ignored)
        except RequestFailed as error:
            if error.code != _CODES[EXISTS]:
                raise
            await self._call("/v3/lease/keepalive", {"ID": number}, _Ignored)

    async def _check_version(self) -> None:
        request = ClientRequest(method="GET", target="/version", idempotent=True, timed=False)
        answer = await self._caller.call(request, min(self._timeout_s, FIRST_ANSWER_S))
        version = _decoded(answer, _EtcdVersion, self.urls).etcdserver
        parts = version.split(".")
        if not all(part.isdecimal() for part in parts[:2]) or tuple(map(int, parts[:2])) < OLDEST_VERSION:
            raise RequestFailed(
                f"{self.urls} is etcd {version}: 3.4 is the oldest version that can be read and written",
                code="old_version",
                outcome=Outcome.NOT_APPLIED,
            )

    async def _authenticate(self, login: EtcdLogin) -> None:
        body = {"name": login.user, "password": login.password}
        token = (await self._send("/v3/auth/authenticate", body, _EtcdToken)).token
        self._caller = self._new_caller(token)

    async def _call(self, path: str, body: Mapping[str, object], answer: type[Answer]) -> Answer:
        try:
            return await self._send(path, body, answer)
        except RequestFailed as error:
            if error.status != UNAUTHENTICATED or self._login is None:
                raise
        # etcd's tokens end after some minutes, and with the node that made them.
        await self._authenticate(self._login)
        return await self._send(path, body, answer)

    async def _send(self, path: str, body: Mapping[str, object], answer: type[Answer]) -> Answer:
        request = ClientRequest(
            method="POST",
            target=path,
            headers=(("Content-Type", "application/json"),),
            body=msgspec.json.encode(body),
            idempotent=True,
            timed=False,
        )
        return _decoded(await self._caller.call(request, self._timeout_s), answer, self.urls)

    def _new_caller(self, token: str) -> Caller:
        return Caller(
            self._set,
            rng=self._rng,
            user_agent=f"syncline/{__version__}",
            retry_refused=False,
            authorization=token,
            read_error=_error_of,
        )


def _range(prefix: bytes, after: bytes | None) -> dict[str, object]:
    """The range of a prefix, behind a key. etcd takes a zero byte for the first key, and for no end."""
    end = prefix_end(prefix)
    start = prefix or NO_END if after is None else after + b"\0"
    return {"key": start, "range_end": NO_END if end is None else end}


def _decoded(response: ClientResponse, answer: type[Answer], urls: str) -> Answer:
    """The content of an answer."""
    if response.status >= BAD_REQUEST:
        raise _error_of(response)
    try:
        return msgspec.json.decode(response.body, type=answer, strict=False)  # 64-bit numbers are text
    except UNDECODABLE as error:
        shown = text_of(response.body[:SHOWN_BYTES])
        raise RequestFailed(
            f"{urls}: the answer is none of etcd's ({error}): {shown}",
            code="bad_answer",
            status=response.status,
            outcome=Outcome.UNKNOWN,
        ) from error


def _error_of(response: ClientResponse) -> OperationError:
    """The error that an answer above 299 stands for, with etcd's text."""
    try:
        found = msgspec.json.decode(response.body, type=_EtcdError)
    except UNDECODABLE:
        found = _EtcdError()
    told = found.message or found.error
    if told:
        text, code = f"etcd: {told}", _CODES.get(found.code, "etcd")
    else:
        shown = text_of(response.body[:SHOWN_BYTES]).strip() or "no explanation"
        text, code = f"status {response.status}, and an answer that is none of etcd's: {shown}", "bad_answer"
    outcome = Outcome.NOT_APPLIED if response.status < SERVER_FAULT else Outcome.UNKNOWN
    return RequestFailed(text, code=code, status=response.status, outcome=outcome)
