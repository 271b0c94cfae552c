"""Entering a running cluster: the new node chooses its id, and asks any member to have it added.

The id is a fresh random number, written down before it is told to anybody. So a node that crashes while it joins comes
back as the same one; and a node whose disk was lost comes as a stranger, is refused under its old name, and can never
go on as if it still knew what it once promised.
"""

from __future__ import annotations

import random
import ssl

import msgspec

from syncline.client.client import AsyncClient
from syncline.errors import ConfigError, CorruptionError
from syncline.node.members import format_id, is_founder, parse_id
from syncline.platform.disk import Disk
from syncline.platform.network import Network
from syncline.server.config import ServerConfig
from syncline.storage.datadir import JOINING_NAME, DataDir
from syncline.storage.wholefile import read_file, replace_file

__all__ = ["JoiningNode", "chosen_id", "finish_joining", "is_new", "join_cluster"]

FILE_LIMIT_BYTES = 4096
ID_BITS = 62
"""Node ids are positive and below 2**63."""


class JoiningNode(msgspec.Struct, frozen=True):
    """Who the new node is: what its `Config` needs."""

    cluster_id: int
    node_id: int


class _File(msgspec.Struct):
    node_id: str


def is_new(disk: Disk, path: str) -> bool:
    """Whether the node in a data directory never ran: it must be told where it belongs, as if nothing were there.

    Not one that joins or was repaired: it was a member before its identity was written.

    Raises `DirectoryLocked`, `CorruptionError` and their like.
    """
    directory = DataDir.open(disk, path)
    try:
        identity = directory.identity
        if identity is None:
            return True
        # A founder's identity alone is what a crash leaves before the log is begun.
        return not identity.started and is_founder(identity.node_id, identity.cluster_id, identity.name)
    finally:
        directory.release()


async def join_cluster(
    config: ServerConfig, *, http: str, disk: Disk, network: Network, rng: random.Random
) -> JoiningNode:
    """Have this node added, by any of the members at `config.join`; retried until `config.join_timeout_s`.

    Raises what the client does (`OperationError`), with the refusal of the cluster in words.
    """
    node_id = _chosen_id(disk, config.data_dir, rng)
    async with AsyncClient(config.join, network=network, rng=rng, tls=_trusted(config)) as client:
        added = await client.add_member(
            config.name,
            config.peer_advertise or config.peer_listen,
            http=http,
            learner=config.join_as_learner,
            node_id=format_id(node_id),
            timeout_s=config.join_timeout_s,
        )
    if parse_id(added.member.id) != node_id:
        raise ConfigError(f"the cluster gave this node the id {added.member.id} instead of {format_id(node_id)}")
    return JoiningNode(parse_id(added.cluster_id), node_id)


def _trusted(config: ServerConfig) -> ssl.SSLContext | None:
    if not config.join_tls_ca:
        return None
    try:
        return ssl.create_default_context(cafile=config.join_tls_ca)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"join_tls_ca {config.join_tls_ca!r} can't be used: {error.strerror or error}") from error


def finish_joining(disk: Disk, path: str) -> None:
    """The node is open and its identity is in its directory: the note is not needed any more."""
    if disk.exists(f"{path}/{JOINING_NAME}"):
        disk.remove(f"{path}/{JOINING_NAME}")
        disk.sync_dir(path)


def _chosen_id(disk: Disk, path: str, rng: random.Random) -> int:
    """The id that this node chose for itself: read back, or chosen and made durable."""
    directory = DataDir.open(disk, path)
    try:
        chosen = chosen_id(disk, path)
        if chosen is None:
            chosen = rng.getrandbits(ID_BITS) + 1
            replace_file(disk, f"{path}/{JOINING_NAME}", msgspec.json.encode(_File(format_id(chosen))))
        return chosen
    finally:
        directory.release()


def chosen_id(disk: Disk, path: str) -> int | None:
    """The id under which a node means to join from the data directory `path`; None where none does."""
    name = f"{path}/{JOINING_NAME}"
    if not disk.exists(name):
        return None
    try:
        return parse_id(msgspec.json.decode(read_file(disk, name, limit_bytes=FILE_LIMIT_BYTES), type=_File).node_id)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        message = f"{name} is damaged: {error}. The node has not joined yet: empty its data directory and start again."
        raise CorruptionError(message, file=name) from error
