"""A read-only mapping of the keys below a prefix, kept by a watch, and written through the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Final, Self

import msgspec

from syncline.client.arguments import checked_limit, checked_timeout_s, to_bytes
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.replica import Difference, Replica
from syncline.errors import ConfigError, Outcome

__all__ = ["DEFAULT_MAX_BYTES", "DEFAULT_MAX_KEYS", "LiveMapping", "MappingChange", "mapping_key"]

DEFAULT_MAX_KEYS: Final = 10_000
DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024


class MappingChange(msgspec.Struct, frozen=True):
    """What changed in a mapping: the new value of each key, or None if it was deleted. `revision`: the mapping's."""

    revision: int
    items: Mapping[str, bytes | None]


class LiveMapping(Mapping[str, bytes]):
    """A local copy of the keys below a prefix. `kv.mapping` makes it.

        async with kv.mapping("config/") as config:
            await config.set("mode", "blue")
            print(config["mode"])
            async for change in config.changes():
                print(change.items)

    Its keys are texts, without the prefix. What is not UTF-8 in them is escaped as `os.fsdecode` does it.

    - It always shows the state of one revision, and never goes back to an older one, whichever node serves it.
    - It may be behind the cluster, for as long as no server can be reached: without limit. `refresh` brings it up to
      the present.
    - `set` and `delete` return after it shows their effect, or a later one.
    - A reading access takes no request. If there are more than `max_keys` keys or `max_bytes` (keys, values, and 200
      bytes for each key), all accesses fail with `LimitReached`. Outside of the block they fail with `UsageError`.
    """

    def __init__(
        self,
        kv: KeyValueCalls,
        prefix: bytes | str,
        *,
        max_keys: int = DEFAULT_MAX_KEYS,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._kv = kv
        self._prefix = to_bytes(prefix, "prefix")
        self._replica = Replica(
            kv,
            self._prefix,
            what=f"the mapping of {prefix!r}",
            max_keys=checked_limit(max_keys, "max_keys"),
            max_bytes=checked_limit(max_bytes, "max_bytes"),
        )
        self._follower = self._replica.follow()

    async def __aenter__(self) -> Self:
        await self._replica.open()
        self._follower.take()  # what was there at the begin is no change
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replica.close()

    @property
    def revision(self) -> int:
        """The revision of the last change that it shows. It never falls."""
        return self._replica.revision

    def __getitem__(self, key: str) -> bytes:
        items = self._replica.items
        try:
            return items[mapping_key(self._prefix, key)].value
        except (KeyError, ConfigError):
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self._replica.items)

    def snapshot(self) -> dict[str, bytes]:
        """All keys and values as they are now: a copy that does not change.

            print(config.snapshot())

        Raises:
            LimitReached: it has become too large.
            UsageError: it is not open.
        """
        return {self._name(key): item.value for key, item in self._replica.items.items()}

    async def set(self, key: str, value: bytes | str, *, timeout: float | None = None) -> int:
        """Write a key, and wait until this mapping shows it. Returns the revision.

            await config.set("mode", "blue")

        Raises:
            DeadlineExceeded: the cluster did not answer, or the mapping did not follow within `timeout` (by default
                the client's, for each of the two).
            OperationError: the cluster refused it, or could not do it (see `outcome`).
            LimitReached: the mapping has become too large. What was written stays.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        self._replica.check()
        written = await self._kv.put(mapping_key(self._prefix, key), value, timeout=timeout)
        return await self._seen(written.revision, timeout)

    async def delete(self, key: str, *, timeout: float | None = None) -> bool:
        """Delete a key, and wait until this mapping shows that. Returns whether there was one.

            await config.delete("mode")

        Raises:
            DeadlineExceeded, OperationError, LimitReached, ConfigError, TypeError: as `set`.
        """
        self._replica.check()
        result = await self._kv.delete(mapping_key(self._prefix, key), timeout=timeout)
        if result.deleted:
            await self._seen(result.revision, timeout)
        return result.deleted

    async def changed(self, *, timeout: float | None = None) -> MappingChange:
        """Wait until something has changed since the last call of it, or since the begin of the block; return that.

            await config.set("size", "3")
            print((await config.changed()).items)

        Changes between two calls are merged into one: the newest of each key counts. Each program part that reads
        changes on its own takes `changes`.

        Raises:
            DeadlineExceeded: nothing has changed within `timeout` seconds (None: without limit).
            LimitReached: the mapping has become too large.
            OperationError: the servers refuse to be watched.
            UsageError: it is not open, or was closed meanwhile.
        """
        limit_s = None if timeout is None else checked_timeout_s(timeout)
        return self._change(await self._replica.next(self._follower, limit_s))

    async def changes(self) -> AsyncIterator[MappingChange]:
        """The changes from now on. A slow reader misses states in between, never the newest one.

            async for change in config.changes():
                print(change.items)
                break

        Raises:
            LimitReached, OperationError, UsageError: as `changed`.
        """
        self._replica.check()
        follower = self._replica.follow()
        try:
            while True:
                yield self._change(await self._replica.next(follower, None))
        finally:
            self._replica.unfollow(follower)

    async def refresh(self, *, timeout: float | None = None) -> int:
        """Bring the mapping up to the present by a linearizable read of all keys. Returns its revision.

            await config.refresh()

        It shows then each write that was acknowledged before the call. `timeout` is for each 1,000 keys.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            LimitReached: it has become too large.
            UsageError: it is not open.
        """
        await self._replica.refresh(timeout)
        return self._replica.revision

    async def _seen(self, revision: int, timeout: float | None) -> int:
        replica = self._replica
        text = f"revision {revision} was written, and did not arrive here"
        limit_s = SEEN_S if timeout is None else timeout
        await replica.until(lambda: replica.revision >= revision, limit_s, text, Outcome.UNKNOWN)
        return revision

    def _change(self, difference: Difference) -> MappingChange:
        items = {self._name(key): None if item is None else item.value for key, item in difference.items.items()}
        return MappingChange(difference.revision, items)

    def _name(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode("utf-8", "surrogateescape")


SEEN_S: Final = 10.0
"""How long a write waits until the mapping shows it, if its caller gives no time: another server may have to be
found first."""


def mapping_key(prefix: bytes, key: object) -> bytes:
    """The key of the store for a key of a mapping. Raises `TypeError` or `ConfigError`."""
    if not isinstance(key, str):
        raise TypeError(f"a key of a mapping must be a str, not {type(key).__name__}")
    try:
        name = prefix + key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ConfigError(f"the key {key[:40]!r} has no bytes (lone surrogate at {error.start})") from error
    if not name:
        raise ConfigError("the key is empty: no key is")
    return name
