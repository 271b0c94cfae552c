"""What a node records of the starts of others, and whom it refuses for it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.types import MembershipState, NodeId
from syncline.errors import CorruptionError
from syncline.node.calls import Calls
from syncline.node.envelope import MemberRecord
from syncline.node.member_registry import MemberRegistry
from syncline.node.starts.guard import MAX_EARLY, MAX_UNKNOWN, StartGuard, load_starts
from syncline.node.starts.incarnations import MAX_HISTORY, RANDOM_BITS
from syncline.node.starts.reports import StartReports
from syncline.platform.disk import Disk, OsDisk
from syncline.platform.worker import ThreadWorkers
from syncline.storage.peer_starts import MAX_DIRECTORIES, PEERS_NAME, encode_starts, read_starts, write_starts
from syncline.transport.handshake import Hello, Purpose, Welcome
from syncline.transport.messages import Notice, NoticeKind, RefusalCode

OWN = 1
PEER = 7
VOTERS = (OWN, 2, PEER)
DIRECTORY = 70


def start(count: int, random_bits: int) -> int:
    return count << RANDOM_BITS | random_bits


def hello(incarnation: int, *history: int, peer: NodeId = PEER, directory: int = DIRECTORY) -> Hello:
    return Hello(
        oldest_version=2,
        newest_version=2,
        cluster_id=1,
        sender=peer,
        to=1,
        purpose=Purpose.MESSAGES,
        incarnation=incarnation,
        directory=directory,
        name="peer",
        history=history,
    )


def welcome(incarnation: int, *history: int) -> Welcome:
    return Welcome(2, 1, PEER, incarnation=incarnation, directory=DIRECTORY, name="peer", history=history)


class BrokenDisk(OsDisk):
    """A disk on which no file can be renamed, until it is mended."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = True

    def rename(self, source: str, target: str) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        super().rename(source, target)


class Bench:
    def __init__(self, path: Path, disk: Disk) -> None:
        self.path, self.disk = str(path), disk
        self.book = MemberRegistry()
        self.left: list[tuple[int, int]] = []
        self.membership = MembershipState(voters=VOTERS)
        self.founders: dict[NodeId, int] = {}
        """Directories that the registry does not have yet."""
        self.failures: list[BaseException] = []
        self.writer = Calls("test", ThreadWorkers(), self.failures.append)
        self.guard = self.again()

    def again(self) -> StartGuard:
        """The guard of the next start of the same node."""
        starts = load_starts(self.disk, self.path)
        self.told: list[tuple[int, Notice]] = []
        self.guard = StartGuard(
            starts,
            self.book,
            self.writer,
            self.disk,
            self.path,
            reports=StartReports(OWN, lambda: self.membership),
            known_directory=self.known_directory,
            leave=lambda *start: self.left.append(start),
            tell=lambda *told: self.told.append(told),
        )
        return self.guard

    def known_directory(self, peer: NodeId) -> int:
        member = self.book.members.get(peer)
        return (member.directory if member is not None else 0) or self.founders.get(peer, 0)

    async def welcomed(self, greeting: Hello) -> None:
        """The peer is let in."""
        assert self.guard.refuse(greeting) is None
        noted = self.guard.before_welcome(greeting)
        if noted is not None:
            await noted

    def code(self, greeting: Hello) -> str | None:
        refusal = self.guard.refuse(greeting)
        return None if refusal is None else refusal.code


@asynccontextmanager
async def bench(path: Path, disk: Disk | None = None) -> AsyncIterator[Bench]:
    made = Bench(path, disk or OsDisk())
    try:
        yield made
    finally:
        await made.writer.close()
        assert made.failures == []


async def test_start_is_durable_before_the_welcome(tmp_path: Path) -> None:
    """The file has it when `before_welcome` is done; a start that is known already needs no write."""
    async with bench(tmp_path) as node:
        await node.welcomed(hello(start(1, 5)))
        assert read_starts(node.disk, node.path) == {DIRECTORY: start(1, 5)}
        assert node.guard.before_welcome(hello(start(1, 5))) is None
        first = node.guard.before_welcome(hello(start(2, 6), start(1, 5)))
        second = node.guard.before_welcome(hello(start(2, 6), start(1, 5)))
        assert first is not None
        assert first is second, "a second connection waits for the same write"
        await first
        assert read_starts(node.disk, node.path) == {DIRECTORY: start(2, 6)}


