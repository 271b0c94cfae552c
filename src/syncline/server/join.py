"""Join a running cluster: ask any member, over HTTP, to add this node. `Raft.join` chooses its id.

At later starts the members are asked for each other's addresses while the node has no leader. It may have moved, or
have announced a wrong address, before it had a log; then it knows no member and no member can dial it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

from syncline.client.client import AsyncClient
from syncline.client.schemas import UpgradeResult
from syncline.client.tls import trusting_context
from syncline.consensus.types import NodeId
from syncline.errors import ConfigError, OperationError, PermissionDenied, SynclineError, Unauthenticated
from syncline.kv.versions import MACHINE_VERSION
from syncline.node.envelope import ClusterLevels
from syncline.node.levels import Ability, why_not
from syncline.node.member_registry import format_id, is_founder, parse_id
from syncline.node.raft import Raft
from syncline.platform.disk import Disk
from syncline.platform.world import World
from syncline.server.config import ServerConfig
from syncline.server.secret_line import read_secret_line
from syncline.storage.datadir import DataDir
from syncline.version import FEATURE_LEVEL, __version__

__all__ = ["ask_members", "find_members", "is_new"]

TOLD_EVERY_S: Final = 5.0
"""How often a node that could not join yet logs the reason: longer than an election, which is no problem."""

FIND_TIMEOUT_S: Final = 2.0
FIND_EVERY_S: Final = 2.0
"""Between two requests for addresses: longer than an election, in which a sound node finds its leader by itself."""

_log = logging.getLogger("syncline.server.join")


def is_new(disk: Disk, path: str) -> bool:
    """Whether the node of a data directory never ran, so that its settings must name the cluster.

    False for a node that is joining or was repaired: it was a member before its identity was written.

    Raises `DirectoryLocked`, `CorruptionError` and their like.
    """
    directory = DataDir.open(disk, path)
    try:
        identity = directory.identity
        if identity is None:
            return True
        # A crash before the log is begun leaves an initial member's identity alone.
        return not identity.started and is_founder(identity.node_id, identity.cluster_id, identity.name)
    finally:
        directory.release()


async def ask_members(config: ServerConfig, node_id: NodeId, *, http: str, world: World) -> int:
    """Have this node added by any of the members at `config.join`; retried until `config.join_timeout_s`.

    Temporary errors (no server reached, no leader, no time) are retried and logged; a refusal ends it.
    Returns the cluster's id. Raises the errors of the client (`OperationError`), with the cluster's refusal as text.
    """
    loop = asyncio.get_running_loop()
    told_s = loop.time()
    end_s = told_s + config.join_timeout_s

    def tell(error: OperationError) -> None:
        nonlocal told_s
        if loop.time() - told_s >= TOLD_EVERY_S:
            told_s = loop.time()
            _log.warning("could not join yet, and tries for another %.0f s: %s", end_s - told_s, error)

    async with AsyncClient(
        config.join, world=world, tls=_trusted(config), token=_token(config), on_retry=tell
    ) as client:
        try:
            _check_levels(config.name, node_id, await client.upgrade_status(timeout=config.join_timeout_s))
            added = await client.add_member(
                config.name,
                config.peer_advertise or config.peer_listen,
                http=http,
                learner=config.join_as_learner,
                node_id=format_id(node_id),
                timeout=config.join_timeout_s,
            )
        except (Unauthenticated, PermissionDenied) as error:
            advice = "give --join-token-file a token of a user that may do `status` and `members` (docs/users.md)"
            raise type(error)(f"{error}; {advice}", code=error.code, details=error.details) from error
    if parse_id(added.member.id) != node_id:
        raise ConfigError(f"the cluster gave this node the id {added.member.id} instead of {format_id(node_id)}")
    return parse_id(added.cluster_id)


async def find_members(config: ServerConfig, raft: Raft[object], *, world: World) -> None:
    """While the node has no leader, ask at `config.join` for the members' addresses, and dial them there."""
    async with AsyncClient(config.join, world=world, tls=_trusted(config), token=_token(config)) as client:
        while raft.leader is None:
            try:
                members = (await client.members(timeout=FIND_TIMEOUT_S)).members
            except SynclineError as error:
                _log.info("the members at %s could not be asked for addresses: %s", ", ".join(config.join), error)
                members = ()
            for member in members:
                try:
                    raft.hint(parse_id(member.id), member.peer)
                except (ConfigError, ValueError) as error:
                    _log.warning("the address %r of member %s can't be used: %s", member.peer, member.name, error)
            await asyncio.sleep(FIND_EVERY_S)


def _check_levels(name: str, node_id: NodeId, cluster: UpgradeResult) -> None:
    """Raise `ConfigError` if this version can do less than the cluster's levels: as a member it could not take part."""
    can = Ability(FEATURE_LEVEL, MACHINE_VERSION)
    reason = why_not(can, ClusterLevels(cluster.level, cluster.machine_version))
    if reason is not None:
        raise ConfigError(f"node {name} ({format_id(node_id)}) {reason}. This is Syncline {__version__}")


def _token(config: ServerConfig) -> str | None:
    return read_secret_line(config.join_token_file, "token") if config.join_token_file else None


def _trusted(config: ServerConfig) -> ssl.SSLContext | None:
    """TLS towards the members' ports for clients. They may ask for a certificate: this node shows that of its own port.

    Raises `ConfigError`.
    """
    if not (config.join_tls_ca or config.http_tls_cert):
        return None
    certificate, key = (config.http_tls_cert, config.http_tls_key) if config.http_tls_cert else (None, None)
    return trusting_context(
        config.join_tls_ca or None, certificate, key, settings=("join_tls_ca", "http_tls_cert", "http_tls_key")
    )
