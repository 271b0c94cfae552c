"""Refuse peers whose data directory was restored from an older copy, or copied. `node.starts.incarnations` has the
rule.

A node's knowledge about the starts of others is in memory, in the file `peers`, and in the member registry. A worker
thread writes the file before a start is welcomed, and only if something has changed. Members tell each other which
starts they have admitted (`reports`), so that copies that different members have admitted are found.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from syncline.consensus.types import NONE, NodeId
from syncline.errors import Closed, CorruptionError
from syncline.node.calls import Calls
from syncline.node.envelope import MemberRecord
from syncline.node.member_registry import MemberRegistry, format_id
from syncline.node.starts.incarnations import MAX_HISTORY, Origin, are_forked, judge, start_count
from syncline.node.starts.reports import StartReports, Starts
from syncline.platform.disk import Disk
from syncline.storage.datadir import Identity
from syncline.storage.peer_starts import MAX_DIRECTORIES, encode_starts, read_starts, write_starts
from syncline.transport.handshake import Hello, Welcome
from syncline.transport.messages import Notice, NoticeKind, Refusal, RefusalCode

__all__ = ["StartGuard", "convicted_by", "load_starts", "older_copy_text"]

log: logging.Logger = logging.getLogger("syncline.node")

MAX_EARLY = 64
"""Notices that are kept until it is known what they are about, the oldest dropped: a few for each of the members."""

MAX_UNKNOWN = 64
"""Directories in memory and file before those of nodes that are not known as members are not noted any more: each note
is a write to the disk. While its log is applied at a start, a node does not know the members yet."""


class StartGuard:
    """The starts of other nodes that one node knows. Everything is called on the event loop."""

    def __init__(
        self,
        starts: dict[int, int],
        book: MemberRegistry,
        writer: Calls,
        disk: Disk,
        path: str,
        *,
        reports: StartReports,
        known_directory: Callable[[NodeId], int],
        leave: Callable[[NodeId, int], None],
        tell: Callable[[NodeId, Notice], None],
    ) -> None:
        """`leave(peer, incarnation)` ends the connections with all other starts of `peer`; 0: with each of them.

        `known_directory` returns the id of a member's data directory, 0 if it is not known: an initial member's is
        known before the registry has it. `tell` sends a notice to a member.
        """
        self._starts = starts
        self._book = book
        self._writer = writer
        self._disk = disk
        self._path = path
        self._reports = reports
        self._known_directory = known_directory
        self._leave = leave
        self._tell = tell
        self._let_in: dict[int, Starts] = {}
        """By directory: the newest start that was admitted since this node was started, and those before it."""
        self._copied: dict[int, None] = {}
        """Directories of which different members have admitted different copies: no copy is admitted any more."""
        self._loop = asyncio.get_running_loop()
        self._directories: dict[NodeId, int] = {}
        """Data directories of the members, as known at the last check."""
        self._early: dict[tuple[NodeId, int], Notice] = {}
        """By sender and directory: what came before the sender, or the directory's node, was known as a member."""
        self._unwritten = False
        self._writing: asyncio.Future[None] | None = None

    def refuse(self, hello: Hello) -> Refusal | None:
        """The reason to refuse a dialler by its starts; None if it may connect."""
        if hello.directory in self._copied:
            text = (
                f"node {_named(hello)} is refused: its data directory was copied, and different members have let in"
                " different copies"
            )
            return Refusal(text, RefusalCode.OLDER_START)
        known = self._known(hello.sender, hello.directory)
        if judge(known, hello.incarnation, hello.history) is Origin.LEGITIMATE:
            return None
        text = (
            f"node {_named(hello)} is refused: its data directory was put back to an older copy, or copied; a start"
            " that is not in its history is known here"
        )
        return Refusal(text, RefusalCode.OLDER_START)

    def registered(self, member: MemberRecord) -> None:
        """The registry has a new start of a member. If this node has admitted a copy, neither is admitted any more."""
        directory, noted = member.directory, self._starts.get(member.directory, member.incarnation)
        if are_forked(noted, member.incarnation):
            self._reports.told(directory, NONE, (member.incarnation,))  # the registry is no member that has let it in
            known = self._let_in.get(directory, (noted,))
            self._take(member, directory, self._reports.decide(member.id, directory, known))

    def has_copies(self) -> bool:
        """Whether different members have admitted different copies of one data directory."""
        return bool(self._copied)

    def link_up(self, peer: NodeId) -> None:
        """Send a member the starts of the others that were admitted here."""
        if peer in self._book.members:
            for directory, starts in self._let_in.items():
                self._tell(peer, _notice(directory, starts))

    def look(self) -> None:
        """Called at intervals: catch up if more members are known. A node that applies its log knows none of them
        yet.

        Starts that were admitted here before are then sent to them, and their earlier notices are handled.
        """
        directories = {member: self._known_directory(member) for member in self._book.members}
        if directories == self._directories:
            return
        self._directories = directories
        for member in directories:
            self.link_up(member)
        early, self._early = self._early, {}
        for (sender, _), notice in early.items():
            self.on_notice(sender, notice)

    def on_notice(self, sender: NodeId, notice: Notice) -> None:
        """A member has let in a start of another one."""
        members = self._book.members
        if notice.kind != NoticeKind.START or not notice.starts:
            return
        owners = self._owners()
        member = members.get(owners.get(notice.directory, NONE))
        if member is None or sender not in members:
            self._early.pop((sender, notice.directory), None)
            self._early[sender, notice.directory] = notice
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
            return
        known = self._let_in.get(notice.directory) or (self._starts.get(notice.directory, 0),)
        if member.id == sender or not known[0]:
            return
        self._reports.forget_all_but(set(owners), set(members))
        self._reports.told(notice.directory, sender, notice.starts)
        if len(known) > 1 or start_count(known[0]) <= start_count(notice.starts[0]):  # else its history is needed
            self._take(member, notice.directory, self._reports.decide(member.id, notice.directory, known))

    def _owners(self) -> dict[int, NodeId]:
        """The members by their data directories, as far as these are known."""
        known = {self._known_directory(member): member for member in self._book.members}
        known.pop(0, None)
        return known

    def _take(self, member: MemberRecord, directory: int, starts: Starts | None) -> None:
        """Decide by the members' common knowledge about the starts of a member; None: they know different copies."""
        shown = format_id(member.id)
        if starts is None:
            if directory not in self._copied:
                self._copied[directory] = None
                log.error(
                    "node %s (%s) runs twice: its data directory was copied, and different members have let in"
                    " different copies. No copy is let in any more: have the cluster replace the node"
                    " (`syncline repair --replace`)",
                    *(member.name, shown),
                )
                self._leave(member.id, 0)
            return
        self._copied.pop(directory, None)
        if self._starts.get(directory) != starts[0]:
            log.error(
                "two processes have run as node %s (%s): its data directory was copied; start %016x stays, because a"
                " quorum of the members has let it in",
                *(member.name, shown, starts[0]),
            )
            self._starts[directory], self._let_in[directory] = starts[0], starts
            self._write()
            self._leave(member.id, starts[0])

    def why_not_dial(self, welcome: Welcome) -> str | None:
        """The reason to leave a peer that has answered a dial, or None. Its start is recorded then."""
        known = self._known(welcome.sender, welcome.directory)
        if (
            welcome.directory in self._copied
            or judge(known, welcome.incarnation, welcome.history) is not Origin.LEGITIMATE
        ):
            return (
                f"node {welcome.name} ({format_id(welcome.sender)}) answered from a data directory that was put back to"
                " an older copy, or copied"
            )
        self._note(welcome.sender, welcome.directory, (welcome.incarnation, *welcome.history))
        return None

    def before_welcome(self, hello: Hello) -> asyncio.Future[None] | None:
        """Record the start of a dialler that will be welcomed; done when that is durable."""
        return self._note(hello.sender, hello.directory, (hello.incarnation, *hello.history))

    def _known(self, peer: NodeId, directory: int) -> int:
        """The newest incarnation that is known of a data directory; 0: none."""
        member, noted = self._book.members.get(peer), self._starts.get(directory, 0)
        replicated = member.incarnation if member is not None and member.directory == directory else 0
        return replicated if are_forked(replicated, noted) else max(replicated, noted)

    def _note(self, peer: NodeId, directory: int, starts: Starts) -> asyncio.Future[None] | None:
        incarnation = starts[0]
        if not directory:
            return None
        if incarnation > self._starts.get(directory, 0) and self._has_room(peer, directory):
            self._starts.pop(directory, None)  # to the end: the last one to be dropped
            self._starts[directory] = incarnation
            self._unwritten = True
        kept = peer in self._book.members or directory in self._starts  # it may turn out to be a member
        if kept and self._let_in.get(directory) != starts:
            self._let_in.pop(directory, None)
            self._let_in[directory] = starts
            if len(self._let_in) > MAX_DIRECTORIES:
                del self._let_in[next(iter(self._let_in))]
            for member in self._book.members:
                self._tell(member, _notice(directory, starts))
        if self._unwritten:
            self._write()
        return self._writing

    def _has_room(self, peer: NodeId, directory: int) -> bool:
        if directory in self._starts:
            return True
        if peer not in self._book.members:
            return len(self._starts) < MAX_UNKNOWN
        if len(self._starts) == MAX_DIRECTORIES:
            needed = self._owners()
            oldest = next((known for known in self._starts if known not in needed), next(iter(self._starts)))
            del self._starts[oldest]
        return True

    def _write(self) -> None:
        self._unwritten = False
        content = encode_starts(self._starts)
        written: asyncio.Future[None] = self._loop.create_future()
        call = self._writer.start(lambda: write_starts(self._disk, self._path, content))
        call.add_done_callback(lambda done: self._written(done, written))
        self._writing = written

    def _written(self, call: asyncio.Future[None], written: asyncio.Future[None]) -> None:
        """Handle the result of a write. A failed write does not refuse a peer: the member registry then has the only
        record.
        """
        error = None if call.cancelled() else call.exception()
        if error is not None and not isinstance(error, Closed):
            self._unwritten = True
            log.warning("the starts of the peers could not be written to %s: %s", self._path, error)
        if self._writing is written:
            self._writing = None
        if not written.done():
            written.set_result(None)