async def test_older_copy_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    """Also after more starts from the copy: its history lacks the start that is known."""
    async with bench(tmp_path) as node:
        await node.welcomed(hello(start(1, 5)))
        await node.welcomed(hello(start(2, 6), start(1, 5)))
        node.again()
        assert node.code(hello(start(1, 5))) == RefusalCode.OLDER_START
        assert node.code(hello(start(2, 9), start(1, 5))) == RefusalCode.OLDER_START
        assert node.code(hello(start(4, 9), start(3, 9), start(2, 9), start(1, 5))) == RefusalCode.OLDER_START
        assert node.guard.why_not_dial(welcome(start(2, 9), start(1, 5))) is not None
        await node.welcomed(hello(start(3, 7), start(2, 6), start(1, 5)))


async def test_registry_tells_what_a_lost_file_does_not(tmp_path: Path) -> None:
    """A damaged file is begun again, and the replicated incarnation still convicts the older copy."""
    async with bench(tmp_path) as node:
        await node.welcomed(hello(start(2, 6), start(1, 5)))
        (tmp_path / PEERS_NAME).write_bytes(b"{}")
        node.again()
        assert node.code(hello(start(2, 9), start(1, 5))) is None
        record = MemberRecord(PEER, "peer", "h:1", directory=DIRECTORY, incarnation=start(2, 6))
        node.book.changed(1, MembershipState(voters=(PEER,)), (record,))
        assert node.code(hello(start(2, 9), start(1, 5))) == RefusalCode.OLDER_START
        await node.welcomed(hello(start(3, 9), start(2, 6)))


async def test_fork_of_a_known_start_is_never_taken(tmp_path: Path) -> None:
    """Whatever its random bits are: this member may hold promises of the start that it knows."""
    for number, (first, second) in enumerate(((6, 9), (9, 6))):
        (tmp_path / str(number)).mkdir()
        async with bench(tmp_path / str(number)) as node:
            await node.welcomed(hello(start(2, first), start(1, 5)))
            assert node.code(hello(start(2, second), start(1, 5))) == RefusalCode.OLDER_START
            assert node.guard.why_not_dial(welcome(start(2, second), start(1, 5))) is not None


async def test_fork_of_a_start_in_the_registry_stops_both_copies(tmp_path: Path) -> None:
    """Two members have let in different copies. Each copy may have made promises, so neither is let in any more."""
    async with bench(tmp_path) as node:
        mine, other = hello(start(2, 9), start(1, 5)), hello(start(2, 6), start(1, 5))
        await node.welcomed(mine)
        record = MemberRecord(PEER, "peer", "h:1", directory=DIRECTORY, incarnation=start(1, 5))
        node.guard.registered(record)
        assert node.left == [], "an earlier start in the registry says nothing against a later one"
        record = MemberRecord(PEER, "peer", "h:1", directory=DIRECTORY, incarnation=start(2, 6))
        node.book.changed(1, MembershipState(voters=(PEER,)), (record,))
        node.guard.registered(record)
        assert node.left == [(PEER, 0)], "each connection with it is ended"
        assert node.code(mine) == RefusalCode.OLDER_START
        assert node.code(other) == RefusalCode.OLDER_START
        assert node.guard.why_not_dial(welcome(start(2, 9), start(1, 5))) is not None
        node.guard.registered(record)
        assert len(node.left) == 1, "it is said once"


def with_members(node: Bench, *more: NodeId, directory: int = DIRECTORY) -> None:
    """Voters: this node, the peer with this directory in the registry, and others."""
    node.membership = MembershipState(voters=(*VOTERS, *more))
    ids = (OWN, 2, *more)
    records = [MemberRecord(number, f"node{number}", f"h:{number}", directory=1000 + number) for number in ids]
    node.book.changed(1, node.membership, (*records, MemberRecord(PEER, "peer", "h:7", directory=directory)))


def told(*starts: int, directory: int = DIRECTORY) -> Notice:
    return Notice(NoticeKind.START, directory=directory, starts=starts)


async def test_start_of_a_member_is_told_to_the_others(tmp_path: Path) -> None:
    """At once, and to each member whose link comes up; not to nodes that are no members."""
    async with bench(tmp_path) as node:
        with_members(node)
        await node.welcomed(hello(start(2, 6), start(1, 5)))
        assert (2, told(start(2, 6), start(1, 5))) in node.told
        del node.told[:]
        await node.welcomed(hello(start(2, 6), start(1, 5)))
        assert node.told == [], "nothing is new"
        node.guard.link_up(2)
        assert node.told == [(2, told(start(2, 6), start(1, 5)))]
        node.guard.link_up(99)
        assert len(node.told) == 1


