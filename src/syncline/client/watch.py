"""Calls that watch keys."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from msgspec import UNSET

from syncline.client.arguments import checked_revision, checked_timeout_s, duration_text, to_bytes, to_key
from syncline.client.caller import Caller, ClientRequest
from syncline.client.calls import Key, ServerCalls, as_read
from syncline.client.connection import MAX_BODY_BYTES, BadAnswer, ConnectionLost
from syncline.client.endpoints import ConnectFailed, Endpoint
from syncline.client.results import KeyEvent, KeyInfo, RevisionEvents
from syncline.client.streaming import StreamConnection
from syncline.client.watch_schemas import ChangeItem, ValueItem, Watchers, WatchLine
from syncline.client.wire import bytes_of, decode, operation_error, quoted, revision_of
from syncline.decoding import UNDECODABLE
from syncline.errors import (
    ConfigError,
    OperationError,
    Outcome,
    RequestFailed,
    RevisionCompacted,
    Unreachable,
    WatchEnded,
)

__all__ = ["WatchCalls", "checked_progress_s", "watched_keys"]

PROGRESS_S: Final = 10.0
"""How often a server tells its progress, if the caller wants no other time."""
LEAST_PROGRESS_S: Final = 1.0
MOST_PROGRESS_S: Final = 3600.0
SILENCE: Final = 3
"""After so many times of its progress without a word a server is left for another."""
ATTEMPT_S: Final = 3.0
"""Time limit of one attempt to begin: a server that hangs is left for another one."""
STEADY_S: Final = 1.0
"""A watch that lasted for less counts as a failed attempt: a server that ends each at once must not be asked in a
loop."""
KINDS: Final = ("put", "delete")
_PERMANENT: Final = frozenset({400, 403, 404, 405, 413, 414, 421, 431})
"""Statuses after which another server would not answer differently."""

_decoder: Final = msgspec.json.Decoder(WatchLine)


class WatchCalls(ServerCalls):
    """Watch keys."""

    def watch(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        from_revision: int | None = None,
        events: str | None = None,
        prev: bool = False,
        stale: bool = False,
        progress: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[RevisionEvents]:
        """Watch a key, the keys below a prefix, or those from `start` up to `end`: what changes, revision by revision.

            async for change in kv.watch(prefix="", from_revision=1):
                for event in change.events:
                    print(change.revision, event.type, event.key, event.value)
                break  # or go on

        It begins with `from_revision` (inclusive), by default with the next one. If the connection is lost, or the
        server ends the watch, it goes on with another server where it was: no revision is lost, none comes twice, and
        each is whole. `events`: only `put` or only `delete`. `prev`: with what the key was before. `stale`: also from a
        node that knows no leader. `progress`: how often (seconds, from 1 to 3600; None: 10) the server gives a sign of
        life while nothing changes. If none comes for three times as long, the watch goes on with another server.

        The first server must be reached within the client's timeout. Later the watch waits for a server for as long as
        `timeout` says (seconds); without it there is no limit.

        Raises:
            RevisionCompacted: the history begins after the revision that is wanted: read the present state, and watch
                from the revision after it. `oldest` has where the history begins.
            Unreachable, DeadlineExceeded: no server could be watched in time.
            OperationError: the servers refused it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        wanted = watched_keys(key, prefix, start, end, events)
        wanted["prev"] = "true" if prev else None
        wanted["stale"] = "true" if stale else None
        progress_s = checked_progress_s(progress)
        wanted["progress"] = duration_text(progress_s)
        first = 0 if from_revision is None else checked_revision(from_revision, "from_revision", 1)
        patience_s = math.inf if timeout is None else checked_timeout_s(timeout)
        return self._watching(wanted, first, patience_s, SILENCE * progress_s)

    async def watchers(self, key: Key, *, timeout: float | None = None) -> Watchers:
        """Count the watches that include a key, and the reads that wait for it, on the node that answers.

            print((await kv.watchers("config/size")).watches)

        Each node has watches of its own: ask each for the sum. The key need not exist.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            PermissionDenied: the user may not read the key.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        target = f"/watchers?key={quoted(to_key(key))}"
        request = ClientRequest(method="GET", target=target, idempotent=True, timed=False)
        with as_read():
            return decode(await self._answer(request, timeout), Watchers)

    async def _watching(
        self, wanted: dict[str, str | bytes | None], revision: int, patience_s: float, silence_s: float
    ) -> AsyncIterator[RevisionEvents]:
        """The revisions from `revision` on; 0: from the next one."""
        now_s, caller = asyncio.get_running_loop().time, self._caller
        outage = _Outage(now_s() + self._timeout_s, caller)
        while True:
            connection: StreamConnection | None = None
            endpoint, began_s = outage.pick(), now_s()
            try:
                request = _request({**wanted, "from": str(revision) if revision else None})
                response, connection = await caller.open_stream(request, endpoint, outage.attempt_s(began_s))
                revision = revision or revision_of(response, "syncline-revision") + 1
                lines = _Lines(connection, silence_s)
                while True:
                    line = await lines.next()
                    if line.progress is not None:
                        revision = max(revision, line.progress.revision + 1)
                    elif line.revision >= revision:
                        revision = line.revision + 1
                        yield RevisionEvents(line.revision, tuple(_event(item) for item in line.events))
            except OperationError as error:
                error.outcome = Outcome.NOT_APPLIED
                if connection is not None:
                    outage.interrupted(now_s() + patience_s, steady=now_s() - began_s > STEADY_S)
                    if not (isinstance(error, WatchEnded) and error.code == "slow_watcher"):
                        endpoint.failed(now_s())
                pause_s = outage.pause_s(error)
                if pause_s is None or caller.closed or now_s() + pause_s >= outage.give_up_s:
                    raise
                caller.told(error)
            finally:
                if connection is not None:
                    connection.abort()
            await asyncio.sleep(pause_s)
            if caller.closed:
                raise Unreachable("the client was closed")


class _Outage:
    """A time without a watch: which servers were tried, and until when it may last."""

    def __init__(self, give_up_s: float, caller: Caller) -> None:
        self.give_up_s = give_up_s
        self._caller = caller
        self._tried: set[Endpoint] = set()
        self._failures = 0
        self._refusals = 0
        self._connected = False

    def pick(self) -> Endpoint:
        """The server to ask next."""
        return self._caller.pick(self._tried)

    def attempt_s(self, now_s: float) -> float:
        """How long one attempt may take."""
        return max(0.1, min(ATTEMPT_S, self.give_up_s - now_s))

    def interrupted(self, give_up_s: float, *, steady: bool) -> None:
        """A watch has ended that had begun. `steady`: it had lasted, so this is a new outage."""
        if steady or not self._connected:
            self._failures = 0
            self._tried.clear()
            self.give_up_s = give_up_s
        self._connected = True

    def pause_s(self, error: OperationError) -> float | None:
        """How long to wait after a failure; None: no server would do any better."""
        servers = self._caller.servers
        self._failures += 1
        cause = error.__cause__
        self._refusals = self._refusals + 1 if isinstance(cause, ConnectFailed) and cause.refused else 0
        given_up = self._refusals >= servers and not (self._connected or self._caller.retry_refused)
        if given_up or _is_final(error):
            return None
        rounds, rest = divmod(self._failures, servers)
        return 0.0 if rest else self._caller.pause_s(rounds - 1)


class _Lines:
    """The lines of a watch's answer."""

    def __init__(self, connection: StreamConnection, silence_s: float) -> None:
        self._connection = connection
        self._silence_s = silence_s
        self._parts: list[bytes] = []
        """Of a line that is not complete."""
        self._ready: list[bytes] = []

    async def next(self) -> WatchLine:
        """The next line. Raises an `OperationError` if the watch has ended, the connection, or its answers."""
        while not self._ready:
            await self._read()
        try:
            line = _decoder.decode(self._ready.pop())
        except UNDECODABLE as error:
            raise RequestFailed(f"the server's answer can't be read: {error}", code="bad_answer") from error
        if line.error is not None:
            if line.error.code == RevisionCompacted.code:
                raise operation_error(line.error, 410)
            resume = (line.error.details or {}).get("from", 0)
            resume = resume if isinstance(resume, int) else 0
            raise WatchEnded(line.error.message, code=line.error.code, resume=resume)
        return line

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._silence_s):
                piece = await self._connection.read()
        except (ConnectionLost, BadAnswer) as error:
            raise Unreachable(f"the watch was interrupted: {error}") from error
        except TimeoutError as error:
            raise Unreachable(f"the server has been silent for {self._silence_s:g} s") from error
        if not piece:
            raise Unreachable("the server has ended the watch without a reason")
        first, *others = piece.split(b"\n")
        self._parts.append(first)
        if others:
            self._ready = [b"".join(self._parts), *others[:-1]][::-1]
            self._parts = others[-1:]
        elif sum(map(len, self._parts)) > MAX_BODY_BYTES:
            raise RequestFailed(f"a revision is above {MAX_BODY_BYTES} bytes", code="bad_answer")


