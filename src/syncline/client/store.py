"""`Store`: a key-value node inside the process, with the methods of `AsyncClient`.

    config = Config(name="a", data_dir="data/a", listen="127.0.0.1:7100", peers={"a": "127.0.0.1:7100"})
    async with Store.open(config) as store:
        await store.put("greeting", "hello")
        found = await store.get("greeting")

`docs/store.md` says when to embed a node, and what differs from a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from syncline.client.arguments import checked_timeout_s
from syncline.client.coordination.data_words import DataWords
from syncline.client.coordination.lock_words import LockWords
from syncline.client.embedded.calls import Embedded
from syncline.client.embedded.comforts import EmbeddedComfortCalls
from syncline.client.embedded.errors import closed
from syncline.client.embedded.leases import EmbeddedLeaseCalls
from syncline.client.embedded.listing import EmbeddedListingCalls
from syncline.client.embedded.sessions import EmbeddedSessionCalls
from syncline.client.embedded.watch import EmbeddedWatchCalls
from syncline.client.held_lease import HeldLeases, KeepAlives
from syncline.errors import ConfigError, UsageError
from syncline.kv.compactor import DEFAULT_HISTORY_BYTES, DEFAULT_HISTORY_REVISIONS
from syncline.kv.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.kv.machine import KvMachine
from syncline.kv.serving.key_limits import DEFAULT_MAX_KEY_BYTES, DEFAULT_MAX_VALUE_BYTES, KeyLimits
from syncline.kv.serving.kv_node import KvNode
from syncline.kv.serving.memory import new_machine
from syncline.kv.serving.upkeep import Upkeep
from syncline.kv.watch_hub import WatchHub
from syncline.node.arguments import check_config
from syncline.node.config import Config
from syncline.node.joining import Ask
from syncline.node.raft import Raft
from syncline.node.startups import Startup
from syncline.platform.entropy import Entropy
from syncline.platform.world import World

__all__ = ["Store"]

DEFAULT_TIMEOUT_S: Final = 5.0

LEASES_END_S: Final = 1.0
"""Limit of the end of the leases that are held when the store is closed."""

ENTRY_FACTOR: Final = 2
"""The log must accept every command within the limits of keys and values."""


class Store(
    EmbeddedComfortCalls,
    EmbeddedListingCalls,
    EmbeddedSessionCalls,
    EmbeddedLeaseCalls,
    EmbeddedWatchCalls,
    LockWords,
    DataWords,
):
    """A member of a cluster in this process, and its keys. Make one with `Store.open`.

    It has the methods of `AsyncClient` for keys, listings, transactions, batches, leases, watches and sessions, with
    the same arguments, results and errors. There is no connection: a write is proposed by this node, and a read is
    taken from its own state after a confirmation. Both work on every member; a follower asks the leader.

    What concerns the node and the cluster is at `raft`: members, leader, snapshots, events.

    It belongs to the event loop that opened it. Keys are bytes; a `str` is taken as its UTF-8.
    """

    def __init__(self) -> None:
        self._raft: Raft[object]
        self._machine: KvMachine
        self._node: KvNode
        self._upkeep: Upkeep
        self._entropy: Entropy
        self._wall_time_s: Callable[[], float]
        self._closing: asyncio.Task[None] | None = None
        raise UsageError("use `await Store.open(config)`, or `async with Store.open(config) as store`")

    def __repr__(self) -> str:
        return f"<Store of {self._raft!r}>"

    @classmethod
    def open(
        cls,
        config: Config,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
        max_store_bytes: int = 0,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
        world: World | None = None,
    ) -> Startup[Store]:
        """Start a node from its data directory, or a new one, as `Raft.open` does.

            store = await Store.open(config)          # the caller calls `close`
            async with Store.open(config) as store:   # closed at the end of the block
                ...

        `timeout` (seconds) bounds one call, unless it gives its own. While this node leads, it keeps the last
        `history_revisions` revisions, or `history_bytes` of older versions if that is less. Puts above
        `max_store_bytes` are refused (0: half of the memory). `max_key_bytes` and `max_value_bytes` bound the calls of
        this store. `world` replaces what is outside the node, for tests.

        The data directory is that of a server: `syncline serve` can open it afterwards, and the other way round.

        Raises:
            TypeError: `config` is no `Config`, or an argument has another type.
            ConfigError: the settings do not fit each other, or the data directory.
            StorageError: the data directory can't be used.
            NodeFailed: the state can't be loaded.
            OSError: the peer address can't be bound.
        """
        limits = _checked_limits(config, max_key_bytes, max_value_bytes)
        timeout_s = checked_timeout_s(timeout)
        history = _checked_history(history_revisions, history_bytes)
        machine = new_machine(max_store_bytes=_natural(max_store_bytes, "max_store_bytes"), history_bytes=history[1])
        outside = world or World()
        opening = Raft.open(config, machine, world=outside)
        return Startup(cls._opened(opening, machine, outside, limits, timeout_s, history), Store.close)

    @classmethod
    def join(
        cls,
        config: Config,
        ask: Ask,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
        max_store_bytes: int = 0,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
        world: World | None = None,
    ) -> Startup[Store]:
        """`open` for a node that joins a running cluster: `ask` has a member add it, as in `Raft.join`.

            async def ask(node_id: int) -> int:
                added = await client.add_member("d", "127.0.0.1:7104", node_id=f"{node_id:016x}")
                return int(added.cluster_id, 16)

            store = await Store.join(config, ask)

        Raises:
            OSError, SynclineError, TypeError: as `open` does.
            Exception: whatever `ask` raises.
        """
        limits = _checked_limits(config, max_key_bytes, max_value_bytes)
        timeout_s = checked_timeout_s(timeout)
        history = _checked_history(history_revisions, history_bytes)
        machine = new_machine(max_store_bytes=_natural(max_store_bytes, "max_store_bytes"), history_bytes=history[1])
        outside = world or World()
        opening = Raft.join(config, machine, ask, world=outside)
        return Startup(cls._opened(opening, machine, outside, limits, timeout_s, history), Store.close)

    @classmethod
    async def _opened(
        cls,
        opening: Awaitable[Raft[object]],
        machine: KvMachine,
        world: World,
        limits: KeyLimits,
        timeout_s: float,
        history: tuple[int, int],
    ) -> Store:
        raft = await opening
        try:
            return cls._made(raft, machine, world, limits, timeout_s, history)
        except BaseException:
            await raft.close()
            raise

    @classmethod
    def _made(
        cls,
        raft: Raft[object],
        machine: KvMachine,
        world: World,
        limits: KeyLimits,
        timeout_s: float,
        history: tuple[int, int],
    ) -> Store:
        """The store over an open node. What may raise comes before the first task."""
        store = cls.__new__(cls)
        store._raft, store._machine, store._closing = raft, machine, None
        store._entropy, store._wall_time_s = world.entropy, world.wall_time_s
        store._asleep_s, store._rng = world.workers.asleep_s, world.rng
        store._node = node = KvNode(raft, machine, entropy=world.entropy)
        store._embedded = Embedded(node, limits=limits, timeout_s=timeout_s)
        store._hub = WatchHub(
            lambda: machine.store,
            has_leader=lambda: raft.leader is not None,
            confirm=node.read_index,
            election_s=node.election_s,
        )
        node.observe(store._hub.changed)
        store._held_leases = HeldLeases()
        store._keep_alives = KeepAlives(lambda names, limit_s: store.keep_alive(names, timeout=limit_s))
        store._upkeep = Upkeep(raft, machine, history_revisions=history[0], history_bytes=history[1])
        store._upkeep.start()
        return store

    @property
    def raft(self) -> Raft[object]:
        """The node: its members, its leader, snapshots, events. Commands to it go through the store.

            print(store.raft.leader)

        It is closed with the store.
        """
        return self._raft

    async def close(self) -> None:
        """Stop the node: end the watches, transfer the leadership if another voter is alive, and close the files.

            await store.close()

        Idempotent. Calls under way end with `Closed`; a call after that is a `UsageError`. Leases in open blocks end
        before, and with them locks, terms of leadership, registrations and claims: their holders are told first. That
        takes a second at most; without a quorum they run out.
        """
        if self._closing is None:
            self._closing = self._embedded.loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._held_leases.end(LEASES_END_S)
        self._embedded.is_closed = True
        self._hub.close()
        self._embedded.reads.close(closed())
        await self._node.close()  # before the lessor: calls about leases are ended, and not refused by it
        await self._upkeep.close()
        await self._raft.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _checked_limits(config: Config, max_key_bytes: int, max_value_bytes: int) -> KeyLimits:
    check_config(config)
    key_bytes, value_bytes = _natural(max_key_bytes, "max_key_bytes"), _natural(max_value_bytes, "max_value_bytes")
    if not 0 < key_bytes <= MAX_KEY_BYTES:
        raise ConfigError(f"max_key_bytes is {key_bytes}: it must be from 1 to {MAX_KEY_BYTES}")
    if value_bytes > MAX_VALUE_BYTES:
        raise ConfigError(f"max_value_bytes is {value_bytes}: it must be at most {MAX_VALUE_BYTES}")
    if ENTRY_FACTOR * value_bytes > config.max_entry_bytes:
        raise ConfigError(
            f"max_value_bytes is {value_bytes}, and Config.max_entry_bytes {config.max_entry_bytes}: an entry must hold"
            f" {ENTRY_FACTOR} times the largest value"
        )
    return KeyLimits(key_bytes, value_bytes)


def _checked_history(revisions: int, size_bytes: int) -> tuple[int, int]:
    if not _natural(revisions, "history_revisions"):
        raise ConfigError("history_revisions is 0: at least the present revision is kept")
    return revisions, _natural(size_bytes, "history_bytes")


def _natural(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 0:
        raise ConfigError(f"{name} is {value}: it must be 0 or more")
    return value