async def test_start_let_in_before_the_members_are_known_is_told_then(tmp_path: Path) -> None:
    """A node that applies its log at a start lets in peers of which it does not know yet that they are members."""
    async with bench(tmp_path) as node:
        await node.welcomed(hello(start(2, 6), start(1, 5)))
        node.guard.look()
        assert node.told == []
        with_members(node)
        node.guard.look()
        assert (2, told(start(2, 6), start(1, 5))) in node.told
        del node.told[:]
        node.guard.look()
        assert node.told == [], "nothing is new"


async def test_notice_before_the_members_are_known_is_taken_later(tmp_path: Path) -> None:
    """A node that applies its log at a start is told once. Notices of many strangers are not kept."""
    async with bench(tmp_path) as node:
        mine = hello(start(2, 6), start(1, 5))
        await node.welcomed(mine)
        for directory in range(1, 2 * MAX_EARLY):
            node.guard.on_notice(99, told(start(2, 9), directory=directory))
        node.guard.on_notice(2, told(start(2, 9), start(1, 5)))
        assert len(node.guard._early) == MAX_EARLY
        assert node.left == []
        with_members(node)
        node.guard.look()
        assert node.left == [(PEER, 0)]
        assert node.code(mine) == RefusalCode.OLDER_START


async def test_notice_of_a_long_history_can_be_read(tmp_path: Path) -> None:
    """A greeting may hold more than a directory keeps: the other members must not refuse the notice of it."""
    async with bench(tmp_path) as node:
        with_members(node)
        history = tuple(start(count, 7) for count in range(99, 0, -1))
        await node.welcomed(hello(start(100, 7), *history))
        notice = next(notice for peer, notice in node.told if peer == 2)
        assert notice.starts == (start(100, 7), *history)[:MAX_HISTORY]
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(notice), type=Notice) == notice


async def test_copies_that_two_members_have_let_in_are_both_refused(tmp_path: Path) -> None:
    """A member that knows one copy hears of the other from a member. More starts of the copy do not hide it."""
    for number, other in enumerate(((start(2, 9), start(1, 5)), (start(3, 9), start(2, 9), start(1, 5)))):
        (tmp_path / str(number)).mkdir()
        async with bench(tmp_path / str(number)) as node:
            with_members(node)
            mine = hello(start(2, 6), start(1, 5))
            await node.welcomed(mine)
            node.guard.on_notice(2, told(*other))
            assert node.left == [(PEER, 0)]
            assert node.code(mine) == RefusalCode.OLDER_START
            assert node.code(hello(*other)) == RefusalCode.OLDER_START


async def test_copies_of_a_founder_that_is_not_registered_are_refused(tmp_path: Path) -> None:
    """A founder may be copied before the first leader has its directory in the registry. The founders know it."""
    async with bench(tmp_path) as node:
        with_members(node, directory=0)
        mine, other = hello(start(2, 6), start(1, 5)), (start(2, 9), start(1, 5))
        await node.welcomed(mine)
        node.guard.on_notice(2, told(*other))
        assert node.left == [], "nothing says whose directory that is"
        node.founders = {PEER: DIRECTORY}
        node.guard.look()
        assert node.left == [(PEER, 0)]
        assert node.code(mine) == RefusalCode.OLDER_START
        assert node.code(hello(*other)) == RefusalCode.OLDER_START


async def test_start_that_a_quorum_of_the_others_knows_stays(tmp_path: Path) -> None:
    """With five voters three of the other four know it. So no copy was ever counted, whichever member let one in."""
    async with bench(tmp_path) as node:
        with_members(node, 3, 4)
        copy, sound = hello(start(2, 6), start(1, 5)), (start(2, 9), start(1, 5))
        await node.welcomed(copy)
        for member in (2, 3):
            node.guard.on_notice(member, told(*sound))
            assert node.code(copy) == RefusalCode.OLDER_START
            assert node.code(hello(*sound)) == RefusalCode.OLDER_START, "two of four are no quorum"
        node.guard.on_notice(4, told(*sound))
        assert node.left[-1] == (PEER, start(2, 9))
        await node.welcomed(hello(*sound))
        assert node.code(copy) == RefusalCode.OLDER_START
        node.again()
        assert node.code(copy) == RefusalCode.OLDER_START, "it is durable"
        await node.welcomed(hello(*sound))


async def test_own_start_that_a_quorum_knows_outlives_the_word_of_a_copy(tmp_path: Path) -> None:
    """One member was away and has let in a copy first: the node that runs goes on."""
    async with bench(tmp_path) as node:
        with_members(node, 3, 4)
        sound, copy = (start(2, 9), start(1, 5)), (start(2, 6), start(1, 5))
        await node.welcomed(hello(*sound))
        node.guard.on_notice(2, told(*sound))
        node.guard.on_notice(3, told(*sound))
        node.guard.on_notice(4, told(*copy))
        assert node.left == []
        assert node.code(hello(*sound)) is None


