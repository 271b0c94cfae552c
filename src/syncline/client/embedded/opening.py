"""The node of a store, on the engine that its settings name."""

from __future__ import annotations

from collections.abc import Coroutine
from os import PathLike
from typing import Final, Protocol, TypeAlias, cast

import msgspec

from syncline.client.arguments import checked_timeout_s
from syncline.client.embedded.log_machine import STORE_DECLARATION, LogKvMachine
from syncline.client.many import MANY_BYTES
from syncline.engines.kv_node import LogKvNode, LogUpkeep
from syncline.engines.outbox import MAX_COMMAND_BYTES
from syncline.engines.replica import LogReplica
from syncline.engines.urls import RAFT, is_url, raft_file
from syncline.errors import ConfigError
from syncline.kv.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.kv.machine import KvMachine
from syncline.kv.serving.key_limits import DEFAULT_MAX_VALUE_BYTES, KeyLimits
from syncline.kv.serving.kv_node import KvNode
from syncline.kv.serving.memory import new_machine
from syncline.kv.serving.node import MemberNode
from syncline.kv.serving.upkeep import Upkeep
from syncline.machines.opening import open as open_engine
from syncline.node.config import Config
from syncline.node.joining import Ask
from syncline.node.raft import Raft
from syncline.node.settings.load import config_of
from syncline.platform.world import World

__all__ = [
    "EmbeddedNode",
    "Opening",
    "StoreArguments",
    "StoreConfig",
    "StoreReplica",
    "StoreSettings",
    "StoreUpkeep",
    "begin_opening",
    "join_opening",
    "made_node",
]

ENTRY_FACTOR: Final = 2
"""The log must accept every command within the limits of keys and values."""

StoreConfig: TypeAlias = Config | str | PathLike[str]
StoreReplica: TypeAlias = Raft[object] | LogReplica[object]
Opening: TypeAlias = Coroutine[object, None, StoreReplica]


class EmbeddedNode(MemberNode, Protocol):
    """A node that the store closes."""

    async def close(self) -> None:
        """Release the node, before the replica is closed."""
        ...


class StoreUpkeep(Protocol):
    """What a node does for its store beside the commands."""

    def start(self) -> None:
        """Take up the work."""
        ...

    async def close(self) -> None:
        """End the work."""
        ...


class StoreArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What a program gives `Store.open`, as it is."""

    timeout: float
    history_revisions: int
    history_bytes: int
    max_store_bytes: int
    max_key_bytes: int
    max_value_bytes: int | None


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The checked arguments of `Store.open`."""

    limits: KeyLimits
    timeout_s: float
    history_revisions: int
    history_bytes: int
    max_store_bytes: int
    many_bytes: int
    """Keys and values that one entry of the log holds well."""


def _is_log(config: object) -> bool:
    """Whether this is the URL of an engine other than Raft. Its node is a `LogReplica`."""
    return isinstance(config, str) and is_url(config) and not config.startswith(RAFT)


def _raft_config(config: StoreConfig) -> Config:
    """The settings of a node of Raft: as they are, of a file, or of the URL `raft:FILE`.

    Raises:
        ConfigError: the file can't be used.
        TypeError: `config` is none of these.
    """
    return config_of(raft_file(config) if isinstance(config, str) and is_url(config) else config)


