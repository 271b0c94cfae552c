"""`Store`: a key-value node inside the process, with the methods of `AsyncClient`.

    config = Config(name="a", data_dir="data/a", listen="127.0.0.1:7100", peers={"a": "127.0.0.1:7100"})
    async with Store.open(config) as store:
        await store.put("greeting", "hello")
        found = await store.get("greeting")

`docs/store.md` says when to embed a node, and what differs from a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from os import PathLike
from types import TracebackType
from typing import Final, Self

from syncline.client.coordination.data_words import DataWords
from syncline.client.coordination.lock_words import LockWords
from syncline.client.embedded.calls import Embedded
from syncline.client.embedded.comforts import EmbeddedComfortCalls
from syncline.client.embedded.errors import closed
from syncline.client.embedded.leases import EmbeddedLeaseCalls
from syncline.client.embedded.listing import EmbeddedListingCalls
from syncline.client.embedded.opening import (
    EmbeddedNode,
    Opening,
    StoreArguments,
    StoreReplica,
    StoreSettings,
    StoreUpkeep,
    begin_opening,
    join_opening,
    made_node,
)
from syncline.client.embedded.sessions import EmbeddedSessionCalls
from syncline.client.embedded.watch import EmbeddedWatchCalls
from syncline.client.held_lease import HeldLeases, KeepAlives
from syncline.engines.protocol import Engine
from syncline.errors import UsageError
from syncline.kv.compactor import DEFAULT_HISTORY_BYTES, DEFAULT_HISTORY_REVISIONS
from syncline.kv.machine import KvMachine
from syncline.kv.serving.key_limits import DEFAULT_MAX_KEY_BYTES
from syncline.kv.watch_hub import WatchHub
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


class Store(
    EmbeddedComfortCalls,
    EmbeddedListingCalls,
    EmbeddedSessionCalls,
    EmbeddedLeaseCalls,
    EmbeddedWatchCalls,
    LockWords,
    DataWords,
):
    """A node in this process, and its keys: a member of a cluster, or a node on another engine. See `Store.open`.

    It has the methods of `AsyncClient` for keys, listings, transactions, batches, leases, watches and sessions, with
    the same arguments, results and errors. There is no connection: a write is proposed by this node, and a read is
    taken from its own state after a confirmation. Both work on every node.

    What concerns the node and the cluster is at `raft`: members, leader, snapshots, events. `replica` has what there is
    on each engine.

    It belongs to the event loop that opened it. Keys are bytes; a `str` is taken as its UTF-8.
    """

    def __init__(self) -> None:
        self._replica: StoreReplica
        self._machine: KvMachine
        self._node: EmbeddedNode
        self._upkeep: StoreUpkeep
        self._entropy: Entropy
        self._wall_time_s: Callable[[], float]
        self._closing: asyncio.Task[None] | None = None
        raise UsageError("use `await Store.open(config)`, or `async with Store.open(config) as store`")

    def __repr__(self) -> str:
        return f"<Store of {self._replica!r}>"

    @classmethod
    def open(
        cls,
        config: Config | str | PathLike[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
        max_store_bytes: int = 0,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int | None = None,
        world: World | None = None,
    ) -> Startup[Store]:
        """Start a node of a store: from a `Config`, the path of a TOML file with its settings, or an engine's URL.

            store = await Store.open(config)          # the caller calls `close`
            async with Store.open(config) as store:   # closed at the end of the block
                ...
            async with Store.open("etcd://10.0.0.1:2379/agents") as store:   # on another engine (docs/engines.md)
                ...

        `timeout` (seconds) bounds one call, unless it gives its own. While this node leads, it keeps the last
        `history_revisions` revisions, or `history_bytes` of older versions if that is less. Puts above
        `max_store_bytes` are refused (0: half of the memory). `max_key_bytes` and `max_value_bytes` (None: 1.5 MiB on
        Raft, 511 KiB on other engines) bound the calls of this store. `world` replaces what is outside the node, for
        tests.

        On Raft this is a member of a cluster, as `Raft.open` starts it. The data directory is that of a server:
        `syncline serve` can open it afterwards, and the other way round.

        On other engines any number of processes open a store with one URL, and each has all keys. Locks, elections,
        leases and watches work on each engine. On those engines each keep-alive is an entry of the log, all nodes end
        leases, and the smallest limits of the history count.

        Raises:
            TypeError: `config` is none of these, or an argument has another type.
            ConfigError: the settings do not fit each other, or the data directory. Or the engine can't be used.
            Unreachable: no server of the engine answers (`not_applied`).
            StorageError: the data directory can't be used.
            NodeFailed: the state can't be loaded, or the log is of another state machine.
            OSError: the peer address can't be bound.
        """
        outside = world or World()
        arguments = StoreArguments(
            timeout=timeout,
            history_revisions=history_revisions,
            history_bytes=history_bytes,
            max_store_bytes=max_store_bytes,
            max_key_bytes=max_key_bytes,
            max_value_bytes=max_value_bytes,
        )
        opening, machine, settings = begin_opening(config, arguments, outside)
        return Startup(cls._opened(opening, machine, outside, settings), Store.close)

    @classmethod
    def join(
        cls,
        config: Config | str | PathLike[str],
        ask: Ask,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
        max_store_bytes: int = 0,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int | None = None,
        world: World | None = None,
    ) -> Startup[Store]:
        """`open` for a node that joins a running cluster of Raft: `ask` has a member add it, as in `Raft.join`.

            async def ask(node_id: int) -> int:
                added = await client.add_member("d", "127.0.0.1:7104", node_id=f"{node_id:016x}")
                return int(added.cluster_id, 16)

            store = await Store.join(config, ask)

        Raises:
            OSError, SynclineError, TypeError: as `open` does.
            Exception: whatever `ask` raises.
        """
        outside = world or World()
        arguments = StoreArguments(
            timeout=timeout,
            history_revisions=history_revisions,
            history_bytes=history_bytes,
            max_store_bytes=max_store_bytes,
            max_key_bytes=max_key_bytes,
            max_value_bytes=max_value_bytes,
        )
        opening, machine, settings = join_opening(config, ask, arguments, outside)
        return Startup(cls._opened(opening, machine, outside, settings), Store.close)

    @classmethod
    async def _opened(cls, opening: Opening, machine: KvMachine, world: World, settings: StoreSettings) -> Store:
        replica = await opening
        try:
            return cls._made(replica, machine, world, settings)
        except BaseException:
            await replica.close()
            raise

    @classmethod
    def _made(cls, replica: StoreReplica, machine: KvMachine, world: World, settings: StoreSettings) -> Store:
        """The store over an open node. What may raise comes before the first task."""
        store = cls.__new__(cls)
        store._replica, store._machine, store._closing = replica, machine, None
        store._entropy, store._wall_time_s = world.entropy, world.wall_time_s
        store._asleep_s, store._rng = world.workers.asleep_s, world.rng
        store._node, store._upkeep = node, _ = made_node(replica, machine, world, settings)
        name = replica.config.name if isinstance(replica, Raft) else ""
        store._embedded = Embedded(node, limits=settings.limits, timeout_s=settings.timeout_s, name=name)
        store._many_bytes = settings.many_bytes
        store._hub = WatchHub(
            lambda: machine.store,
            has_leader=lambda: node.leader() is not None,
            confirm=node.read_index,
            election_s=node.election_s,
        )
        node.observe(store._hub.changed)
        store._held_leases = HeldLeases()
        store._keep_alives = KeepAlives(lambda names, limit_s: store.keep_alive(names, timeout=limit_s))
        store._upkeep.start()
        return store

    @property
    def raft(self) -> Raft[object]:
        """The node of Raft: its members, its leader, snapshots, events. Commands to it go through the store.

            print(store.raft.leader)

        It is closed with the store.

        Raises:
            UsageError: the store is on another engine than Raft: see `replica`.
        """
        if isinstance(self._replica, Raft):
            return self._replica
        raise UsageError("this store is not on Raft: `replica` is its node, on each engine")

    @property
    def replica(self) -> Engine[object]:
        """The node, on whichever engine: its figures, snapshots, events, leadership.

            print(store.replica.stats().applied)

        It is closed with the store.
        """
        return self._replica

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
        await self._replica.close()

    async def __aenter__(self) -> Self:
        self._embedded.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