async def test_notice_of_a_sound_start_or_of_a_stranger_changes_nothing(tmp_path: Path) -> None:
    """A newer start that has the known one in its history, an older one, and words of or about others."""
    async with bench(tmp_path) as node:
        with_members(node)
        mine, fork = hello(start(2, 6), start(1, 5)), (start(2, 9), start(1, 5))
        await node.welcomed(mine)
        node.guard.on_notice(2, told(start(3, 7), start(2, 6), start(1, 5)))
        node.guard.on_notice(2, told(start(1, 5)))
        node.guard.on_notice(99, told(*fork))
        node.guard.on_notice(PEER, told(*fork))
        node.guard.on_notice(2, told(*fork, directory=777))
        node.guard.on_notice(2, told())
        node.guard.on_notice(2, Notice(NoticeKind.SETTLED, directory=DIRECTORY, starts=fork))
        assert node.left == []
        assert node.code(mine) is None


async def test_start_without_a_known_history_convicts_nothing(tmp_path: Path) -> None:
    """After its own start a member knows the newest start of a peer alone. Another member tells of an older one, a
    third of the next one.
    """
    history = tuple(start(count, 7) for count in range(6, 0, -1))
    async with bench(tmp_path) as node:
        with_members(node, 3, 4)
        await node.welcomed(hello(*history[1:]))
        node.again()
        node.guard.on_notice(2, told(*history[3:]))
        node.guard.on_notice(3, told(*history))
        assert node.left == []
        assert node.code(hello(*history)) is None


async def test_failed_write_does_not_keep_a_peer_out(tmp_path: Path) -> None:
    """A full disk takes no member away. The next greeting writes again."""
    disk = BrokenDisk()
    async with bench(tmp_path, disk) as node:
        await node.welcomed(hello(start(1, 5)))
        assert read_starts(disk, node.path) == {}
        assert node.code(hello(start(1, 6))) == RefusalCode.OLDER_START, "it is in memory"
        disk.broken = False
        await node.welcomed(hello(start(1, 5)))
        assert read_starts(disk, node.path) == {DIRECTORY: start(1, 5)}


async def test_strangers_do_not_fill_the_file(tmp_path: Path) -> None:
    """Made-up nodes cost a bounded number of writes, and a member is always noted."""
    async with bench(tmp_path) as node:
        for number in range(1, 2 * MAX_UNKNOWN):
            await node.welcomed(hello(start(1, 1), peer=1000 + number, directory=number + 1000))
        assert len(read_starts(node.disk, node.path)) == MAX_UNKNOWN
        record = MemberRecord(PEER, "peer", "h:1", directory=DIRECTORY)
        node.book.changed(1, MembershipState(voters=(PEER,)), (record,))
        await node.welcomed(hello(start(1, 5)))
        assert read_starts(node.disk, node.path)[DIRECTORY] == start(1, 5)
        await node.welcomed(hello(start(1, 5), directory=0))
        assert 0 not in read_starts(node.disk, node.path)


async def test_full_file_drops_what_no_member_needs(tmp_path: Path) -> None:
    """Directories of members that were replaced long ago give way."""
    write_starts(OsDisk(), str(tmp_path), encode_starts(dict.fromkeys(range(1, MAX_DIRECTORIES + 1), 1)))
    async with bench(tmp_path) as node:
        members = (
            MemberRecord(1, "one", "h:1", directory=1),
            MemberRecord(PEER, "peer", "h:2", directory=DIRECTORY + 1000),
        )
        node.book.changed(1, MembershipState(voters=(1, PEER)), members)
        await node.welcomed(hello(start(1, 5), directory=DIRECTORY + 1000))
        starts = read_starts(node.disk, node.path)
        assert len(starts) == MAX_DIRECTORIES
        assert 1 in starts
        assert 2 not in starts


@settings(max_examples=5)
@given(st.dictionaries(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), max_size=20))
def test_peers_file_comes_back_and_shows_damage(starts: dict[int, int]) -> None:
    """The order is kept, and each flipped byte and each cut is noticed."""
    disk, whole = OsDisk(), encode_starts(starts)
    with tempfile.TemporaryDirectory() as path:
        write_starts(disk, path, whole)
        assert list(read_starts(disk, path).items()) == list(starts.items())
        for position in range(0, len(whole), 7):
            for damaged in (whole[:position], whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :]):
                Path(path, PEERS_NAME).write_bytes(damaged)
                with pytest.raises(CorruptionError):
                    read_starts(disk, path)
