"""The commands of the interaction files.

etcd/raft's, with the same arguments and output:

    add-nodes <count> voters=(1,2) learners=(3) index=10 content=foo inflight=N async-storage-writes=B prevote=B
              checkquorum=B max-committed-size-per-ready=N disable-conf-change-validation=B step-down-on-removal=B
              read-only=safe|lease-based
    campaign <id>                              compact <id> <last-index-to-drop>
    deliver-msgs <id>... drop=(<id>,...) type=MsgApp
    process-ready <id>...                      process-append-thread <id>...       process-apply-thread <id>...
    stabilize [<id>...] log-level=none         log-level debug|info|warn|error|fatal|none
    raft-log <id>                              raft-state                          status <id>
    set-randomized-election-timeout <id> timeout=N
    tick-election <id>                         tick-heartbeat <id>                 tick <id> <count>
    transfer-leadership from=<id> to=<id>      forget-leader <id>                  report-unreachable <id> <id>
    send-snapshot <from> <to>                  propose <id> <data>
    propose-conf-change <id> v1=B transition=auto|implicit|explicit
    v1 l2 r3 u4

Ours, for what theirs has no words for:

    add-nodes ... term=3 log=(1,1,2)           start with a term, and with entries of these terms behind `index`
    add-nodes ... max-size-per-msg=N inflight-bytes=N max-uncommitted-size=N disable-proposal-forwarding=B
    read-index <id> <context>                  ask a node for a read index
    report-snapshot <id> <peer> ok=B           tell a node how a snapshot transfer ended
    duplicate-msgs <id>                        put a second copy of each message to a node behind the others
    hold-msgs from=<id>|AppendThread to=<id>   take the messages between two out of the queue: they are late
    hold-msgs ... copy=true                    hold a second copy of each, the first one stays: it will come twice
    release-msgs                               put what was held behind everything else in the queue
    restart <id>                               crash a node and start it from what its storage holds
    forge <type> from=1 to=2 term=3 index=4 log-term=5 commit=6 session=7 context=c entries=(5/4,5/5) reject=B hint=N
                                               put a message into the queue that no node has sent
    show sessions contexts                     show these fields of messages from here on, in this file
    dropped <id>                               what a node has refused, by reason

Behind a command its input may hold further ones, a line each; their outputs follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from syncline.consensus.config import RaftConfig, ReadOnlyOption
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    LOCAL_APPEND,
    NO_LIMIT,
    Compacted,
    EntryType,
    HardState,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    NodeId,
    ProposalDropped,
    Snapshot,
    SnapshotMeta,
    Transition,
)
from tests.conformance.datafile import Argument, Case, FormatError, parse_bool, parse_line
from tests.conformance.describe import message_type_name, parse_changes, state_name
from tests.conformance.environment import CommandError, Environment, Node

__all__ = ["Interaction"]

_ELECTION_TICKS = 3
_HEARTBEAT_TICKS = 1
_MANY = 2**31 - 1

_MESSAGE_TYPES = {message_type_name(kind): kind for kind in MessageType}
_TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}
_READ_ONLY = {"safe": ReadOnlyOption.SAFE, "lease-based": ReadOnlyOption.LEASE_BASED}


@dataclass(slots=True)
class Command:
    """One command line, taken apart."""

    name: str
    positional: list[str] = field(default_factory=list)
    """Arguments without values."""

    keyed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    arguments: Sequence[Argument] = ()
    """All of them, in order."""

    @classmethod
    def of(cls, name: str, arguments: Sequence[Argument]) -> Command:
        command = cls(name, arguments=arguments)
        for argument in arguments:
            if argument.values:
                command.keyed[argument.key] = argument.values
            else:
                command.positional.append(argument.key)
        return command

    def number(self, place: int = 0) -> int:
        """The positional argument at `place`. Raises FormatError where it is missing."""
        if place >= len(self.positional):
            raise FormatError(f"{self.name}: argument {place + 1} is missing")
        return int(self.positional[place])

    def ids(self) -> list[NodeId]:
        return [int(text) for text in self.positional]

    def text(self, key: str, default: str) -> str:
        return Argument(key, self.keyed[key]).value if key in self.keyed else default

    def count(self, key: str, default: int = 0) -> int:
        return int(self.text(key, str(default)))

    def truth(self, key: str) -> bool:
        return parse_bool(self.text(key, "false"))


class Interaction:
    """Runs the commands of an interaction file, one after the other on one cluster."""

    def __init__(self) -> None:
        self._env = Environment()
        self._held: list[Message] = []
        self._verbs: dict[str, Callable[[Command], None]] = {
            name.removeprefix("_do_").replace("_", "-"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    def run(self, case: Case) -> str:
        """The output of one command, with a line break at its end or without."""
        output = self._env.output
        error = ""
        try:
            command = Command.of(case.command, case.arguments)
            if case.command == "propose-conf-change":
                self._propose_conf_change(command, case.input)
            else:
                self._run_all(command, case.input)
        except CommandError as failed:
            error = str(failed)
        return output.take() + error or "ok"

    def _run_all(self, first: Command, further: str) -> None:
        self._run_one(first)
        for line in further.split("\n") if further else []:
            name, arguments = parse_line(line)
            self._run_one(Command.of(name, arguments))

    def _run_one(self, command: Command) -> None:
        verb = self._verbs.get(command.name)
        if verb is None:
            raise CommandError("unknown command")
        verb(command)

    def _node(self, command: Command, place: int = 0) -> Node:
        return self._env.node(command.number(place))

    # -- the cluster --------------------------------------------------------------------------------------------------

    def _do_add_nodes(self, command: Command) -> None:
        index = command.count("index")
        members = MembershipState(
            tuple(sorted(map(int, command.keyed.get("voters", ())))),
            tuple(sorted(map(int, command.keyed.get("learners", ())))),
        )
        snapshot = Snapshot(SnapshotMeta(index, 0, members), command.text("content", "").encode())
        if command.text("read-only", "safe") not in _READ_ONLY:
            raise CommandError(f'invalid read-only option "{command.text("read-only", "")}"')
        try:
            template = RaftConfig(
                id=1,
                storage=MemoryStorage(),
                election_ticks=_ELECTION_TICKS,
                heartbeat_ticks=_HEARTBEAT_TICKS,
                applied=index,
                async_storage_writes=command.truth("async-storage-writes"),
                max_message_bytes=command.count("max-size-per-msg", NO_LIMIT),
                max_committed_bytes_per_ready=command.count("max-committed-size-per-ready"),
                max_uncommitted_bytes=command.count("max-uncommitted-size"),
                max_inflight_messages=command.count("inflight", _MANY),
                max_inflight_bytes=command.count("inflight-bytes"),
                check_quorum=command.truth("checkquorum"),
                pre_vote=command.truth("prevote"),
                pre_vote_alone=True,
                read_only=_READ_ONLY[command.text("read-only", "safe")],
                disable_proposal_forwarding=command.truth("disable-proposal-forwarding"),
                disable_membership_validation=command.truth("disable-conf-change-validation"),
                step_down_on_removal=command.truth("step-down-on-removal"),
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        terms = [int(text) for text in command.keyed.get("log", ())]
        entries = [
            LogEntry(term, at, EntryType.NORMAL, f"{term}/{at}".encode()) for at, term in enumerate(terms, index + 1)
        ]
        hard_state = HardState(command.count("term"), 0, index) if "term" in command.keyed else None
        self._env.add_nodes(command.number(), template, snapshot, entries, hard_state)

    def _do_restart(self, command: Command) -> None:
        self._env.restart(self._node(command))

    def _do_compact(self, command: Command) -> None:
        node = self._node(command)
        try:
            node.storage.compact(command.number(1))
        except Compacted:
            raise CommandError("requested index is unavailable due to compaction") from None
        self._show_log(node)

    # -- events -------------------------------------------------------------------------------------------------------

    def _do_campaign(self, command: Command) -> None:
        self._node(command).raw.campaign()

    def _do_tick_election(self, command: Command) -> None:
        self._tick(self._node(command), _ELECTION_TICKS)

    def _do_tick_heartbeat(self, command: Command) -> None:
        self._tick(self._node(command), _HEARTBEAT_TICKS)

    def _do_tick(self, command: Command) -> None:
        self._tick(self._node(command), command.number(1))

    def _tick(self, node: Node, count: int) -> None:
        for _ in range(count):
            node.raw.tick()

    def _do_set_randomized_election_timeout(self, command: Command) -> None:
        self._node(command).raw.raft.randomized_election_timeout = command.count("timeout")

    def _do_propose(self, command: Command) -> None:
        if len(command.positional) != 2:
            raise FormatError(f"propose: a node and its data expected, not {command.positional}")
        try:
            self._node(command).raw.propose(command.positional[1].encode())
        except ProposalDropped as error:
            raise CommandError(str(error)) from error

    def _propose_conf_change(self, command: Command, text: str) -> None:
        node = self._node(command)
        if strangers := command.keyed.keys() - {"v1", "transition"}:
            raise CommandError(f"unknown command {min(strangers)}")
        name = command.text("transition", "auto")
        if name not in _TRANSITIONS:
            raise CommandError(f"unknown transition {name}")
        try:
            changes = parse_changes(text)
        except ValueError as error:
            raise CommandError(str(error)) from error
        v1, transition = command.truth("v1"), _TRANSITIONS[name]
        if v1 and (len(changes) > 1 or transition is not Transition.AUTO):
            raise CommandError("v1 conf change can only have one operation and no transition")
        try:
            node.raw.propose_membership(MembershipChange(transition, changes), v1=v1)
        except ProposalDropped as error:
            raise CommandError(str(error)) from error

    def _do_read_index(self, command: Command) -> None:
        if not self._node(command).raw.read_index(command.positional[1].encode()):
            raise CommandError("read refused")

    def _do_transfer_leadership(self, command: Command) -> None:
        node, to = self._env.node(command.count("from")), self._env.node(command.count("to"))
        node.raw.transfer_leadership(to.id)

    def _do_forget_leader(self, command: Command) -> None:
        self._node(command).raw.forget_leader()

    def _do_report_unreachable(self, command: Command) -> None:
        if len(command.positional) != 2:
            raise CommandError("must specify exactly two node indexes: node on which to report, and reported node")
        self._node(command).raw.report_unreachable(self._node(command, 1).id)

    def _do_report_snapshot(self, command: Command) -> None:
        self._node(command).raw.report_snapshot(self._node(command, 1).id, command.truth("ok"))

    # -- work and messages --------------------------------------------------------------------------------------------

    def _do_process_ready(self, command: Command) -> None:
        self._for_each(command, "handling Ready", self._env.process_ready)

    def _do_process_append_thread(self, command: Command) -> None:
        self._for_each(command, "processing append thread", self._env.process_append)

    def _do_process_apply_thread(self, command: Command) -> None:
        self._for_each(command, "processing apply thread", self._env.process_apply)

    def _for_each(self, command: Command, title: str, work: Callable[[Node], None]) -> None:
        """Headed and indented where there are several nodes."""
        nodes = [self._env.node(node_id) for node_id in command.ids()]
        for node in nodes:
            if len(nodes) == 1:
                work(node)
                continue
            self._env.output.write(f"> {node.id} {title}\n")
            with self._env.output.indented():
                work(node)

    def _do_stabilize(self, command: Command) -> None:
        output = self._env.output
        level = output.level
        try:
            if "log-level" in command.keyed:
                self._set_level(command.text("log-level", ""))
            self._env.stabilize(self._env.chosen(command.ids()))
        finally:
            output.level = level

    def _do_deliver_msgs(self, command: Command) -> None:
        recipients: list[tuple[NodeId, bool]] = []
        for argument in command.arguments:
            if argument.key == "drop":
                recipients += [(int(text), True) for text in argument.values]
            elif not argument.values:
                recipients.append((int(argument.key), False))
        if len(dict(recipients)) != len(set(recipients)):
            raise FormatError("can't both deliver and drop messages to the same node")
        kind = _message_type(command.text("type", "")) if "type" in command.keyed else None
        count = sum(self._env.deliver(node_id, drop=drop, kind=kind) for node_id, drop in recipients)
        if not count:
            self._env.output.write("no messages\n")

    def _do_duplicate_msgs(self, command: Command) -> None:
        to = command.number()
        self._env.messages += [msgspec.structs.replace(one) for one in self._env.messages if one.to == to]

    def _do_hold_msgs(self, command: Command) -> None:
        env, to = self._env, command.count("to")
        name = command.text("from", "")
        sender = LOCAL_APPEND if name == "AppendThread" else int(name)
        late = [message for message in env.messages if (message.sender, message.to) == (sender, to)]
        if command.truth("copy"):
            late = [msgspec.structs.replace(message) for message in late]
        else:
            env.messages = [message for message in env.messages if (message.sender, message.to) != (sender, to)]
        self._held += late
        for message in late:
            env.output.write(f"held: {env.notation.message(message)}\n")

    def _do_release_msgs(self, _: Command) -> None:
        self._env.messages += self._held
        self._held = []

    def _do_send_snapshot(self, command: Command) -> None:
        node, to = self._node(command), self._node(command, 1)
        message = Message(
            MessageType.SNAP, sender=node.id, to=to.id, term=node.raw.term, snapshot=node.storage.snapshot()
        )
        self._env.messages.append(message)
        self._env.output.write(self._env.notation.message(message))

    def _do_forge(self, command: Command) -> None:
        entries = []
        for text in command.keyed.get("entries", ()):
            term, _, index = text.partition("/")
            entries.append(LogEntry(int(term), int(index), EntryType.NORMAL, b"forged"))
        message = Message(
            _message_type(command.positional[0]),
            sender=command.count("from"),
            to=command.count("to"),
            term=command.count("term"),
            index=command.count("index"),
            log_term=command.count("log-term"),
            commit=command.count("commit"),
            session=command.count("session"),
            context=command.text("context", "").encode(),
            entries=entries,
            reject=command.truth("reject"),
            reject_hint=command.count("hint"),
        )
        self._env.messages.append(message)

    # -- views --------------------------------------------------------------------------------------------------------

    def _do_log_level(self, command: Command) -> None:
        self._set_level(command.positional[0])

    def _set_level(self, name: str) -> None:
        try:
            self._env.output.set_level(name)
        except ValueError as error:
            raise CommandError(str(error)) from error

    def _do_raft_log(self, command: Command) -> None:
        self._show_log(self._node(command))

    def _show_log(self, node: Node) -> None:
        first, last = node.storage.first_index(), node.storage.last_index()
        if last < first:
            self._env.output.write(f"log is empty: first index={first}, last index={last}")
            return
        self._env.output.write(self._env.notation.entries(node.storage.entries(first, last + 1, NO_LIMIT)))

    def _do_raft_state(self, _: Command) -> None:
        for node in self._env.nodes:
            status = node.raw.status()
            voter = "Voter" if node.id in status.configuration.voters.voters else "Non-Voter"
            self._env.output.write(
                f"{node.id}: {state_name(status.state)} ({voter}) Term:{status.term} Lead:{status.leader}\n"
            )

    def _do_status(self, command: Command) -> None:
        for node_id, progress in sorted(self._node(command).raw.status().progress.items()):
            self._env.output.write(f"{node_id}: {progress}\n")

    def _do_dropped(self, command: Command) -> None:
        for reason, count in sorted(self._node(command).raw.raft.dropped.items()):
            self._env.output.write(f"{reason}: {count}\n")

    def _do_show(self, command: Command) -> None:
        for name in command.positional:
            if name not in ("sessions", "contexts"):
                raise FormatError(f"show: no such field: {name}")
            setattr(self._env.notation, name, True)


def _message_type(name: str) -> MessageType:
    if name not in _MESSAGE_TYPES:
        raise FormatError(f"unknown message type {name}")
    return _MESSAGE_TYPES[name]
