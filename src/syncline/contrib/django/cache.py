"""The cache backend: keys below `django/NAME/`, and locks."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from syncline.client import BlockingLock, Client, DeleteOp, DeletePrefixOp
from syncline.contrib.connection import checked_name, client_of
from syncline.contrib.django.bases import CacheBase
from syncline.contrib.django.values import CachedValue, decode_value, encode_value, serializer_of
from syncline.errors import ConfigError, OperationError, Rejected

__all__ = ["Cache"]

SHORTEST_S: Final = 2.0
"""The shortest lease. A shorter time to live ends by the reader's clock."""

LONGEST_KEY: Final = 400
"""Bytes. Of a longer key the digest stands in the store."""

MANY: Final = 500
"""Keys of one request."""

_clients: dict[str, Client] = {}
_clients_guard = threading.Lock()


class Cache(CacheBase):
    """A cache that all processes and hosts share: `"BACKEND": "syncline.contrib.django.Cache"`.

    What one process has set, each other one reads, also after the death of a node. Values live for as long as their
    timeout says: nothing is evicted before. `LOCATION`: URLs of the cluster. `OPTIONS`: `name` ("cache"), `serializer`
    (Django's own, which pickles; or `"syncline.contrib.django.JsonSerializer"`), and those of
    `syncline.contrib.connection.client_of`.
    """

    def __init__(self, server: str | Iterable[str], params: dict[str, object]) -> None:
        """Raises `ConfigError` for an option that can't be used."""
        super().__init__(params)
        given = params.get("OPTIONS") or {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"OPTIONS of the cache must be a dict, not {type(given).__name__}")
        options = {name: value for name, value in given.items() if name.upper() not in _DJANGOS}
        name = checked_name(options.pop("name", "cache"), "OPTIONS of the cache: name")
        self._serializer = serializer_of(options.pop("serializer", None))
        self._name = name
        self._prefix = f"django/{name}/".encode()
        self._kv = _shared_client(server if isinstance(server, str) else ",".join(server), options)

    # -- one key

    def get(self, key: str, default: object = None, version: int | None = None) -> object:
        """A value, or `default`."""
        found = self._read(self._full(key, version))
        return default if found is None else found.value

    def set(self, key: str, value: object, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Set a value for `timeout` seconds; None: for good."""
        full, ttl_s = self._full(key, version), self._ttl_s(timeout)
        data = self._encoded(value, ttl_s)
        if ttl_s == 0:
            self._kv.delete(full, idempotent=True)
        else:
            self._kv.put(full, data, ttl=_lease_s(ttl_s), idempotent=True)

    def add(self, key: str, value: object, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set a value if there is none. Of several callers, on any hosts, one gets True."""
        full, ttl_s = self._full(key, version), self._ttl_s(timeout)
        data = self._encoded(value, ttl_s)
        while True:
            found = self._kv.get(full)
            if found is not None and not _is_over(decode_value(found.value, self._serializer)):
                return False
            if ttl_s == 0:
                return True
            change = self._kv.transaction().if_revision(full, 0 if found is None else found.mod_revision)
            if change.put(full, data, ttl=_lease_s(ttl_s)).commit().succeeded:
                return True

    def touch(self, key: str, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value another timeout. False: there is none."""
        ttl_s = self._ttl_s(timeout)
        return self._changed(self._full(key, version), lambda value: value, lambda: ttl_s) is not None

    def delete(self, key: str, version: int | None = None) -> bool:
        """Delete a value. False: there was none."""
        return self._kv.delete(self._full(key, version)).deleted

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Whether there is a value."""
        return self._read(self._full(key, version)) is not None

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> object:
        """Add to a number, on the servers: no addition of another process is lost. The timeout stays.

        Raises:
            ValueError: there is no such key.
            TypeError: its value is no number.
        """
        full = self._full(key, version)
        if type(delta) is int and -(2**63) <= delta < 2**63:
            try:
                added = self._kv.transaction().if_present(full).increment(full, delta).commit()
            except Rejected:
                added = None  # it is no number of the servers: the value itself says why, or adds
            if added is not None and added.succeeded:
                return added.results[0].number
        changed = self._changed(full, lambda value: value + delta, None)  # type: ignore[operator]
        if changed is None:
            raise ValueError(f"Key '{key}' not found")
        return changed.value

    # -- many keys

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, object]:
        """Those of the values that there are."""
        names = {self._full(key, version): key for key in keys}
        found = self._kv.get_many(names)
        values = {names[full]: decode_value(one.value, self._serializer) for full, one in found.items()}
        return {key: one.value for key, one in values.items() if not _is_over(one)}

    def set_many(
        self, data: Mapping[str, object], timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Set many values, in order. Returns the keys that were not set: none, or it raises."""
        ttl_s = self._ttl_s(timeout)
        values = {self._full(key, version): self._encoded(value, ttl_s) for key, value in data.items()}
        if ttl_s == 0:
            self._delete_all(list(values))
        elif values:
            self._kv.put_many(values, ttl=_lease_s(ttl_s))
        return []

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        """Delete many values."""
        self._delete_all([self._full(key, version) for key in keys])

    def clear(self) -> None:
        """Delete all values of this cache, of all versions and prefixes."""
        while self._kv.txn(then=[DeletePrefixOp(self._prefix, limit=MANY)], idempotent=True).results[0].more:
            continue

    # -- locks

    def lock(
        self,
        key: str,
        *,
        timeout: float = 10.0,
        blocking_timeout: float | None = None,
        holders: int = 1,
        version: int | None = None,
    ) -> BlockingLock:
        """A lock that all hosts share: `with cache.lock("report", timeout=10) as held:`.

        It is renewed while it is held, and free `timeout` seconds after its holder has died. `blocking_timeout`: how
        many seconds to wait; None without a limit; 0 to try once. `holders` above 1 makes it a semaphore.

        Raises:
            DeadlineExceeded: it did not become free. LockLost: it was lost meanwhile (at the end of the block).
            ConfigError: an argument can't be used.
        """
        name = self._short(self.make_key(key, version=version))
        return self._kv.lock(name, ttl=timeout, holders=holders, wait=blocking_timeout)

    # -- inside

    def _read(self, full: bytes) -> CachedValue | None:
        found = self._kv.get(full)
        if found is None:
            return None
        one = decode_value(found.value, self._serializer)
        return None if _is_over(one) else one

    def _changed(
        self, full: bytes, change: Callable[[object], object], ttl_s: Callable[[], float | None] | None
    ) -> CachedValue | None:
        """Write a value again, changed; None: there is none. Without `ttl_s` its end stays as it is."""
        while True:
            [found] = self._kv.list(full, limit=1, values=True).items or [None]
            if found is None or found.key != full:
                return None
            one = decode_value(found.value or b"", self._serializer)
            if _is_over(one):
                return None
            new = change(one.value)
            written = self._kv.transaction().if_revision(full, found.mod_revision)
            if ttl_s is None:
                data = encode_value(new, self._serializer, one.deadline_s)
                lease = found.lease or None
                written.put(full, data, lease=lease)
            elif (left_s := ttl_s()) == 0:
                written.delete(full)
            else:
                written.put(full, self._encoded(new, left_s), ttl=_lease_s(left_s))
            try:
                if written.commit().succeeded:
                    return CachedValue(new)
            except Rejected as error:
                if error.code != "lease_not_found":  # the value has ended meanwhile
                    raise

    def _delete_all(self, keys: list[bytes]) -> None:
        for at in range(0, len(keys), MANY):
            for result in self._kv.batch([DeleteOp(key) for key in keys[at : at + MANY]], idempotent=True):
                if isinstance(result, OperationError):
                    raise result

    def _encoded(self, value: object, ttl_s: float | None) -> bytes:
        short = ttl_s is not None and 0 < ttl_s < SHORTEST_S
        return encode_value(value, self._serializer, time.time() + (ttl_s or 0) if short else None)

    def _ttl_s(self, timeout: float | None) -> float | None:
        """None: for good; 0: it is over at once."""
        given = self.default_timeout if timeout == DEFAULT_TIMEOUT else timeout
        return None if given is None else max(0.0, float(given))

    def _full(self, key: str, version: int | None) -> bytes:
        return self._short(self.make_and_validate_key(key, version=version))

    def _short(self, made: str) -> bytes:
        name = made.encode()
        if len(name) > LONGEST_KEY:
            name = b"sha256:" + hashlib.sha256(name).hexdigest().encode()
        return self._prefix + name


_DJANGOS: Final = frozenset({"MAX_ENTRIES", "CULL_FREQUENCY"})
"""Options of Django's that a store without eviction has no use for."""


def _lease_s(ttl_s: float | None) -> float | None:
    return None if ttl_s is None else max(SHORTEST_S, ttl_s)


def _is_over(one: CachedValue) -> bool:
    return one.deadline_s is not None and one.deadline_s <= time.time()


def _shared_client(location: str, options: dict[str, object]) -> Client:
    """Django makes a backend for each thread: they share one client."""
    name = repr((location, sorted(options.items())))
    with _clients_guard:
        if name not in _clients:
            _clients[name] = client_of(location or None, options, where="OPTIONS of the cache")
        return _clients[name]
