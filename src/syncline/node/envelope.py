"""The data that Syncline adds around the data of a log entry.

Every normal entry is a `Proposal`. It has the id of the node that proposed it, which answers its caller when it applies
the entry. It also has a number that is unique on that node, restarts included. `kind` separates the state machine's
entries from the runtime's own. The runtime's entries never reach the state machine.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Final

import msgspec

from syncline.consensus.types import NodeId
from syncline.decoding import UNDECODABLE
from syncline.node.restore_entries import RestoreEntry, decode_restore_entry
from syncline.sessions.entries import SessionChange, SessionCommand
from syncline.sessions.entries import decode_change as decode_session_change_data
from syncline.sessions.entries import decode_command as decode_session_command_data

__all__ = [
    "DATA",
    "FIRST_LEVEL",
    "MEMBERSHIP",
    "ChangeContext",
    "ClusterLevels",
    "Hold",
    "Kind",
    "LARGEST_KIND",
    "LATEST_TIME_S",
    "LevelChange",
    "MemberRecord",
    "Proposal",
    "StampedProposal",
    "Unreadable",
    "WallTime",
    "command_in",
    "decode_context",
    "decode_level",
    "decode_member",
    "decode_proposal",
    "decode_restore",
    "decode_session_change",
    "decode_session_command",
    "encode",
]


DATA: Final = 0
MEMBERSHIP: Final = 1
"""Kinds of proposals, as `ForwardedProposal.kind`: the data of a normal entry, or a change of the membership."""


class Kind(IntEnum):
    """Part of the log format: never renumbered."""

    COMMAND = 0
    """A command for the state machine."""
    BARRIER = 1
    """No content: when it is applied, everything before it is applied."""
    ANNOUNCE = 2
    """A member's name and addresses, as it announces itself (`MemberRecord`)."""
    LEVEL = 3
    """The cluster's feature level or machine version rises."""
    DIGEST = 4
    """The members' digests of the state at one applied index, for comparison."""
    SESSION = 5
    """A session is opened, or sessions are ended (`sessions.entries.SessionChange`)."""
    SESSION_COMMAND = 6
    """A command that takes effect once for its key (`sessions.entries.SessionCommand`)."""
    RESTORE = 7
    """A step of a restore of the state from a snapshot (`restore_entries.RestoreEntry`). Since feature level 2."""


LARGEST_KIND: Final = 255
"""No version writes a kind above it: such an entry is garbage, and not of a later version."""


LARGEST_MEMBER_BYTES: Final = 16 << 10
"""Bytes of an announcement: a name, two addresses, some numbers. The registry of all members is in each snapshot's
manifest, which is bounded as well: a registry that does not fit would prevent all further snapshots."""

LARGEST_CONTEXT_BYTES: Final = 1 << 20
"""Bytes of the context of a change: the records of the members that it brings in."""


