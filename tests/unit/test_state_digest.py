"""Digests and their comparison, without a node: majority rules, and nothing that is read or called can raise."""

from __future__ import annotations

import itertools
import logging
from typing import Any, BinaryIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline import Entry, FSMSnapshot
from syncline.consensus.quorum import JointConfig
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.node.envelope import ClusterLevels, MemberRecord
from syncline.node.member_registry import MemberRegistry
from syncline.node.state_digest import (
    Agreement,
    DigestComparison,
    DigestEntry,
    DigestSource,
    compare,
    decode_digest_entry,
    point_digest,
    registry_digest,
    room_before_point,
)

A, B, C = bytes(16), b"b" * 16, b"c" * 16
AGREED, NO_MAJORITY, UNDECIDED = Agreement.AGREED, Agreement.NO_MAJORITY, Agreement.UNDECIDED

digest_maps = st.dictionaries(st.integers(1, 9), st.sampled_from([A, B, C]))
voter_sets = st.frozensets(st.integers(1, 7), min_size=1)


class TestCompare:
    @given(voter_sets, digest_maps)
    def test_compare_agrees_exactly_when_a_majority_holds_one(self, voters: frozenset[int], digests: Any) -> None:
        counts = {digest: sum(digests.get(voter) == digest for voter in voters) for digest in (A, B, C)}
        winners = [digest for digest, count in counts.items() if 2 * count > len(voters)]
        found = compare(JointConfig(voters), digests)
        if winners:
            assert found == DigestComparison(AGREED, winners[0])
        else:
            assert found.agreement is (NO_MAJORITY if sum(map(bool, counts.values())) > 1 else UNDECIDED)
            assert found.digest == b""

    @given(voter_sets, voter_sets, digest_maps)
    def test_compare_of_a_joint_membership_needs_both_halves(
        self, incoming: frozenset[int], outgoing: frozenset[int], digests: Any
    ) -> None:
        found = compare(JointConfig(incoming, outgoing), digests)
        halves = compare(JointConfig(incoming), digests), compare(JointConfig(outgoing), digests)
        agreed = halves[0] == halves[1] and halves[0].agreement is AGREED
        assert (found.agreement is AGREED) == agreed
        assert not agreed or found == halves[0]

    @given(st.integers(3, 9), st.data())
    def test_compare_with_one_wrong_voter_keeps_the_sound_majority(self, count: int, data: st.DataObject) -> None:
        """Whichever voter is wrong, the leader among them, the sound ones are the majority and it is not."""
        wrong = data.draw(st.integers(1, count))
        digests = {voter: B if voter == wrong else A for voter in range(1, count + 1)}
        assert compare(JointConfig(range(1, count + 1)), digests) == DigestComparison(AGREED, A)

    def test_compare_with_two_of_four_has_no_majority(self) -> None:
        assert compare(JointConfig([1, 2, 3, 4]), {1: A, 2: A, 3: B, 4: B}).agreement is NO_MAJORITY

    def test_compare_with_three_of_four_agrees(self) -> None:
        assert compare(JointConfig([1, 2, 3, 4]), {1: A, 2: B, 3: A, 4: A}) == DigestComparison(AGREED, A)

    def test_compare_does_not_count_learners(self) -> None:
        voters = JointConfig([1, 2, 3])
        assert compare(voters, {1: A, 8: A, 9: A}).agreement is UNDECIDED
        assert compare(voters, {1: A, 2: A, 7: B, 8: B, 9: B}) == DigestComparison(AGREED, A)

    def test_compare_with_equal_digests_of_a_minority_is_undecided(self) -> None:
        assert compare(JointConfig([1, 2, 3, 4, 5]), {1: A, 2: A}).agreement is UNDECIDED

    def test_compare_without_voters_or_digests_is_undecided(self) -> None:
        assert compare(JointConfig(), {1: A}).agreement is UNDECIDED
        assert compare(JointConfig([1]), {}).agreement is UNDECIDED


