"""The file `peers`: the newest start of each peer that this node has welcomed, by the id of the peer's data
directory.

One JSON object with a checksum, replaced as a whole. It is a second line of defence (`node.starts.incarnations`), so
a damaged file is reported and started again; the member registry has most of its content too.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import msgspec

from syncline.errors import CorruptionError
from syncline.platform.disk import Disk
from syncline.storage.atomic_file import read_file, replace_file

__all__ = ["MAX_DIRECTORIES", "PEERS_NAME", "encode_starts", "read_starts", "write_starts"]

PEERS_NAME: Final = "peers"

MAX_DIRECTORIES: Final = 256
"""More than any cluster has members; what is above it belongs to members that were replaced long ago."""

LIMIT_BYTES: Final = 64 << 10
"""No valid file is larger: two numbers for each directory."""

_HEX: Final = re.compile(r"[0-9a-f]{16}")


class _File(msgspec.Struct):
    format_version: int
    starts: dict[str, str]
    checksum: str


def encode_starts(starts: dict[int, int]) -> bytes:
    """The file for incarnations by directory id. The order is kept: the least recently changed first."""
    assert len(starts) <= MAX_DIRECTORIES, len(starts)
    content = _File(1, {f"{directory:016x}": f"{starts[directory]:016x}" for directory in starts}, "")
    content.checksum = _checksum(content)
    return _encode(content)


def read_starts(disk: Disk, path: str) -> dict[int, int]:
    """The incarnations by directory id in the data directory `path`; empty without the file.

    Raises:
        CorruptionError: the file is damaged.
    """
    name = f"{path}/{PEERS_NAME}"
    if not disk.exists(name):
        return {}
    data = read_file(disk, name, limit_bytes=LIMIT_BYTES)
    try:
        content = msgspec.json.decode(data, type=_File)
        intact = content.checksum == _checksum(content) and _encode(content) == data and content.format_version == 1
    except ValueError as error:
        raise CorruptionError(f"{name} is damaged: {error}", file=name) from error
    if not intact or not all(map(_HEX.fullmatch, [*content.starts, *content.starts.values()])):
        raise CorruptionError(f"{name} is damaged: its checksum does not fit", file=name)
    return {int(directory, 16): int(start, 16) for directory, start in content.starts.items()}


def write_starts(disk: Disk, path: str, content: bytes) -> None:
    """Replace the file in the data directory `path` by `content`, durably. Raises `OSError`."""
    replace_file(disk, f"{path}/{PEERS_NAME}", content)


def _encode(content: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _checksum(content: _File) -> str:
    plain = msgspec.structs.replace(content, checksum="")
    return f"{zlib.crc32(msgspec.json.encode(plain)):08x}"
