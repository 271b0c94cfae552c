"""A node on a thread of its own: calls of many threads, ends, forks, event loops, errors."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from syncline import Config, Entry, LeaderChanged, NodeStopped, OnceKey, blocking
from syncline.client.blocking.portal import Portal
from syncline.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    DirectoryLocked,
    LeadershipLost,
    NodeFailed,
    Outcome,
    Rejected,
    SynclineError,
    UsageError,
)
from tests.helpers.doc_examples import PYTHON
from tests.helpers.node_cluster import Listing
from tests.helpers.ports import free_block

forking = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

DEADLINE_S = 20.0


def config_in(folder: Path, **more: object) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    settings = {"data_dir": str(folder / "a"), "listen": address, "peers": {"a": address}, "election_s": 0.2, **more}
    return Config(name="a", **settings)  # type: ignore[arg-type]


@pytest.fixture
def machine() -> Listing:
    return Listing()


@pytest.fixture
def raft(tmp_path: Path, machine: Listing) -> Iterator[blocking.Raft[object]]:
    with blocking.Raft.open(config_in(tmp_path), machine) as opened:
        yield opened


def node_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("syncline node")]


def test_blocking_raft_commands_of_many_threads_are_applied_once(raft: blocking.Raft[object], machine: Listing) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: raft.apply(b"%d" % number), range(200)))
    assert sorted(answers, key=str) == sorted(range(1, 201), key=str)
    assert raft.read(lambda: len(machine.items)) == 200
    raft.barrier()
    raft.read_index()
    assert raft.stats().applied >= 200
    assert raft.snapshot().index >= 200


def test_blocking_raft_futures_have_answers_and_errors(raft: blocking.Raft[object]) -> None:
    first, refused, last = raft.apply_many([b"one", b"refuse it", b"two"])
    assert (first.result(DEADLINE_S), last.result()) == (1, 2)
    with pytest.raises(Rejected, match="not this one"):
        refused.result()
    assert (first.done(), first.index, first.term) == (True, last.index - 2, raft.stats().term)
    assert not first.repeated
    with pytest.raises(TypeError, match=r"commands\[1\] must be bytes"):
        raft.apply_many([b"x", "y"])  # type: ignore[list-item]
    key = OnceKey(raft.open_session(), sequence=1)
    again = [raft.apply_once(b"once", key) for _ in range(2)]
    assert [future.result() for future in again] == [3, 3]
    assert [future.repeated for future in again] == [False, True]
    assert raft.end_session(key.session)


def test_blocking_raft_future_timeout_leaves_the_proposal_under_way(
    raft: blocking.Raft[object], machine: Listing
) -> None:
    gate, original = threading.Event(), machine.apply

    def slow(entry: Entry) -> object:
        gate.wait(DEADLINE_S)
        return original(entry)

    machine.apply = slow  # type: ignore[method-assign]
    (future,) = raft.apply_many([b"slow"], timeout=DEADLINE_S)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.05 s; the proposal goes on") as waited:
        future.result(0.05)
    assert waited.value.outcome is Outcome.UNKNOWN
    gate.set()
    assert future.result() == 1


def test_blocking_raft_session_applies_once(raft: blocking.Raft[object]) -> None:
    with raft.session() as session:
        assert session.apply(b"one") == 1
        assert session.id > 0
    with pytest.raises(Rejected), raft.session() as session:
        session.apply(b"refuse")


def test_blocking_raft_close_ends_calls_and_the_thread(tmp_path: Path, machine: Listing) -> None:
    config = config_in(tmp_path)
    raft = blocking.Raft.open(config, machine)
    raft.apply(b"kept")
    with ThreadPoolExecutor(3) as threads:
        events = raft.events()
        watched = threads.submit(list, events)
        failed = threads.submit(raft.failed)
        raft.close()
        with pytest.raises(Closed):
            failed.result(DEADLINE_S)
        assert [type(event) for event in watched.result(DEADLINE_S)] in ([], [NodeStopped])
    raft.close()
    assert raft.config.name == "a"
    for use in uses(raft):
        with pytest.raises(UsageError, match="the node 'a' is closed: open it again"):
            use()
    assert node_threads() == []
    again = blocking.Raft.open(config, kept := Listing())
    assert again.read(lambda: kept.items) == [b"kept"]
    again.close()


def test_blocking_raft_futures_end_with_the_node_and_keep_their_answers(tmp_path: Path, machine: Listing) -> None:
    gate, original = threading.Event(), machine.apply

    def slow(entry: Entry) -> object:
        if entry.data == b"slow":
            gate.wait(DEADLINE_S)
        return original(entry)

    machine.apply = slow  # type: ignore[method-assign]
    raft = blocking.Raft.open(config_in(tmp_path), machine)
    (first,) = raft.apply_many([b"one"])
    assert first.result() == 1
    (last,) = raft.apply_many([b"slow"], timeout=DEADLINE_S)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(last.result)
        closing = threads.submit(raft.close)
        with pytest.raises(Closed, match="the node was closed"):
            waiting.result(DEADLINE_S)
        gate.set()
        closing.result(DEADLINE_S)
    assert (first.result(), first.done(), last.done()) == (1, True, True)
    with pytest.raises(Closed):
        last.result(0.1)


def uses(raft: blocking.Raft[object]) -> list[Callable[[], object]]:
    """Calls of each kind."""
    return [
        lambda: raft.apply(b"x"), lambda: raft.apply_many([b"x"]), raft.barrier, raft.read_index, raft.stats,
        lambda: raft.read(lambda: 1), lambda: raft.leader, lambda: raft.is_leader, lambda: raft.role, raft.session,
        raft.snapshot, raft.failed, raft.events, lambda: raft.remove("b"), raft.upgrade_status,
    ]  # fmt: skip


async def test_blocking_raft_in_a_thread_with_an_event_loop_is_refused(tmp_path: Path, machine: Listing) -> None:
    config = config_in(tmp_path)
    with pytest.raises(
        UsageError, match=r"event loop that runs in this thread: use syncline\.Raft or syncline\.Machine here"
    ):
        blocking.Raft.open(config, machine)
    assert node_threads() == []
    raft = await asyncio.to_thread(blocking.Raft.open, config, machine)
    for use in [*uses(raft), raft.close]:
        with pytest.raises(UsageError, match="event loop that runs in this thread"):
            use()
    assert await asyncio.to_thread(raft.apply, b"x") == 1, "nothing of all that was replicated"
    await asyncio.to_thread(raft.close)


@forking
def test_blocking_raft_in_a_forked_child_is_refused(raft: blocking.Raft[object], machine: Listing) -> None:
    (done,) = raft.apply_many([b"one"])
    done.result()
    session, events = raft.session(), raft.events()
    late: list[Callable[[], object]] = [
        done.result,
        lambda: session.id,
        lambda: raft.config,
        raft.close,
        lambda: next(events),
    ]
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(int(DEADLINE_S))  # a call that waits for a thread that is not here
        said = []
        for use in [*uses(raft), *late]:
            try:
                use()
                said.append("it was carried out")
            except UsageError as error:
                said.append(str(error))
            except BaseException as error:  # noqa: BLE001 - the parent compares what was said
                said.append(repr(error))
        os.write(writer, "\n".join(sorted(set(said))).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        said = answers.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    belongs = "belongs to the process that this one was forked from: "
    hint = "a node has one process. Open it after the fork, or call the cluster through syncline.Client in this process"
    assert said == [
        f"the future {belongs}{hint}", f"the iterator {belongs}begin another one here",
        f"the node 'a' {belongs}{hint}", f"the session {belongs}{hint}",
    ]  # fmt: skip
    assert raft.apply(b"two") == 2, "the parent's node goes on"
    session.close()
    assert machine.items == [b"one", b"two"]


def test_blocking_raft_that_cannot_open_leaves_nothing(
    raft: blocking.Raft[object], tmp_path: Path, machine: Listing
) -> None:
    before = node_threads()
    with pytest.raises(DirectoryLocked, match="is held by this process"):
        blocking.Raft.open(raft.config, Listing())
    with pytest.raises(TypeError, match="config must be a"):
        blocking.Raft.open("a.toml", machine)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        blocking.Raft.open(config_in(tmp_path / "other"), object())  # type: ignore[arg-type]
    assert node_threads() == before


def test_blocking_raft_without_a_reference_is_closed(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    blocking.Raft.open(config, Listing())
    for thread in threading.enumerate():
        if thread.name.startswith("syncline node"):
            thread.join(DEADLINE_S)
    with blocking.Raft.open(config, Listing()) as raft:
        assert raft.apply(b"x") == 1


def test_blocking_raft_fail_stop_reaches_every_caller(raft: blocking.Raft[object]) -> None:
    with pytest.raises(DeadlineExceeded, match=r"the node runs after 0\.01 s"):
        raft.failed(0.01)
    with ThreadPoolExecutor(1) as threads:
        failed = threads.submit(raft.failed, DEADLINE_S)
        with pytest.raises(NodeFailed, match="the state machine is broken"):
            raft.apply(b"break")
        assert "the state machine is broken" in str(failed.result(DEADLINE_S))
    assert (raft.role, raft.is_leader, raft.leader) == ("stopped", False, None)


def test_blocking_raft_wrong_arguments_replicate_nothing(raft: blocking.Raft[object]) -> None:
    raft.barrier()
    before = raft.stats().commit
    wrong: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: raft.apply("text"), TypeError),  # type: ignore[arg-type]
        (lambda: raft.apply(b"x", timeout=0), ConfigError),
        (lambda: raft.read(7), TypeError),  # type: ignore[arg-type]
        (lambda: raft.events(int), TypeError),  # type: ignore[type-var]
        (lambda: raft.failed(-1), ConfigError),
        (lambda: raft.ask_leader("x"), TypeError),  # type: ignore[arg-type]
        (lambda: raft.add_learner("", "x"), ConfigError),
    ]
    for use, error in wrong:
        with pytest.raises(error):
            use()
    assert raft.stats().commit == before


def waits(raft: blocking.Raft[object]) -> bool:
    """Whether the node's loop waits for the end of `until_stopped`."""
    thread = raft._portal.process.thread
    assert thread is not None
    return any(_awaits(task.get_coro(), "_until") for task in asyncio.all_tasks(thread._loop))