class TestEntry:
    def test_digest_entry_is_read_as_written(self) -> None:
        entry = DigestEntry(8, 1, ((1, A), (2**63 - 1, B)))
        assert decode_digest_entry(msgspec.msgpack.encode(entry)) == entry

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xc1",
            [],
            [8, 1],
            [0, 1, []],
            [-8, 1, []],
            [2**63, 1, []],
            [8, 0, []],
            [8, "1", []],
            [8, 1, [[1, b"short"]]],
            [8, 1, [[1, bytes(17)]]],
            [8, 1, [[0, A]]],
            [8, 1, [[-1, A]]],
            [8, 1, [[2**63, A]]],
            [8, 1, [[1, A], [1, B]]],
            [8, 1, [[1]]],
            [8, 1, [[1, A]] * 5000],
            {"point": 8},
        ],
    )
    def test_digest_entry_that_is_malformed_is_none(self, content: object) -> None:
        data = content if isinstance(content, bytes) else msgspec.msgpack.encode(content)
        assert decode_digest_entry(data) is None

    def test_digest_entry_with_deep_nesting_is_none_or_read(self) -> None:
        """A decoder that meets its recursion limit must not take the node with it."""
        head = msgspec.msgpack.encode(DigestEntry(8, 1, ()))
        assert head[0] == 0x93
        decode_digest_entry(b"\x94" + head[1:] + b"\x91" * 100_000 + b"\xc0")
        assert decode_digest_entry(b"\x93" + b"\x91" * 100_000) is None

    @given(st.binary(max_size=200))
    def test_digest_entry_of_any_bytes_never_raises(self, data: bytes) -> None:
        entry = decode_digest_entry(data)
        assert entry is None or decode_digest_entry(msgspec.msgpack.encode(entry)) == entry


@given(st.integers(1, 10_000), st.integers(2, 100), st.integers(1, 300))
def test_room_before_point_never_passes_over_a_point(index: int, interval: int, count: int) -> None:
    taken = min(count, room_before_point(index, interval))
    assert taken > 0
    inside = [at for at in range(index, index + taken - 1) if at % interval == 0]
    assert inside == []


class TestDigests:
    def test_point_digest_differs_in_each_part(self) -> None:
        parts = [
            point_digest(1, registry=b"", machine=b"m"),
            point_digest(2, registry=b"", machine=b"m"),
            point_digest(1, registry=b"r", machine=b"m"),
            point_digest(1, registry=b"", machine=b"n"),
            point_digest(1, registry=b"", machine=b"m", sessions=b"s"),
        ]
        assert all(one != other for one, other in itertools.combinations(parts, 2))
        assert {len(part) for part in parts} == {16}

    def test_registry_digest_does_not_depend_on_the_order_of_insertion(self) -> None:
        """A registry that was loaded from a snapshot is in the order of the ids, another one in that of the entries."""
        books = [MemberRegistry(), MemberRegistry()]
        for book, order in zip(books, ((1, 2, 3), (3, 1, 2)), strict=True):
            book.members = {node_id: MemberRecord(node_id, f"n{node_id}", "h:1") for node_id in order}
            book.removed = dict.fromkeys(order)
        assert registry_digest(books[0]) == registry_digest(books[1])
        loaded = MemberRegistry()
        loaded.load(books[1].dump())
        assert registry_digest(loaded) == registry_digest(books[1])

    @pytest.mark.parametrize(
        "field",
        ["name", "address", "http", "promote", "directory", "incarnation", "level", "machine_version"],
    )
    def test_registry_digest_covers_each_field_of_a_member(self, field: str) -> None:
        book, member = MemberRegistry(), MemberRecord(1, "n1", "h:1")
        book.members = {1: member}
        before = registry_digest(book)
        value = "other" if field in ("name", "address", "http") else field == "promote" or 7
        book.members = {1: msgspec.structs.replace(member, **{field: value})}
        assert registry_digest(book) != before

    def test_registry_digest_covers_every_field_there_is(self) -> None:
        """A field that is added to `MemberRecord` is added here too, with a new `FORMAT`."""
        assert len(MemberRecord.__struct_fields__) == 9
        assert len(ClusterLevels.__struct_fields__) == 4

    @pytest.mark.parametrize("change", [{"level": 2}, {"machine_version": 2}, {"hold": True}, {"written_by": "9.9"}])
    def test_registry_digest_covers_the_levels(self, change: dict[str, object]) -> None:
        book = MemberRegistry()
        before = registry_digest(book)
        book.levels = msgspec.structs.replace(book.levels, **change)
        assert registry_digest(book) != before


