"""A rendezvous for torchrun that survives its host: `torchrun --rdzv-backend=syncline --rdzv-endpoint=10.0.0.1:8080`.

torchrun finds it by an entry point. Nothing here imports torch before torchrun asks for a handler. See
docs/contrib/torchrun.md.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from syncline.client import Client
from syncline.contrib.connection import client_of
from syncline.contrib.extras import missing_extra
from syncline.errors import ConfigError, CorruptionError, DeadlineExceeded, OperationError, Rejected, RevisionCompacted

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters

__all__ = ["RendezvousState", "WorkerKeys", "get_handler"]

STATE_S: Final = 7200.0
"""How long the keys of a run are kept after their last write, in seconds: longer than any rendezvous takes."""

STATE_MAGIC: Final = b"rdzv1"
"""A state begins with it, then with its CRC-32: what another program has written under the key is no state."""

CHECKSUM_BYTES: Final = 4

DEFAULT_WAIT: Final = timedelta(seconds=300)
"""As long as torch's own stores wait."""

OPTIONS: Final = ("timeout", "user", "password", "token", "token_file", "cacert", "cert", "key_file")


class RendezvousState:
    """torch's `RendezvousBackend`: the state of one run, under one key. The fencing token is the key's revision.

    backend = RendezvousState(Client("http://10.0.0.1:8080"), "run-7")
    """

    def __init__(self, kv: Client, run_id: str) -> None:
        """`run_id`: torchrun's `--rdzv-id`. Raises `ConfigError` if it is empty."""
        if not run_id:
            raise ConfigError("the rendezvous needs a run id: give torchrun --rdzv-id")
        self._kv = kv
        self._key = f"torchrun/{run_id}/state".encode()

    @property
    def name(self) -> str:
        """The name of the backend."""
        return "syncline"

    def get_state(self) -> tuple[bytes, object] | None:
        """The state and its token; None: there is none.

        Raises:
            RendezvousConnectionError: the cluster did not answer (torch's error).
            RendezvousStateError: the key has something else than a state (torch's error).
        """
        try:
            found = self._kv.get(self._key)
        except OperationError as error:
            raise _connection_error(error) from error
        return None if found is None else (self._state_in(found.value), found.mod_revision)

    def set_state(self, state: bytes, token: object = None) -> tuple[bytes, object, bool] | None:
        """Write the state if its token is this one (None: if there is no state).

        Returns the state that is there then, its token, and whether it was written; None: there is no state, and the
        token is no longer that of any.

        Raises:
            RendezvousConnectionError, RendezvousStateError: as `get_state` does.
        """
        if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 1):
            found = self.get_state()  # no token of ours
            return None if found is None else (*found, False)
        change = self._kv.transaction().if_revision(self._key, 0 if token is None else token)
        try:
            written = STATE_MAGIC + _checksum(state) + state
            done = change.put(self._key, written, ttl=STATE_S).else_get(self._key).commit()
        except OperationError as error:
            raise _connection_error(error) from error
        if done.succeeded:
            return state, done.revision, True
        [present] = done.results
        return (self._state_in(present.value), present.mod_revision, False) if present.found else None

    def _state_in(self, value: bytes) -> bytes:
        head, state = value[: len(STATE_MAGIC) + CHECKSUM_BYTES], value[len(STATE_MAGIC) + CHECKSUM_BYTES :]
        if head != STATE_MAGIC + _checksum(state):
            raise _state_error(self._key.decode("utf-8", "replace"))
        return state