def _awaits(work: object, name: str) -> bool:
    """Whether a coroutine is one of that name, or waits for one."""
    while work is not None and getattr(work, "__name__", "") != name:
        work = getattr(work, "cr_await", None)
    return work is not None


@contextmanager
def signal_in_the_wait(raft: blocking.Raft[object], unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Send SIGTERM to this process once `until_stopped` waits: before that, its handler would be another one."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.002):
            if waits(raft) and not unless():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(DEADLINE_S)


def test_blocking_raft_until_stopped_returns_at_a_signal(raft: blocking.Raft[object]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with signal_in_the_wait(raft):
        raft.until_stopped()
    assert signal.getsignal(signal.SIGTERM) is handler
    with ThreadPoolExecutor(1) as threads, pytest.raises(UsageError, match="only the main thread gets"):
        threads.submit(raft.until_stopped).result(DEADLINE_S)
    assert raft.apply(b"x") == 1


def test_blocking_raft_signal_at_any_step_of_until_stopped_ends_it(raft: blocking.Raft[object]) -> None:
    """An exception of a signal's handler escaped, if the signal came before or behind the wait itself."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, mine := lambda number, _: seen.append(number))
    steps, wanted, sent = 0, 0, True

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal steps, sent
        if "until_stopped" not in frame.f_code.co_qualname and "StopSignals" not in frame.f_code.co_qualname:
            return None
        if event == "line" and not sent and signal.getsignal(signal.SIGTERM) is not mine:
            steps += 1
            if sent := steps == wanted:
                signal.raise_signal(signal.SIGTERM)
        return trace

    def was_sent() -> bool:
        return sent

    try:
        while sent:
            steps, wanted, sent = 0, wanted + 1, False
            with signal_in_the_wait(raft, unless=was_sent):
                sys.settrace(trace)
                try:
                    raft.until_stopped()
                finally:
                    sys.settrace(None)
            assert signal.getsignal(signal.SIGTERM) is mine
        assert wanted > 3
        assert not seen
    finally:
        signal.signal(signal.SIGTERM, before)


def test_blocking_raft_ends_of_what_runs_when_it_is_closed(tmp_path: Path) -> None:
    raft = blocking.Raft.open(config_in(tmp_path), Listing())
    events, schedule = raft.events(NodeStopped), raft.every("5m", print)
    with pytest.raises(DeadlineExceeded):
        events.next(timeout=0.01)
    with pytest.raises(Closed, match="its leadership of term"), raft.leadership(timeout=DEADLINE_S):
        raft.close()
    assert [type(event) for event in events] == [NodeStopped], "and then the end"
    schedule.stop()
    assert schedule.next_time is None


def test_blocking_future_that_ends_with_the_node_has_its_own_outcome() -> None:
    """A UsageError says `not_applied`: it must not stand for a command whose proposal was under way."""

    class EndingFuture:
        looks = 0

        def done(self) -> bool:
            self.looks += 1
            return self.looks > 1

        def result(self) -> int:
            return 7

    portal = Portal()
    portal.close()
    future = blocking.BlockingFuture[int](portal, EndingFuture())  # type: ignore[arg-type]
    assert future.result() == 7


def test_blocking_raft_answers_asks_and_tells_of_events(raft: blocking.Raft[object]) -> None:
    raft.answer_asks(lambda data: b"asked " + data)
    assert raft.ask_leader(b"it") == b"asked it"
    assert raft.verify_leader() == raft.stats().term
    changes = raft.events(LeaderChanged)
    with pytest.raises(DeadlineExceeded):
        changes.next(timeout=0.01)


def test_blocking_raft_members_join_and_lead(tmp_path: Path) -> None:
    ports = free_block(2)
    first = config_in(tmp_path)
    with blocking.Raft.open(first, Listing()) as a:
        listen = f"127.0.0.1:{ports}"

        def ask(node_id: int) -> int:
            a.add_learner("b", listen, node_id=node_id)
            return a.cluster_id

        other = Config(name="b", data_dir=str(tmp_path / "b"), listen=listen, election_s=0.2)
        with blocking.Raft.join(other, machine := Listing(), ask) as b:
            a.apply(b"one")
            assert b.read(lambda: machine.items) == [b"one"]
            assert sorted(member.name for member in b.membership().members.values()) == ["a", "b"]
            assert b.node_id in a.peers()
            assert b.reach_machine_version(1)
            a.promote("b", force=True)
            assert a.transfer_leadership("b").name == "b"
            assert b.apply(b"two") == 2
            assert b.is_leader


def test_blocking_raft_leadership_ends_with_the_term(tmp_path: Path) -> None:
    ports = free_block(1)
    with blocking.Raft.open(config_in(tmp_path), Listing()) as a:
        with a.leadership(timeout=DEADLINE_S) as term:
            assert (term.number, term.lost, term.apply(b"one")) == (a.stats().term, False, 1)
            term.check()
        listen = f"127.0.0.1:{ports}"

        def ask(node_id: int) -> int:
            a.add_learner("b", listen, node_id=node_id)
            return a.cluster_id

        joins = Config(name="b", data_dir=str(tmp_path / "b"), listen=listen, election_s=0.2)
        with blocking.Raft.join(joins, Listing(), ask):
            a.promote("b", force=True)
            with pytest.raises(LeadershipLost), a.leadership(timeout=DEADLINE_S) as term:
                a.transfer_leadership("b")
            assert term.lost
            with pytest.raises(LeadershipLost):
                term.check()


def test_blocking_raft_every_reload_and_restore(raft: blocking.Raft[object], tmp_path: Path) -> None:
    ran = threading.Event()
    with raft.every(1, ran.set) as schedule:
        assert ran.wait(DEADLINE_S)
        assert schedule.next_time is not None
    assert raft.reload(msgspec.structs.replace(raft.config, snapshot_entries=7)) == ("snapshot_entries",)
    assert raft.config.snapshot_entries == 7
    with pytest.raises(ConfigError, match="name"):
        raft.reload(msgspec.structs.replace(raft.config, name="z", peers={}))
    with pytest.raises(UsageError):
        blocking.Raft.recover(config_in(tmp_path / "none"), Listing())
    with pytest.raises(SynclineError):
        raft.restore(io.BytesIO(b"no snapshot"))


def test_docs_of_the_blocking_node_run(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "blocking.md").read_text()
    section = text.partition("## A node without async")[2].partition("## Tests of your program")[0]
    names: dict[str, Any] = {"__name__": "docs_blocking"}
    for code in PYTHON.findall(section):
        exec(compile(code, "docs/blocking.md", "exec"), names)
    assert names["main"](config_in(tmp_path / "jobs")) == "t1"
    assert names["apply_all"](config_in(tmp_path / "list"), Listing()) == [1, 2, 3]
