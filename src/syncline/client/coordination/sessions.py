"""State of users' sessions that several processes share: keys with a time to live."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, cast, overload

import msgspec

from syncline.client.arguments import checked_flag
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import needed_ttl_s
from syncline.errors import ConfigError, OperationError, Rejected
from syncline.platform.entropy import Entropy, system_entropy

__all__ = ["SESSIONS", "BytesUpdate", "DictUpdate", "SessionData", "SessionUpdate", "Sessions"]

SESSIONS: Final = b"sessions/"

SessionData: TypeAlias = bytes | dict[str, object]
"""What a session holds: bytes, or a dict that JSON can carry."""

DictUpdate: TypeAlias = Callable[[dict[str, object]], SessionData | Mapping[str, object]]
BytesUpdate: TypeAlias = Callable[[bytes], SessionData | Mapping[str, object]]

SessionUpdate: TypeAlias = DictUpdate | BytesUpdate
"""What `update` calls. A program knows which of both its sessions hold, so a function of dicts is enough for dicts."""

ID: Final = re.compile(r"[A-Za-z0-9_.~-]{1,128}")
ID_BYTES: Final = 24
"""192 random bits: an id can not be guessed."""

AS_BYTES: Final = b"\0"
"""Before data that was given as bytes. A dict is JSON text, which begins with a brace."""

UPDATES: Final = 100
"""Attempts of `update` before it gives up: then a hundred other writes came between."""


class Sessions:
    """Sessions of users, shared by all workers. `kv.sessions` makes it.

        sessions = kv.sessions(ttl=3600)
        session = await sessions.create({"user": "ada"})
        print(await sessions.get(session))

    A session is a key `sessions/ID` that ends `ttl` seconds after its last `set`, `update` or `touch`. `get` does not
    renew it. A session that has ended, was deleted or never was is None, or False: there is no difference.

    An id is 1 to 128 letters, digits and `_ . ~ -`. Take those that `create` draws: an id that can be guessed can be
    used by others. Errors do not show ids.
    """

    def __init__(self, kv: KeyValueCalls, *, ttl: float = 3600.0, entropy: Entropy = system_entropy) -> None:
        self._kv = kv
        self._entropy = entropy
        self.ttl_s: float = needed_ttl_s(ttl, "a session")

    async def create(self, data: bytes | Mapping[str, object] = b"", *, timeout: float | None = None) -> str:
        """Begin a session with a new id, and return the id: 32 characters, 192 random bits.

            session = await sessions.create({"user": "ada"})

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        name = base64.urlsafe_b64encode(self._entropy(ID_BYTES)).decode("ascii")
        # Written again if its outcome is unknown: no other client knows the key.
        await self._kv.put(session_key(name), packed(data), ttl=self.ttl_s, idempotent=True, timeout=timeout)
        return name

    async def get(self, session: str, *, timeout: float | None = None) -> SessionData | None:
        """Read a session, linearizably: what it was set to, a dict or bytes; None if there is no such.

            print(await sessions.get(session))

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        found = await self._kv.get(session_key(session), timeout=timeout)
        return None if found is None else unpacked(found.value)

    async def set(
        self,
        session: str,
        data: bytes | Mapping[str, object],
        *,
        if_present: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Write a session, and give it its full time.

            await sessions.set(session, {"user": "ada", "cart": 3})

        `if_present=True`: only if there is one; else the result is False, and nothing is written. So a request that is
        still under way does not bring a session back that was deleted.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        try:
            await self._kv.put(
                session_key(session),
                packed(data),
                ttl=self.ttl_s,
                if_present=checked_flag(if_present, "if_present"),
                timeout=timeout,
            )
        except OperationError as error:
            if error.code != "precondition_failed":
                raise
            return False
        return True

    # Two forms, because pyright takes the argument of a lambda from one callable type, and not from a union of them.

    @overload
    async def update(self, session: str, change: DictUpdate, *, timeout: float | None = None) -> SessionData | None: ...

    @overload
    async def update(
        self, session: str, change: BytesUpdate, *, timeout: float | None = None
    ) -> SessionData | None: ...

    async def update(self, session: str, change: SessionUpdate, *, timeout: float | None = None) -> SessionData | None:
        """Change a session by a function of its data, and give it its full time. Returns what was written, or None.

            def add_to_cart(data):
                return {**data, "cart": data.get("cart", 0) + 1}

            print(await sessions.update(session, add_to_cart))

        No write of another client is lost: if one came between, the function is called again with what it wrote.
        `timeout` is for each attempt.

        Raises:
            Rejected: a hundred times another write came between: code `precondition_failed`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument, or what the function returned, can't be used.
        """
        key = session_key(session)
        for _ in range(UPDATES):
            found = await self._kv.get(key, timeout=timeout)
            if found is None:
                return None
            changed = cast("Callable[[SessionData], SessionData]", change)(unpacked(found.value))
            value = packed(changed)
            try:
                await self._kv.put(key, value, ttl=self.ttl_s, if_revision=found.mod_revision, timeout=timeout)
            except OperationError as error:
                if error.code != "precondition_failed":
                    raise
            else:
                return unpacked(value)
        raise Rejected(f"a session was written by others {UPDATES} times meanwhile", code="precondition_failed")

    async def touch(self, session: str, *, timeout: float | None = None) -> bool:
        """Give a session its full time again. Returns False if there is no such.

            print(await sessions.touch(session))

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        try:
            await self._kv.touch(session_key(session), self.ttl_s, timeout=timeout)
        except OperationError as error:
            if error.code != "not_found":
                raise
            return False
        return True

    async def delete(self, session: str, *, timeout: float | None = None) -> bool:
        """End a session. Returns whether there was one.

            print(await sessions.delete(session))

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return (await self._kv.delete(session_key(session), timeout=timeout)).deleted


def session_key(session: object) -> bytes:
    """The key of a session. Raises `TypeError` or `ConfigError`, without the id: an id is a secret."""
    if not isinstance(session, str):
        raise TypeError(f"the id of a session must be a str, not {type(session).__name__}")
    if ID.fullmatch(session) is None:
        raise ConfigError("the id of a session must be 1 to 128 letters, digits and _ . ~ -")
    return SESSIONS + session.encode("ascii")


def packed(data: object) -> bytes:
    """The value that carries the data of a session. Raises `TypeError` or `ConfigError`."""
    if isinstance(data, bytes | bytearray | memoryview):
        return AS_BYTES + bytes(data)
    if not isinstance(data, Mapping):
        raise TypeError(f"data of a session must be bytes or a dict, not {type(data).__name__}")
    for name in data:
        if not isinstance(name, str):
            raise TypeError(f"data of a session: its keys must be str, not {type(name).__name__}")
    try:
        value = msgspec.json.encode(dict(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"data of a session can't be written as JSON: {error}") from error
    return value


def unpacked(value: bytes) -> SessionData:
    """The data of a session: a dict if it is JSON of one, else bytes."""
    if value[:1] == AS_BYTES:
        return value[1:]
    try:
        return msgspec.json.decode(value, type=dict[str, object])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return value  # written by other means