def _request(parameters: dict[str, str | bytes | None]) -> ClientRequest:
    return ClientRequest(
        method="GET", target="/watch", parameters=parameters, headers=_LINES, idempotent=True, timed=False
    )


_LINES: Final = (("Accept", "application/x-ndjson"),)


def watched_keys(
    key: Key | None, prefix: Key | None, start: Key | None, end: Key | None, events: str | None
) -> dict[str, str | bytes | None]:
    """The parameters for what is watched."""
    given = {"key": key, "prefix": prefix, "start": start}
    if sum(value is not None for value in given.values()) != 1:
        raise ConfigError('give one of key, prefix and start to watch; prefix="" is all keys')
    if end is not None and start is None:
        raise ConfigError("end needs start")
    if events is not None and events not in KINDS:
        raise ConfigError(f"events is {events!r}: accepted are put and delete; without it both come")
    wanted: dict[str, str | bytes | None] = {
        name: to_bytes(value, name) for name, value in {**given, "end": end}.items() if value is not None
    }
    if wanted.get("key") == b"":
        raise ConfigError("key is empty: no key is")
    return {**wanted, "events": events}


def checked_progress_s(progress: object) -> float:
    """How often a server tells its progress, in seconds."""
    if progress is None:
        return PROGRESS_S
    progress_s = checked_timeout_s(progress, "progress")
    if not LEAST_PROGRESS_S <= progress_s <= MOST_PROGRESS_S:
        raise ConfigError(f"progress is {progress_s:g}: it must be from {LEAST_PROGRESS_S:g} to {MOST_PROGRESS_S:g} s")
    return progress_s


def _is_final(error: OperationError) -> bool:
    """Whether no server would answer differently."""
    return isinstance(error, RevisionCompacted) or (
        isinstance(error, RequestFailed) and error.status in _PERMANENT and error.code != "bad_answer"
    )


def _event(item: ChangeItem) -> KeyEvent:
    key = bytes_of(item.key, item.key_base64) or b""
    return KeyEvent(
        type=item.type,
        key=key,
        value=bytes_of(item.value, item.value_base64) or b"",
        create_revision=item.create_revision,
        version=item.version,
        lease=0 if item.lease is UNSET else int(item.lease, 16),
        previous=None if item.prev is UNSET else _previous(key, item.prev),
    )


def _previous(key: bytes, item: ValueItem) -> KeyInfo:
    value = bytes_of(item.value, item.value_base64) or b""
    return KeyInfo(
        key=key,
        mod_revision=item.mod_revision,
        create_revision=item.create_revision,
        version=item.version,
        size_bytes=len(value),
        value=value,
        lease=0 if item.lease is UNSET else int(item.lease, 16),
    )