class Proposal(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The data of a normal log entry."""

    kind: int
    origin: NodeId
    number: int
    data: bytes
    extensions: bytes = b""


LATEST_TIME_S: Final = 253_402_300_799.0
"""The end of the year 9999, in seconds since 1970: no clock shows more, and `datetime` can't express more."""

WallTime = Annotated[float, msgspec.Meta(ge=0, le=LATEST_TIME_S)]


class StampedProposal(Proposal, array_like=True, gc=False, frozen=True):
    """The data of a normal entry as it stands in the log: with the leader's stamp, from feature level 2 on.

    An entry without a stamp has the defaults.
    """

    time_s: WallTime = 0.0
    """The leader's wall clock when it appended the entry. It may be less than that of an entry before it."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    """With the index it seeds the entry's random numbers: the id of the cluster in which the entry was appended."""


class MemberRecord(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A member as the cluster knows it: its id, its name, and its addresses.

    `address` is for its peers, `http` for clients (empty if it serves none). Both are announced by the member
    itself and replicated; neither is ever its identity.
    """

    id: NodeId
    name: str
    address: str
    http: str = ""
    promote: bool = False
    """A learner that is to become a voter once it has caught up."""
    directory: int = 0
    """The id of its data directory, announced with the rest; once known it does not change. 0: not known yet."""
    incarnation: int = 0
    """The start of the node that announced this: start count << 32 | 32 random bits. 0: not known yet."""
    level: int = 0
    """The highest feature level that its version of Syncline can do. 0: not known yet."""
    machine_version: int = 0
    """The highest version of the state machine's commands that its program can apply."""


class ChangeContext(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The context of a membership change: its proposer, and the members that it adds."""

    origin: NodeId
    number: int
    members: tuple[MemberRecord, ...] = ()
    expected: int = 0
    """Only if this is the membership's index, 0: in any case. The leader looks, before it appends."""
    force: bool = False
    """Whether the leader appends it even if no quorum of the voters would be alive afterwards."""


FIRST_LEVEL: Final = 1
"""The levels of a cluster that has never risen."""

_Level = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Hold(IntEnum):
    """The effect of a change of the levels on the replicated hold. Part of the log format: never renumbered."""

    KEEP = 0
    SET = 1
    RELEASE = 2


class LevelChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The content of a `Kind.LEVEL` entry: levels to rise to, each if all members can do it; 0 changes nothing."""

    level: _Level
    machine_version: _Level
    hold: Hold = Hold.KEEP
    written_by: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The version of Syncline that proposed it."""


class ClusterLevels(msgspec.Struct, array_like=True, frozen=True):
    """The cluster's levels: a part of the member registry, in snapshots too."""

    level: int = FIRST_LEVEL
    machine_version: int = FIRST_LEVEL
    hold: bool = False
    """Whether the levels stay where they are until an operator finalizes the upgrade."""
    written_by: str = ""
    """The version of Syncline that proposed the last rise."""


_encoder = msgspec.msgpack.Encoder(enc_hook=int)  # a public `NodeId` is written as the integer that it is
encode: Callable[[object], bytes] = _encoder.encode
_proposal_decoder = msgspec.msgpack.Decoder(StampedProposal)
_member_decoder = msgspec.msgpack.Decoder(MemberRecord)
_level_decoder = msgspec.msgpack.Decoder(LevelChange)
_context_decoder = msgspec.msgpack.Decoder(ChangeContext)


class Unreadable(ValueError):
    """Invalid bytes. The text has the reason."""


def decode_proposal(data: bytes) -> StampedProposal:
    """Decode a normal entry's data, with or without a stamp.

    Raises `Unreadable`, and nothing else, as do the other two.
    """
    try:
        return _proposal_decoder.decode(data)
    except UNDECODABLE as error:
        raise Unreadable(f"it is not a proposal: {error}") from error


def decode_member(data: bytes) -> MemberRecord:
    """Read an announcement."""
    if len(data) > LARGEST_MEMBER_BYTES:
        raise Unreadable(f"an announcement of {len(data)} bytes; the limit is {LARGEST_MEMBER_BYTES}")
    try:
        return _member_decoder.decode(data)
    except UNDECODABLE as error:
        raise Unreadable(f"the announcement can't be read: {error}") from error


def decode_level(data: bytes) -> LevelChange:
    """Read a change of the levels. Raises Unreadable: such an entry has no effect on any node."""
    try:
        return _level_decoder.decode(data)
    except UNDECODABLE as error:
        raise Unreadable(f"the change of the levels can't be read: {error}") from error


def decode_session_command(data: bytes) -> SessionCommand:
    """Read a command of a session."""
    try:
        return decode_session_command_data(data)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def decode_session_change(data: bytes) -> SessionChange:
    """Read a change of sessions."""
    try:
        return decode_session_change_data(data)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def decode_restore(data: bytes) -> RestoreEntry:
    """Read a step of a restore."""
    try:
        return decode_restore_entry(data)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def command_in(proposal: Proposal) -> bytes | None:
    """The state machine's command in a proposal, None if it has none. Raises Unreadable."""
    if proposal.kind == Kind.COMMAND:
        return proposal.data
    return decode_session_command(proposal.data).data if proposal.kind == Kind.SESSION_COMMAND else None


def decode_context(data: bytes) -> ChangeContext | None:
    """Read a change's context; None for a change that brings none (leaving a joint membership)."""
    if len(data) > LARGEST_CONTEXT_BYTES:
        raise Unreadable(f"the context of the change has {len(data)} bytes; the limit is {LARGEST_CONTEXT_BYTES}")
    try:
        return _context_decoder.decode(data) if data else None
    except UNDECODABLE as error:
        raise Unreadable(f"the context of the change can't be read: {error}") from error