def load_starts(disk: Disk, path: str) -> dict[int, int]:
    """The starts of peers that the data directory `path` knows; a damaged file is reported, and counts as empty."""
    try:
        return read_starts(disk, path)
    except CorruptionError as error:
        log.warning("%s. It is begun again; the member registry tells most of what it held.", error)
        return {}


def convicted_by(registered: int, identity: Identity) -> bool:
    """Whether the registry has a start of this node that its own directory does not know of."""
    newest, *earlier = identity.incarnations or (0,)
    return newest != 0 and judge(registered, newest, tuple(earlier)) is not Origin.LEGITIMATE


def older_copy_text(name: str, node_id: NodeId, path: str) -> str:
    """The reason why a node must not run on its data directory, and the next step."""
    return (
        f"node {name} ({format_id(node_id)}): the data directory {path} was put back to an older copy, or it was copied"
        " and another process uses the other copy. The members of the cluster know of a start that is not in its"
        " history. What the node promised since is lost here, so it must not run on this directory. Put back the"
        " directory as the node left it, if there is one; or have the cluster replace the node:"
        f" `syncline repair --replace --data-dir {path}`."
    )


def _notice(directory: int, starts: Starts) -> Notice:
    """The notice about a start, with no more history than a directory keeps: a peer may greet with more."""
    return Notice(NoticeKind.START, directory=directory, starts=starts[:MAX_HISTORY])


def _named(hello: Hello) -> str:
    name = "".join(character for character in hello.name[:64] if character.isprintable())
    return f"{name} ({format_id(hello.sender)})"