class WorkerKeys:
    """The calls of torch's `Store` for the workers of one run, on keys below `torchrun/RUN/store/`."""

    def __init__(self, kv: Client, run_id: str) -> None:
        self._kv = kv
        self._prefix = f"torchrun/{run_id}/store/".encode()

    def set(self, key: str | bytes, value: str | bytes) -> None:
        """Write a key."""
        self._kv.put(self._full(key), value, ttl=STATE_S, idempotent=True)

    def get(self, key: str | bytes, timeout: timedelta = DEFAULT_WAIT) -> bytes:
        """Read a key; wait for it if it is not there. Raises `LookupError` at the end of `timeout`."""
        self.wait([key], timeout)
        found = self._kv.get(self._full(key))
        if found is None:
            raise LookupError(f"the key {key!r} was deleted while it was read")
        return found.value

    def add(self, key: str | bytes, amount: int) -> int:
        """Add to a number; the sum. It counts once, also if it is sent again."""
        full = self._full(key)
        total = self._kv.increment(full, amount)
        try:
            self._kv.touch(full, STATE_S)  # an increment leaves the time to live as it is
        except Rejected as error:
            if error.code != "not_found":  # deleted by another worker
                raise
        return total

    def compare_set(self, key: str | bytes, expected: str | bytes, desired: str | bytes) -> bytes:
        """Write `desired` if the key has `expected`, or is absent and that is empty. The value that is there then."""
        full, wanted, new = self._full(key), _bytes(expected), _bytes(desired)
        if not wanted:
            made = self._kv.transaction().if_absent(full).put(full, new, ttl=STATE_S).commit()
            if made.succeeded:
                return new
        done = self._kv.transaction().if_value(full, wanted).put(full, new, ttl=STATE_S).else_get(full).commit()
        if done.succeeded:
            return new
        [present] = done.results
        return present.value if present.found else wanted

    def check(self, keys: Sequence[str | bytes]) -> bool:
        """Whether all keys are there."""
        asked = {self._full(key) for key in keys}
        return asked <= self._kv.get_many(asked).keys()

    def wait(self, keys: Sequence[str | bytes], timeout: timedelta = DEFAULT_WAIT) -> None:
        """Wait until all keys are there. Raises `LookupError` at the end of `timeout`."""
        if self.check(keys):
            return
        asked = {self._full(key) for key in keys}
        end_s = time.monotonic() + timeout.total_seconds()
        while True:
            seen = self._kv.list(self._prefix, limit=1).revision  # before the look: no write after it is missed
            missing = asked - self._kv.get_many(asked).keys()
            if not missing:
                return
            if not self._is_written(missing, seen + 1, end_s):
                raise LookupError(f"not all of these keys are there after {timeout.total_seconds():g} s: {list(keys)}")

    def _is_written(self, keys: AbstractSet[bytes], from_revision: int, end_s: float) -> bool:
        """Wait until one of the keys is written, in this revision or a later one; False: none was in time."""
        with self._kv.watch(prefix=self._prefix, events="put", from_revision=from_revision) as changes:
            while (left_s := end_s - time.monotonic()) > 0:
                try:
                    change = changes.next(timeout=left_s)
                except DeadlineExceeded:  # or the watch has ended: then the next look raises its error
                    return time.monotonic() < end_s
                except RevisionCompacted:  # so many writes since the look: look again
                    return True
                if not keys.isdisjoint(event.key for event in change.events):
                    return True
        return False

    def delete_key(self, key: str | bytes) -> bool:
        """Delete a key; whether it was there."""
        return bool(self._kv.delete(self._full(key)).deleted)

    def num_keys(self) -> int:
        """How many keys there are."""
        return self._kv.count(self._prefix)

    def _full(self, key: str | bytes) -> bytes:
        return self._prefix + _bytes(key)


class RunParameters(Protocol):
    """What torchrun tells of a run, as far as it is used here."""

    endpoint: str
    run_id: str

    def get(self, key: str, default: object = None) -> object: ...


def get_handler() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What the entry point of torchrun names: it gives the function that makes the handler of a run."""
    return _make_handler


def client_for_run(parameters: RunParameters) -> Client:
    """The client for `--rdzv-endpoint` (hosts with ports, or URLs) and the options of `--rdzv-conf`."""
    options: dict[str, object] = {}
    for name in OPTIONS:
        value = parameters.get(name)
        if value is not None:
            options[name] = _seconds(value) if name == "timeout" else value
    hosts = [host.strip() for host in parameters.endpoint.split(",") if host.strip()]
    urls = [host if "://" in host else f"http://{host}" for host in hosts]
    return client_of(urls, options, where="torchrun's --rdzv-conf")


def _make_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    try:
        from torch.distributed import Store
        from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
    except ModuleNotFoundError as error:
        raise missing_extra("syncline.contrib.torchrun", "torch", error) from error
    kv = client_for_run(parameters)
    store = store_class(Store)(WorkerKeys(kv, parameters.run_id))
    return create_handler(store, RendezvousState(kv, parameters.run_id), parameters)


def store_class(base: type) -> Callable[[WorkerKeys], object]:
    """A class of torch's `Store` whose calls are those of `WorkerKeys`."""

    class SynclineStore(base):  # type: ignore[misc]  # torch's class is not known before torch is there
        def __init__(self, keys: WorkerKeys) -> None:
            super().__init__()  # torch's own part of the object
            self._keys = keys

    for name in ("set", "get", "add", "compare_set", "check", "wait", "delete_key", "num_keys"):
        setattr(SynclineStore, name, _delegate(name))
    return SynclineStore


def _delegate(name: str) -> Callable[..., object]:
    def call(self: object, *arguments: object, **named: object) -> object:
        method: Callable[..., object] = getattr(vars(self)["_keys"], name)
        return method(*arguments, **named)

    call.__name__ = name
    return call


def _checksum(state: bytes) -> bytes:
    return zlib.crc32(state).to_bytes(CHECKSUM_BYTES, "big")


def _connection_error(error: OperationError) -> Exception:
    """torch's error for a cluster that does not answer; ours if torch is not there."""
    try:
        from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError
    except ModuleNotFoundError:
        return error
    made: Exception = RendezvousConnectionError(f"the connection to the Syncline cluster has failed: {error}")
    return made


def _state_error(key: str) -> Exception:
    """torch's error for a state that is damaged; ours if torch is not there."""
    text = f"the key {key} has something else than the state of a rendezvous. Delete it, or take another run id"
    try:
        from torch.distributed.elastic.rendezvous.api import RendezvousStateError
    except ModuleNotFoundError:
        return CorruptionError(text, file=key)
    made: Exception = RendezvousStateError(text)
    return made


def _seconds(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigError(f"torchrun's --rdzv-conf: timeout is {value!r}: it must be a number of seconds") from None


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