def _checked_settings(arguments: StoreArguments, config: Config | None) -> StoreSettings:
    """Check the arguments. `config`: of a node of Raft; None on other engines.

    Raises:
        ConfigError: the limits do not fit each other.
        TypeError: an argument has another type.
    """
    entry_bytes = MAX_COMMAND_BYTES if config is None else config.max_entry_bytes
    if arguments.max_value_bytes is not None:
        value_bytes = _natural(arguments.max_value_bytes, "max_value_bytes")
    elif config is not None:
        value_bytes = DEFAULT_MAX_VALUE_BYTES
    else:
        value_bytes = min(DEFAULT_MAX_VALUE_BYTES, entry_bytes // ENTRY_FACTOR)
    key_bytes = _natural(arguments.max_key_bytes, "max_key_bytes")
    if not 0 < key_bytes <= MAX_KEY_BYTES:
        raise ConfigError(f"max_key_bytes is {key_bytes}: it must be from 1 to {MAX_KEY_BYTES}")
    if value_bytes > MAX_VALUE_BYTES:
        raise ConfigError(f"max_value_bytes is {value_bytes}: it must be at most {MAX_VALUE_BYTES}")
    if ENTRY_FACTOR * value_bytes > entry_bytes:
        limit = "the largest entry of this engine" if config is None else "Config.max_entry_bytes"
        raise ConfigError(
            f"max_value_bytes is {value_bytes}, and {limit} {entry_bytes}: an entry must hold {ENTRY_FACTOR} times the"
            " largest value"
        )
    if not _natural(arguments.history_revisions, "history_revisions"):
        raise ConfigError("history_revisions is 0: at least the present revision is kept")
    return StoreSettings(
        limits=KeyLimits(key_bytes, value_bytes),
        timeout_s=checked_timeout_s(arguments.timeout),
        history_revisions=arguments.history_revisions,
        history_bytes=_natural(arguments.history_bytes, "history_bytes"),
        max_store_bytes=_natural(arguments.max_store_bytes, "max_store_bytes"),
        many_bytes=MANY_BYTES if config is not None else entry_bytes // ENTRY_FACTOR,
    )


def begin_opening(
    config: StoreConfig, arguments: StoreArguments, world: World
) -> tuple[Opening, KvMachine, StoreSettings]:
    """The node on its way, its machine, and the checked arguments. Raises `ConfigError` and `TypeError`."""
    if _is_log(config):
        settings = _checked_settings(arguments, None)
        machine = _machine(settings, LogKvMachine)
        opening = cast("Opening", open_engine(cast("str", config), machine, world=world))
        return _declared(opening, settings.timeout_s), machine, settings
    raft = _raft_config(config)
    settings = _checked_settings(arguments, raft)
    machine = _machine(settings)
    return cast("Opening", Raft.open(raft, machine, world=world)), machine, settings


async def _declared(opening: Opening, timeout_s: float) -> StoreReplica:
    """The open node. An empty log is declared to be of a store."""
    replica = await opening
    try:
        if not replica.stats().applied:
            await replica.apply(STORE_DECLARATION, timeout=timeout_s)
    except BaseException:
        await replica.close()
        raise
    return replica


def join_opening(
    config: StoreConfig, ask: Ask, arguments: StoreArguments, world: World
) -> tuple[Opening, KvMachine, StoreSettings]:
    """`begin_opening` for a node that joins a cluster of Raft."""
    if _is_log(config):
        raise ConfigError("a store on this engine has no members that it could join: use `Store.open(url)`")
    raft = _raft_config(config)
    settings = _checked_settings(arguments, raft)
    machine = _machine(settings)
    return cast("Opening", Raft.join(raft, machine, ask, world=world)), machine, settings


def made_node(
    replica: StoreReplica, machine: KvMachine, world: World, settings: StoreSettings
) -> tuple[EmbeddedNode, StoreUpkeep]:
    """What serves the calls of a store, and what works beside them. The latter is to be started."""
    revisions, size_bytes = settings.history_revisions, settings.history_bytes
    if isinstance(replica, Raft):
        node = KvNode(replica, machine, entropy=world.entropy)
        keeping = Upkeep(replica, machine, history_revisions=revisions, history_bytes=size_bytes)
        node.lease_calls.answer_here(keeping.lessor)
        return node, keeping
    upkeep = LogUpkeep(replica, machine, world, history_revisions=revisions, history_bytes=size_bytes)
    return LogKvNode(replica, machine, upkeep.lessor, world), upkeep


def _machine(settings: StoreSettings, kind: type[KvMachine] = KvMachine) -> KvMachine:
    return new_machine(max_store_bytes=settings.max_store_bytes, history_bytes=settings.history_bytes, machine=kind)


def _natural(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 0:
        raise ConfigError(f"{name} is {value}: it must be 0 or more")
    return value
