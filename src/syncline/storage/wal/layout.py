"""How the records of a frame are laid out, by the version of their segment. Byte by byte in `docs/formats.md`.

Each record begins with its kind. From version 2 on the number of its Raft group follows (4 bytes), so that several
groups can share a log one day; 0 is the only group today. What follows is the same in both versions.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "FORMAT_VERSION",
    "GROUP",
    "LAYOUTS",
    "NEWEST",
    "OLDEST_FORMAT_VERSION",
    "RECORD_ENTRIES",
    "RECORD_HARD_STATE",
    "RECORD_MARKER",
    "RECORD_SEAL",
    "RecordLayout",
]

FORMAT_VERSION: Final = 2
"""The version in which segments are written."""

OLDEST_FORMAT_VERSION: Final = 1
"""The oldest version that is still read."""

GROUP: Final = 0
"""The Raft group of this log: the only one today."""

RECORD_ENTRIES: Final = 1
RECORD_HARD_STATE: Final = 2
RECORD_MARKER: Final = 3
RECORD_SEAL: Final = 4

GROUP_FIELD: Final = struct.Struct("<I")

TERMS_BYTES: Final = 16
"""The two terms that stand last in an entries record."""

GUARDED_BYTE: Final = 31
"""Frames start at multiples of 32 bytes, so only this byte of the first record's head can be a sector's last."""


class RecordLayout:
    """The forms of the records in segments of one version.

    Kind and group are packed and compared as one field of bytes (`entries_kind`, …): what is not of this group differs.
    """

    def __init__(self, version: int) -> None:
        group = GROUP_FIELD.pack(GROUP) if version >= 2 else b""
        kind = f"{1 + len(group)}s"
        self.version = version
        self.group_bytes: int = len(group)
        self.entries_kind: bytes = bytes([RECORD_ENTRIES]) + group
        self.hard_state_kind: bytes = bytes([RECORD_HARD_STATE]) + group
        self.marker_kind: bytes = bytes([RECORD_MARKER]) + group
        self.seal_kind: bytes = bytes([RECORD_SEAL]) + group
        self.entries: struct.Struct = struct.Struct(f"<{kind}IQIQQ")
        self.hard_state: struct.Struct = struct.Struct(f"<{kind}QQQ")
        self.marker: struct.Struct = struct.Struct(f"<{kind}I")
        self.seal: struct.Struct = struct.Struct(f"<{kind}Q")
        # For `steady`, which reads a frame's header and the head of its entries in one step:
        self.head: struct.Struct = struct.Struct(f"<8I{kind}IQI{TERMS_BYTES}s")
        self.state: struct.Struct = struct.Struct(f"<{self.hard_state.size - 8}sQ")
        self.guarded_term: int = GUARDED_BYTE - (self.entries.size - TERMS_BYTES)
        assert 0 < self.guarded_term < TERMS_BYTES

    def group_at(self, data: bytes | bytearray, position: int) -> int:
        """The group of the record at `position`."""
        if not self.group_bytes:
            return GROUP
        (group,) = GROUP_FIELD.unpack_from(data, position + 1)
        assert isinstance(group, int)
        return group


LAYOUTS: Final = {version: RecordLayout(version) for version in range(OLDEST_FORMAT_VERSION, FORMAT_VERSION + 1)}

NEWEST: Final = LAYOUTS[FORMAT_VERSION]
