"""Messages, entries, Ready and the rest as the traces write them.

The notation is etcd/raft's. `Notation` adds, for traces of our own, what theirs does not show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from syncline.consensus.membership import decode_change
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NONE,
    ChangeType,
    EntryType,
    HardState,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    NodeId,
    ReadState,
    Ready,
    SingleChange,
    Snapshot,
    SoftState,
    StateType,
)

__all__ = ["Notation", "changes_text", "parse_changes", "quote", "state_name"]

_CHANGE_LETTERS = {
    ChangeType.ADD_NODE: "v",
    ChangeType.ADD_LEARNER_NODE: "l",
    ChangeType.REMOVE_NODE: "r",
    ChangeType.UPDATE_NODE: "u",
}
_CHANGE_TYPES = {letter: change for change, letter in _CHANGE_LETTERS.items()}
_ENTRY_TYPES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
_SHORT_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def message_type_name(message_type: MessageType) -> str:
    """`APP_RESP` as `MsgAppResp`."""
    return "Msg" + "".join(word.capitalize() for word in message_type.name.split("_"))


def state_name(state: StateType) -> str:
    """`PRE_CANDIDATE` as `StatePreCandidate`."""
    return "State" + "".join(word.capitalize() for word in state.name.split("_"))


def quote(data: bytes) -> str:
    """Bytes as a double-quoted string with escapes, as Go's `%q` writes them."""
    parts = ['"']
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if character in _SHORT_ESCAPES:
            parts.append(_SHORT_ESCAPES[character])
        elif character in '"\\':
            parts.append("\\" + character)
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable():
            parts.append(character)
        elif code < 0x80:
            parts.append(f"\\x{code:02x}")
        else:
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(parts) + '"'


def changes_text(changes: Iterable[SingleChange]) -> str:
    """Changes as `v1 l2 r3 u4`: voter, learner, removed, updated."""
    return " ".join(f"{_CHANGE_LETTERS[change.type]}{change.node_id}" for change in changes)


def parse_changes(text: str) -> tuple[SingleChange, ...]:
    """The inverse of `changes_text`. Raises ValueError."""
    changes = []
    for token in text.split():
        if len(token) < 2:
            raise ValueError(f"unknown token {token}")
        if token[0] not in _CHANGE_TYPES:
            raise ValueError(f"unknown input: {token}")
        changes.append(SingleChange(_CHANGE_TYPES[token[0]], int(token[1:])))
    return tuple(changes)


def _target(node_id: NodeId) -> str:
    match node_id:
        case 0:
            return "None"
        case value if value == LOCAL_APPEND:
            return "AppendThread"
        case value if value == LOCAL_APPLY:
            return "ApplyThread"
        case _:
            return f"{node_id:x}"


def _list(ids: Iterable[NodeId]) -> str:
    return f"[{' '.join(map(str, ids))}]"


def hard_state_text(state: HardState) -> str:
    vote = f" Vote:{state.vote}" if state.vote != NONE else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def soft_state_text(state: SoftState) -> str:
    return f"Lead:{state.leader} State:{state_name(state.state)}"


def membership_text(state: MembershipState) -> str:
    return (
        f"Voters:{_list(state.voters)} VotersOutgoing:{_list(state.voters_outgoing)} Learners:{_list(state.learners)}"
        f" LearnersNext:{_list(state.learners_next)} AutoLeave:{str(state.auto_leave).lower()}"
    )


def snapshot_text(snapshot: Snapshot) -> str:
    meta = snapshot.meta
    return f"Index:{meta.index} Term:{meta.term} ConfState:{membership_text(meta.membership)}"


def read_states_text(states: Iterable[ReadState]) -> str:
    return f"[{' '.join(f'{{{state.index} {_list(state.context)}}}' for state in states)}]"


@dataclass(slots=True)
class Notation:
    """How much is shown. Without options exactly what etcd/raft's traces show."""

    sessions: bool = False
    """Replication sessions of messages (`Session:1`), where there is one."""

    contexts: bool = False
    """Contexts of messages (`Context:"..."`), where there is one."""

    def entry(self, entry: LogEntry) -> str:
        data = quote(entry.data) if entry.type is EntryType.NORMAL else changes_text(decode_change(entry).changes)
        return f"{entry.term}/{entry.index} {_ENTRY_TYPES[entry.type]} {data}".rstrip(" ")

    def entries(self, entries: Iterable[LogEntry]) -> str:
        """One line each."""
        return "".join(f"{self.entry(entry)}\n" for entry in entries)

    def message(self, message: Message, indent: str = "") -> str:
        """Without a line break at its end; further lines are indented."""
        way = f"{_target(message.sender)}->{_target(message.to)}"
        position = f"Log:{message.log_term}/{message.index}"
        parts = [f"{indent}{way} {message_type_name(message.type)} Term:{message.term} {position}"]
        if message.reject:
            parts.append(f" Rejected (Hint: {message.reject_hint})")
        if message.commit:
            parts.append(f" Commit:{message.commit}")
        if message.vote != NONE:
            parts.append(f" Vote:{message.vote}")
        if self.sessions and message.session:
            parts.append(f" Session:{message.session}")
        if self.contexts and message.context:
            parts.append(f" Context:{quote(message.context)}")
        if len(message.entries) == 1:
            parts.append(f" Entries:[{self.entry(message.entries[0])}]")
        elif message.entries:
            lines = [f"\n{indent}  {self.entry(entry)}" for entry in message.entries]
            parts.append(f" Entries:[{''.join(lines)}\n{indent}]")
        if message.snapshot is not None and message.snapshot.meta.index:
            parts.append(f"\n{indent}  Snapshot: {snapshot_text(message.snapshot)}")
        if message.responses:
            lines = [f"\n{self.message(response, indent + '  ')}" for response in message.responses]
            parts.append(f" Responses:[{''.join(lines)}\n{indent}]")
        return "".join(parts)

    def ready(self, ready: Ready) -> str:
        parts: list[str] = []
        if ready.soft_state is not None:
            parts.append(f"{soft_state_text(ready.soft_state)}\n")
        if ready.hard_state is not None:
            parts.append(f"HardState {hard_state_text(ready.hard_state)}\n")
        if ready.read_states:
            parts.append(f"ReadStates {read_states_text(ready.read_states)}\n")
        if ready.entries:
            parts.append(f"Entries:\n{self.entries(ready.entries)}")
        if ready.snapshot is not None and ready.snapshot.meta.index:
            parts.append(f"Snapshot {snapshot_text(ready.snapshot)}\n")
        if ready.committed_entries:
            parts.append(f"CommittedEntries:\n{self.entries(ready.committed_entries)}")
        if ready.messages:
            parts.append("Messages:\n" + "".join(f"{self.message(message)}\n" for message in ready.messages))
        if not parts:
            return "<empty Ready>"
        return f"Ready MustSync={str(ready.must_sync).lower()}:\n{''.join(parts)}"
