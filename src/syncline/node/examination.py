"""Checks of the leader before it appends: no entry enters the log that a node could not apply.

All nodes apply each committed entry, and again at each start. So one entry that a node can't apply stops the cluster
permanently. A faulty member must not be able to write one. This is the second of three checks: calls are checked
where they are made (`arguments.py`), and the application of the runtime's own entries never raises (`applier.py`,
`Reconfiguration.applied`).

No function here changes anything. Whatever the bytes are, they raise `Dropped`, `MembershipError` or `TooLarge`, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Final, TypeAlias

import msgspec

from syncline.consensus.types import LARGEST_ID, NONE, ChangeType, MembershipChange, NodeId, Transition
from syncline.decoding import UNDECODABLE
from syncline.errors import (
    BacklogFull,
    ConfigError,
    DiskFull,
    Dropped,
    LimitReached,
    MembershipError,
    NoSpace,
    OperationError,
    Rejected,
    SynclineError,
    TooLarge,
)
from syncline.node.envelope import (
    DATA,
    LARGEST_CONTEXT_BYTES,
    MEMBERSHIP,
    ChangeContext,
    Kind,
    MemberRecord,
    Proposal,
    Unreadable,
    command_in,
    decode_context,
    decode_level,
    decode_member,
    decode_proposal,
    decode_restore,
    decode_session_change,
    decode_session_command,
)
from syncline.node.futures import Queued
from syncline.node.naming import check_http, check_name, dialled_address
from syncline.node.rejections import AskAgain, refused
from syncline.node.settings.declared import LARGEST_MESSAGE_BYTES
from syncline.storage.space import CheckSpace
from syncline.transport.messages import Forward, RefusedProposal

__all__ = ["PLAIN", "Examined", "examine_change", "examine_forward", "examine_proposal", "sound_own"]

LARGEST_PROPOSAL_BYTES: Final = LARGEST_MESSAGE_BYTES + (1 << 20)
"""More would not fit in a frame of the transport: the followers could never get the entry, nor any after it. The
largest command that `Config` allows has room in it."""

LARGEST_CHANGE_BYTES: Final = LARGEST_CONTEXT_BYTES + (64 << 10)
"""Bytes of a change of the membership."""

MAX_CHANGES: Final = 256
"""Members in one change."""

LARGEST_NUMBER: Final = 2**63 - 1
"""The largest number of a proposal, index or term."""

_COMMAND, _BARRIER, _SESSION_COMMAND = int(Kind.COMMAND), int(Kind.BARRIER), int(Kind.SESSION_COMMAND)
"""Plain numbers: to compare with a member of an enumeration takes several times as long."""

PLAIN: Final = frozenset({b"\x95\x00", b"\x95\x01", b"\x95\x06"})
"""How a command, a barrier and a command of a session begin that this version encoded: an array of five, whose first is
the kind."""

_payload_of: Final = itemgetter(2)
_start_of: Final = itemgetter(slice(2))

_change_decoder = msgspec.msgpack.Decoder(MembershipChange)


Examined: TypeAlias = tuple[list[tuple[int, int, bytes]], list[RefusedProposal]]
"""Proposals that may enter the log, as number, kind and bytes, and the refusals of the rest."""


def sound_own(
    queue: list[Queued],
    node_id: NodeId,
    refuse: Callable[[int, SynclineError], None],
    admit: Callable[[Proposal], None],
) -> list[Queued]:
    """The leader's own proposals that may enter the log; the others are refused. `admit` raises for other reasons.

    `Raft.apply` has made almost all of them, from checked arguments: two bytes show that, for all at once. Only the
    others are examined here in full.
    """
    if set(map(_start_of, map(_payload_of, queue))) <= PLAIN:  # without a line of Python for each of them
        return queue
    sound: list[Queued] = []
    for item in queue:
        waiter, kind, payload = item
        try:
            if kind == DATA and payload[:2] not in PLAIN:
                admit(examine_proposal(payload, node_id, waiter.number, own=True))
            sound.append(item)
        except OperationError as error:
            refuse(waiter.number, error)
    return sound


def examine_forward(
    sender: NodeId,
    message: Forward,
    check_space: CheckSpace,
    check: Callable[[bytes], None] | None,
    admit: Callable[[Proposal], None],
) -> Examined:
    """Check the proposals that `sender` forwards: those that may enter the log, and the refusals.

    `check_space` raises DiskFull if the disk has no room for so many bytes; `check` is the state machine's; `admit`
    raises if the node takes no more for other reasons (`Intake`).
    """
    sound: list[tuple[int, int, bytes]] = []
    refusals: list[RefusedProposal] = []
    again: AskAgain | None = None
    for item in message.proposals:
        if again is not None:  # they keep their order
            refusals.append(refused(item.number, again))
            continue
        try:
            if item.kind == DATA:
                proposal = examine_proposal(item.data, sender, item.number)
                check_space(len(item.data), frees_space=item.frees_space)
                if check is not None and proposal.kind in (_COMMAND, _SESSION_COMMAND):
                    check(command_in(proposal) or b"")
                admit(proposal)
            elif item.kind != MEMBERSHIP:
                raise Dropped(f"the leader knows no proposals of kind {item.kind}")
        except Rejected as error:
            refusals.append(refused(item.number, error))
        except DiskFull as error:
            refusals.append(refused(item.number, DiskFull(f"the leader refused it: {error}")))
        except (BacklogFull, LimitReached, NoSpace) as error:  # their texts name this node
            refusals.append(refused(item.number, error))
        except AskAgain as error:
            again = error
            refusals.append(refused(item.number, error))
        except OperationError as error:
            refusals.append(refused(item.number, type(error)(f"the leader refused it: {error}")))
        else:
            sound.append((item.number, item.kind, item.data))
    return sound, refusals


def examine_proposal(payload: bytes, sender: NodeId, number: int, *, own: bool = False) -> Proposal:
    """Check the data of a normal entry, which `sender` proposed under `number`. Returns it decoded.

    `own`: the leader has proposed it. A restore is its own alone: it has loaded the snapshot once before, so that no
    state which can't be loaded stops all nodes.
    """
    if len(payload) > LARGEST_PROPOSAL_BYTES:
        raise TooLarge(f"a proposal of {len(payload)} bytes; a frame between nodes holds {LARGEST_PROPOSAL_BYTES}")
    try:
        proposal = decode_proposal(payload)
    except Unreadable as error:
        raise Dropped(str(error)) from error
    if proposal.origin != sender or proposal.number != number or not 0 < number <= LARGEST_NUMBER:
        raise Dropped("the proposal is not its sender's own")
    kind = proposal.kind
    if kind in (_COMMAND, _BARRIER):
        return proposal
    if kind == Kind.ANNOUNCE:
        _examine_announcement(proposal.data, sender)
    elif kind == Kind.LEVEL:
        _examine_level(proposal.data)
    elif kind in (_SESSION_COMMAND, Kind.SESSION):
        _examine_session(proposal)
    elif kind == Kind.RESTORE and own:
        _examine_restore(proposal.data)
    else:
        raise Dropped(f"the leader knows no proposals of kind {kind}")
    return proposal


def _examine_announcement(data: bytes, sender: NodeId) -> None:
    try:
        member = decode_member(data)
    except Unreadable as error:
        raise Dropped(str(error)) from error
    if member.id != sender:
        raise Dropped(f"node {sender:016x} announces another member: each node announces itself alone")
    if (wrong := _wrong_with(member)) is not None:
        raise Dropped(f"the announcement of node {sender:016x} is refused: {wrong}")


def _examine_level(data: bytes) -> None:
    """Check a change of the levels. Its effect is decided when it is applied, by the registry at that index."""
    try:
        decode_level(data)
    except Unreadable as error:
        raise Dropped(str(error)) from error


def _examine_restore(data: bytes) -> None:
    try:
        decode_restore(data)
    except Unreadable as error:
        raise Dropped(str(error)) from error


def _examine_session(proposal: Proposal) -> None:
    """Check a command of a session, or a change of sessions. A leader alone ends sessions for idleness, and without a
    proposal of another node.
    """
    try:
        if proposal.kind == _SESSION_COMMAND:
            decode_session_command(proposal.data)
        elif decode_session_change(proposal.data).term:
            raise Dropped("sessions are ended for idleness by the leader alone")
    except Unreadable as error:
        raise Dropped(str(error)) from error


def examine_change(payload: bytes, sender: NodeId, number: int) -> tuple[MembershipChange, ChangeContext]:
    """Check a change of the membership that `sender` proposed under `number`. Returns it and its context, decoded."""
    if len(payload) > LARGEST_CHANGE_BYTES:
        raise MembershipError(f"a change of {len(payload)} bytes; the limit is {LARGEST_CHANGE_BYTES}")
    try:
        change = _change_decoder.decode(payload)
        context = decode_context(change.context)
    except (*UNDECODABLE, Unreadable) as error:
        raise MembershipError(f"the change can't be read: {error}") from error
    if context is None or (context.origin, context.number) != (sender, number) or not 0 <= number <= LARGEST_NUMBER:
        raise MembershipError("the change is not its sender's own")
    if not 0 <= context.expected <= LARGEST_NUMBER:
        raise MembershipError(f"{context.expected} is not the index of a membership")
    if not 0 < len(change.changes) <= MAX_CHANGES:
        raise MembershipError(f"a change of {len(change.changes)} members; it may have 1 to {MAX_CHANGES}")
    if len({single.node_id for single in change.changes}) != len(change.changes):
        raise MembershipError("the change names one node twice")
    if change.transition is Transition.JOINT_EXPLICIT:
        raise MembershipError("a joint membership that is not left by itself: nothing would leave it")
    for single in change.changes:
        if not NONE < single.node_id <= LARGEST_ID:
            raise MembershipError(f"{single.node_id} is not the id of a node")
    kinds = {single.type for single in change.changes}
    if ChangeType.UPDATE_NODE in kinds and len(kinds) > 1:
        raise MembershipError("an update of an address comes alone: the change also adds, removes, promotes or demotes")
    _examine_members(change, context)
    return change, context


def _examine_members(change: MembershipChange, context: ChangeContext) -> None:
    """The context describes exactly the members that the change adds, promotes or demotes."""
    kept = sorted(single.node_id for single in change.changes if single.type is not ChangeType.REMOVE_NODE)
    if sorted(member.id for member in context.members) != kept:
        raise MembershipError("the change does not describe just the members that it brings in")
    for member in context.members:
        if (wrong := _wrong_with(member)) is not None:
            raise MembershipError(f"the change is refused: {wrong}")


def _wrong_with(member: MemberRecord) -> str | None:
    """The reason why no member may have this record; None if it is valid."""
    try:
        check_name(member.name)
        dialled_address(member.address)
        check_http(member.http)
    except ConfigError as error:
        return str(error)
    if not NONE < member.id <= LARGEST_ID:
        return f"{member.id} is not the id of a node"
    if not 0 <= member.directory <= LARGEST_ID:
        return f"{member.directory} is not the id of a data directory"
    if not 0 <= member.incarnation <= LARGEST_NUMBER:
        return f"{member.incarnation} is not the start of a node"
    return None