class Plain:
    def apply(self, entry: Entry) -> object:
        return entry.index

    def snapshot(self) -> FSMSnapshot:
        raise AssertionError

    def restore(self, source: BinaryIO) -> None:
        raise AssertionError


class Digesting(Plain):
    answer: Any = b"digest"

    def digest(self) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: bytes = self.answer
        return answer


class TestSource:
    def test_source_without_the_capability_gives_an_empty_digest(self) -> None:
        source = DigestSource(Plain(), 8)
        assert (source.take(), source.disabled) == (b"", False)

    def test_source_gives_the_digest_of_the_machine(self) -> None:
        source = DigestSource(Digesting(), 8)
        assert (source.take(), source.disabled) == (b"digest", False)

    @pytest.mark.parametrize(
        "answer", ["text", None, 7, bytearray(8), b"", bytes(65), RuntimeError("no"), NotImplementedError()]
    )
    def test_source_with_a_faulty_digest_is_disabled_with_a_warning(
        self, answer: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        machine = Digesting()
        machine.answer = answer
        source = DigestSource(machine, 8)
        with caplog.at_level(logging.WARNING, "syncline.node"):
            assert source.take() is None
            machine.answer = b"sound again"
            assert source.take() is None, "what was once wrong is not believed later"
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "Digesting.digest" in caplog.text

    @pytest.mark.parametrize("version", [0, -1, 2**16, "1", True, None, 1.0])
    def test_source_with_an_impossible_version_is_disabled(self, version: object) -> None:
        machine = Digesting()
        machine.digest_version = version  # type: ignore[attr-defined]
        source = DigestSource(machine, 8)
        assert source.disabled
        assert source.take() is None

    def test_source_with_a_property_that_raises_is_disabled(self) -> None:
        class Raising(Plain):
            @property
            def digest(self) -> bytes:
                raise RuntimeError("not yet")

        source = DigestSource(Raising(), 8)
        assert source.disabled
        assert source.take() is None

    def test_source_with_a_coroutine_function_is_disabled(self) -> None:
        class Asynchronous(Plain):
            async def digest(self) -> bytes:
                return b"digest"

        source = DigestSource(Asynchronous(), 8)
        assert source.take() is None
        assert source.disabled

    def test_source_versions_differ_with_the_version_of_the_machine(self) -> None:
        later = Digesting()
        later.digest_version = 2  # type: ignore[attr-defined]
        versions = {DigestSource(machine, 8).version for machine in (Plain(), Digesting(), later)}
        assert len(versions) == 3


def test_kv_machine_digest_depends_on_the_state_alone() -> None:
    one, other = KvMachine(), KvMachine()
    commands = [encode_command(Put(key, b"value")) for key in (b"a", b"b")]
    for index, data in enumerate(commands, 1):
        one.apply(Entry(index, 1, data))
    other.apply_batch([Entry(index, 1, data) for index, data in enumerate(commands, 1)])
    assert one.digest() == other.digest()
    assert len(one.digest()) == 16
    before = one.digest()
    one.apply(Entry(3, 1, commands[0]))
    assert one.digest() != before
