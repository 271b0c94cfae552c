"""Join a running cluster: the new node chooses its id and records it durably before it asks a member.

The id is a fresh random number. So a node that crashes while it joins comes back as the same node. A node whose data
directory was lost joins as a new node, and can never act on promises of its lost directory.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import msgspec

from syncline.consensus.types import NodeId
from syncline.decoding import UNDECODABLE
from syncline.errors import CorruptionError
from syncline.node.config import Config
from syncline.node.member_registry import format_id, parse_id
from syncline.platform.disk import Disk
from syncline.storage.atomic_file import read_file, replace_file
from syncline.storage.datadir import JOINING_NAME, DataDir

__all__ = ["Ask", "chosen_id", "finish_joining", "joining_config"]

FILE_LIMIT_BYTES = 4096
ID_BITS = 62
"""Node ids are positive and below 2**63."""

Ask = Callable[[NodeId], Awaitable[int]]
"""Has a member of the cluster add the node with this id, and returns the cluster's id."""


class _Note(msgspec.Struct):
    node_id: str


async def joining_config(
    config: Config, ask: Ask, *, disk: Disk, rng: random.Random, check_new: Callable[[], None]
) -> Config:
    """The settings with which a node joins: with its ids, unless its directory knows them already.

    `check_new` is called if the directory is new, before anything is written or asked. Raises `DirectoryLocked`,
    `CorruptionError` and their like, and whatever `ask` and `check_new` raise.
    """
    directory = DataDir.open(disk, config.data_dir)
    try:
        if directory.identity is not None:
            return config
        check_new()
        node_id = _choose_id(disk, config.data_dir, rng)
    finally:
        directory.release()
    return msgspec.structs.replace(config, node_id=node_id, cluster_id=await ask(node_id))


def finish_joining(disk: Disk, path: str) -> None:
    """Remove the note of the chosen id: the node is open and its identity is in its directory."""
    if disk.exists(f"{path}/{JOINING_NAME}"):
        disk.remove(f"{path}/{JOINING_NAME}")
        disk.sync_dir(path)


def chosen_id(disk: Disk, path: str) -> NodeId | None:
    """The id under which a node is joining from the data directory `path`; None if there is none."""
    name = f"{path}/{JOINING_NAME}"
    if not disk.exists(name):
        return None
    try:
        return parse_id(msgspec.json.decode(read_file(disk, name, limit_bytes=FILE_LIMIT_BYTES), type=_Note).node_id)
    except (*UNDECODABLE, ValueError) as error:
        message = f"{name} is damaged: {error}. The node has not joined yet: empty its data directory and start again."
        raise CorruptionError(message, file=name) from error


def _choose_id(disk: Disk, path: str, rng: random.Random) -> NodeId:
    """The id that this node chose for itself: read back, or chosen and made durable."""
    chosen = chosen_id(disk, path)
    if chosen is None:
        chosen = rng.getrandbits(ID_BITS) + 1
        replace_file(disk, f"{path}/{JOINING_NAME}", msgspec.json.encode(_Note(format_id(chosen))))
    return chosen
