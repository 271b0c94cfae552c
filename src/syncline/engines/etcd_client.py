"""gRPC calls to an etcd cluster: one connection at a time, the next host after a failure, tokens, and errors.

The messages and stubs are those of `aetcd`. Its client has one host, no TLS, and no way to ask for `hasleader`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from aetcd import rpc

from syncline.engines.backend import BackendFull, BackendLost, LogReplaced
from syncline.engines.urls import EtcdUrl
from syncline.errors import ConfigError

__all__ = ["EtcdClient", "read_only", "rpc"]

CALL_S: Final = 4.0
MAX_RECEIVE_BYTES: Final = 64 << 20

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_HAS_LEADER: Final = ("hasleader", "true")
"""A member that is cut off refuses at once. Without it a watch there is just silent."""

_NOT_SENT: Final = ("failed to connect", "connection refused", "name resolution", "dns", "etcdserver: no leader")
_FOR_GOOD: Final = ("permission denied", "authentication failed", "user name is empty", "authentication is not enabled")
_HINTS: Final = (
    ("permission denied", "grant a role of the user readwrite on the prefix LOG/ (docs/engines.md)"),
    ("user name is empty", "this cluster has users: write etcd://USER:PASSWORD@HOST:PORT/LOG"),
    ("authentication is not enabled", "this cluster has no users: write etcd://HOST:PORT/LOG"),
)
"""What to do about some refusals."""


class EtcdClient:
    """Calls to the members of one cluster."""

    def __init__(self, url: EtcdUrl) -> None:
        self._url = url
        self._name = url.shown
        self._host = 0
        self._channel: Any = None
        self._token = ""
        self._cluster = 0
        self._closing: set[asyncio.Task[None]] = set()

    # -- calls --------------------------------------------------------------------------------------------------------

    async def txn(
        self, compare: list[Any], success: list[Any], failure: list[Any] | None = None, *, writes: bool = True
    ) -> Any:
        """One transaction. `writes`: whether it matters that a lost one may have taken effect."""
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure or [])
        return await self.call(lambda channel: rpc.KVStub(channel).Txn, request, writes=writes)

    async def call(self, method: Callable[[Any], Any], request: Any, *, writes: bool = True) -> Any:
        """One unary call; on the next host too if this one can't be reached.

        Raises:
            BackendLost: there is no answer.
            ConfigError: the cluster refuses the user.
            LogReplaced: it is another cluster than before.
        """
        for last in [False] * (len(self._url.hosts) - 1) + [True]:
            channel = self._connected()
            try:
                return await self._call_here(channel, method, request)
            except rpc.AioRpcError as error:
                failure = self._failed(error, writes=writes)
                if isinstance(failure, BackendLost):
                    self._next_host(channel)
                    if not failure.sent and not last and not isinstance(failure, BackendFull):
                        continue
                raise failure from error
        raise AssertionError("the last host has answered, or failed")

    async def _call_here(self, channel: Any, method: Callable[[Any], Any], request: Any) -> Any:
        answer = await method(channel)(request, timeout=CALL_S, metadata=await self._metadata(channel))
        self.check_cluster(answer.header)
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, method: Callable[[Any], Any], request: Any) -> AsyncIterator[Any]:
        """A stream that begins with this request. Its end, and errors, are `BackendLost`."""
        try:
            channel = self._connected()
            call = method(channel)(metadata=await self._metadata(channel))
            try:
                await call.write(request)
                yield call
            finally:
                call.cancel()
        except rpc.AioRpcError as error:
            raise self._failed(error, writes=False) from error

    def check_cluster(self, header: Any) -> None:
        """Raise LogReplaced if another cluster answers."""
        if not self._cluster:
            self._cluster = header.cluster_id
        elif header.cluster_id != self._cluster:
            raise LogReplaced(f"{self._name}: the cluster has the id {header.cluster_id:x}, before {self._cluster:x}")

    # -- connections --------------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        if self._channel is None:
            host = self._url.hosts[self._host % len(self._url.hosts)]
            if self._url.tls:
                self._channel = rpc.secure_channel(host, self._credentials(), options=_OPTIONS)
            else:
                self._channel = rpc.insecure_channel(host, options=_OPTIONS)
        return self._channel

    def _credentials(self) -> Any:
        url = self._url
        return grpc.ssl_channel_credentials(_content(url.ca), _content(url.key), _content(url.cert))

    async def _metadata(self, channel: Any) -> tuple[tuple[str, str], ...]:
        if not self._url.user:
            return (_HAS_LEADER,)
        if not self._token:
            request = rpc.AuthenticateRequest(name=self._url.user, password=self._url.password)
            answer = await rpc.AuthStub(channel).Authenticate(request, timeout=CALL_S)
            self._token = answer.token
        return (_HAS_LEADER, ("token", self._token))

    def _next_host(self, failed: Any) -> None:
        """Go on with the next host, unless another call has done so already.

        Calls on the old connection have time to end: grpc would cancel them, and their tasks with them.
        """
        if failed is not self._channel:
            return
        self._channel = None
        self._host += 1
        self._token = ""
        closing = asyncio.get_running_loop().create_task(failed.close(CALL_S + 1.0))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections. No call is under way."""
        channel, self._channel = self._channel, None
        for closing in list(self._closing):
            closing.cancel()
        if self._closing:
            await asyncio.wait(self._closing)
        if channel is not None:
            await channel.close()

    def _failed(self, error: Any, *, writes: bool) -> Exception:
        code, details = error.code(), " ".join((error.details() or "").split())
        text, low = f"{self._name}: {details or code.name}", details.lower()
        if "database space exceeded" in low:
            return BackendFull(f"{text}; compact and defragment it, and disarm the alarm (docs/engines.md)")
        if any(word in low for word in _FOR_GOOD) or code is grpc.StatusCode.UNIMPLEMENTED:
            hint = next((f": {hint}" for word, hint in _HINTS if word in low), "")
            return ConfigError(f"{text}{hint}")
        if "invalid auth token" in low or code is grpc.StatusCode.UNAUTHENTICATED:
            self._token = ""
            return BackendLost(text, sent=False)
        return BackendLost(text, sent=writes and not any(word in low for word in _NOT_SENT))


def _content(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{path} holds no certificate and no key in the form PEM")
    return content


def read_only(key: bytes, **more: Any) -> Any:
    """A step of a transaction that reads a key or a range."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, **more))
