"""The blocking client against real nodes: its calls, errors, interrupts, and the fixtures that it is tested with."""

from __future__ import annotations

import contextlib
import inspect
import signal
import textwrap
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

import syncline.client
from syncline.client import AsyncClient, Client
from syncline.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    LeaseLost,
    OperationError,
    Rejected,
    RevisionCompacted,
    Unreachable,
    UsageError,
)
from syncline.testing import ProcessCluster
from tests.helpers.doc_examples import PYTHON
from tests.unit.test_docstring_examples import CLIENT_EXAMPLES, example_of

DEADLINE_S = 20.0
DOCS = Path(__file__).parents[2] / "docs"


def value_of(kv: Client, key: str) -> bytes | None:
    found = kv.get(key)
    return None if found is None else found.value


def test_client_with_what_cannot_be_used_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no endpoint"):
        Client("")
    with pytest.raises(ConfigError):
        Client("http://127.0.0.1:1", timeout=0)
    with pytest.raises(TypeError):
        Client(7)  # type: ignore[arg-type]


def test_client_after_close_and_on_a_loop_is_a_usage_error(kv: Client) -> None:
    iterator, lease = kv.scan(), kv.lease(30)
    kv.put("a", "1")
    kv.close()
    kv.close()
    for use in (lambda: kv.get("a"), lambda: next(iterator), lease.__enter__, lambda: kv.watch("a")):
        with pytest.raises(UsageError, match="the client is closed"):
            use()


async def test_client_on_an_event_loop_says_what_to_use(kv: Client) -> None:
    for use in (lambda: kv.get("a"), lambda: kv.watch("a"), lambda: kv.lease(30), kv.close):
        with pytest.raises(UsageError, match="use AsyncClient"):
            use()


def test_client_calls_of_many_threads_all_arrive(kv: Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda _: kv.increment("count"), range(200)))
    assert sorted(counts) == list(range(1, 201))


def test_client_lists_all_keys_of_a_scan_across_pages(kv: Client) -> None:
    for at in range(7):
        kv.put(f"k/{at}", b"%d" % at)
    assert [item.value for item in kv.scan("k/", values=True, page=2)] == [b"%d" % at for at in range(7)]
    assert kv.count("k/") == 7


def test_client_errors_are_those_of_the_async_client(kv: Client) -> None:
    written = kv.put("a", "1")
    with pytest.raises(Rejected) as refused:
        kv.put("a", "2", if_revision=written.revision + 7)
    assert refused.value.code == "precondition_failed"
    with pytest.raises(ConfigError):
        kv.watch()
    with Client("http://127.0.0.1:1", retry_refused=False) as nowhere, pytest.raises(Unreachable):
        nowhere.get("a")


def test_client_survives_the_kill_of_the_leader(kv: Client, syncline_cluster: ProcessCluster) -> None:
    kv.put("a", "1")
    syncline_cluster.kill(syncline_cluster.leader())
    assert value_of(kv, "a") == b"1"
    kv.put("a", "2", idempotent=True)
    assert value_of(kv, "a") == b"2"


def interrupt_when_waiting(url: str) -> None:
    """Send SIGINT to this process once the node has a proposal that nothing answers."""
    while True:
        with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE_S) as answer:
            if b"\nsyncline_server_proposals_pending 1" in answer.read():
                break
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_client_interrupt_ends_a_call_that_waits(kv: Client, syncline_cluster: ProcessCluster) -> None:
    """Two of three nodes are away, so that the call waits. The client serves on."""
    rest = Client(syncline_cluster.endpoints[0], timeout=DEADLINE_S)
    rest.status()
    for node in (1, 2):
        syncline_cluster.pause(node)
    asks = threading.Thread(target=interrupt_when_waiting, args=(syncline_cluster.endpoints[0],))
    asks.start()
    with pytest.raises(KeyboardInterrupt):
        rest.put("a", "1")
    asks.join(DEADLINE_S)
    for node in (1, 2):
        syncline_cluster.resume(node)
    rest.put("a", "2", idempotent=True)
    rest.close()


def test_client_close_fails_a_call_of_another_thread(syncline_cluster: ProcessCluster) -> None:
    client = Client(syncline_cluster.endpoints, timeout=DEADLINE_S)
    future_revision = client.put("a", "1").revision + 1_000_000
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.get, "a", revision=future_revision)
        client.put("a", "2")
        client.close()
        with pytest.raises((Closed, OperationError, UsageError)):
            waiting.result(DEADLINE_S)


def test_watch_is_closed_by_another_thread(kv: Client) -> None:
    seen: list[int] = []
    first = threading.Event()

    def watch() -> None:
        for change in changes:
            seen.append(change.revision)
            first.set()

    changes = kv.watch(prefix="w/", from_revision=kv.put("before", "").revision)
    watching = threading.Thread(target=watch)
    watching.start()
    written = kv.put("w/1", "x")
    assert first.wait(DEADLINE_S)
    with pytest.raises(DeadlineExceeded), kv.watch(prefix="w/") as others:
        others.next(timeout=0.05)
    changes.close()
    watching.join(DEADLINE_S)
    assert not watching.is_alive()
    assert seen == [written.revision]


def test_lease_is_kept_alive_while_its_block_computes(kv: Client) -> None:
    with kv.lease(2) as lease:
        kv.put("a", "1", lease=lease.id)
        lease.check()
        assert 0 < lease.rest_s <= lease.ttl_s == 2.0
        with pytest.raises(DeadlineExceeded):
            lease.lost(timeout=0.01)
    assert value_of(kv, "a") is None
    with pytest.raises(UsageError, match="one block"), lease:
        pass
    with pytest.raises(UsageError, match="not granted yet"):
        _ = kv.lease(2).id


def test_lease_that_is_revoked_is_lost(kv: Client) -> None:
    def lose() -> None:
        with kv.lease(2) as lease:
            kv.revoke_lease(lease.id)
            assert isinstance(lease.lost(timeout=DEADLINE_S), LeaseLost)
            assert lease.is_lost
            with pytest.raises(LeaseLost):
                lease.check()

    with pytest.raises(LeaseLost):
        lose()


def test_session_is_a_client_and_ends_with_its_block(kv: Client) -> None:
    with kv.session() as once:
        assert isinstance(once, Client)
        once.put("order/7", "paid")
    with pytest.raises(OperationError):
        once.put("order/8", "paid")
    assert value_of(kv, "order/7") == b"paid"


def test_update_runs_the_change_in_the_thread_of_the_caller(kv: Client) -> None:
    """Where it may call the client. It runs again if the key was changed meanwhile."""
    kv.put("a", "1")
    runs: list[tuple[int, bytes | None]] = []

    def change(value: bytes | None) -> bytes:
        runs.append((threading.get_ident(), value))
        if len(runs) == 1:
            kv.put("a", "2")
        return (value or b"") + b"!"

    changed = kv.update("a", change)
    assert runs == [(threading.get_ident(), b"1"), (threading.get_ident(), b"2")]
    assert changed is not None
    assert (changed.value, value_of(kv, "a")) == (b"2!", b"2!")


def test_update_ends_with_the_error_of_the_change(kv: Client) -> None:
    def fails(value: bytes | None) -> bytes:
        raise KeyError(value)

    async def change(value: bytes | None) -> bytes:
        return b""

    with pytest.raises(KeyError):
        kv.update("a", fails)
    with pytest.raises(TypeError, match="coroutine function"):
        kv.update("a", change)  # type: ignore[arg-type]
    assert kv.update("a", lambda value: value) is None


def test_update_of_many_threads_loses_no_change(kv: Client) -> None:
    def more(value: bytes | None) -> bytes:
        return b"%d" % (int(value or 0) + 1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: kv.update("n", more, timeout=DEADLINE_S), range(20)))
    assert value_of(kv, "n") == b"20"


def test_transaction_commits_what_was_collected(kv: Client) -> None:
    taken = kv.transaction().if_absent("seat").put("seat", "ann").else_get("seat")
    assert [taken.commit().succeeded, taken.commit().succeeded] == [True, False]
    assert taken.commit().results[0].value == b"ann"


def work() -> None:
    """A job, for the examples of `every`."""


def test_examples_of_the_blocking_client_run(
    syncline_cluster: ProcessCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The docstrings' examples, in the order of the async ones."""
    syncline_cluster.clear()
    kv = Client(syncline_cluster.endpoints, timeout=DEADLINE_S)
    space = {**vars(syncline.client), "kv": kv, "msgspec": msgspec}
    space |= dict.fromkeys(("serve", "clean_up", "report"), work)
    for name in CLIENT_EXAMPLES:
        text = textwrap.dedent(" " * 8 + (inspect.unwrap(getattr(Client, name)).__doc__ or ""))
        exec(example_of(text), space)
    assert "b'good day'" in capsys.readouterr().out
    with pytest.raises(UsageError):
        kv.get("greeting")


def test_watch_of_a_compacted_revision_says_where_it_can_begin(kv: Client) -> None:
    """After the examples, which watch from revision 1."""
    kv.put("a", "1")
    oldest = kv.compact(kv.put("a", "2").revision).oldest
    with pytest.raises(RevisionCompacted) as refused:
        next(kv.watch("a", from_revision=1))
    assert refused.value.oldest == oldest


@pytest.mark.parametrize("page", ["blocking.md", "pytest.md"])
def test_examples_of_the_guide_run(page: str) -> None:
    """Each compiles; those that need a server of their own run in tests/integration/test_prefork.py."""
    blocks = PYTHON.findall((DOCS / page).read_text())
    assert blocks
    for block in blocks:
        compile(block, page, "exec")


def test_process_cluster_says_what_is_wrong(tmp_path: Path, syncline_cluster: ProcessCluster) -> None:
    with pytest.raises(ConfigError, match="nodes is 0"):
        ProcessCluster(str(tmp_path), nodes=0)
    with pytest.raises(TypeError, match="nodes must be an int, not str"):
        ProcessCluster(str(tmp_path), nodes="3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no node 3"):
        syncline_cluster.kill(3)
    syncline_cluster.kill(2)
    with pytest.raises(UsageError, match="the process of node c has ended"):
        syncline_cluster.pause(2)
    syncline_cluster.restart(2)
    assert Client(syncline_cluster.endpoints[2], timeout=DEADLINE_S).status().name == "c"
    assert "--- a" in syncline_cluster.logs()


def test_process_cluster_that_was_closed_starts_no_node(tmp_path: Path) -> None:
    """`heal` and `restart` started nodes which no `close` ended, and a new client looked for a server until its end."""
    cluster = ProcessCluster(str(tmp_path), nodes=1)
    cluster.close()
    cluster.close()
    calls: tuple[Callable[[], object], ...] = (
        cluster.heal,
        cluster.clear,
        cluster.leader,
        cluster.client,
        cluster.wait_ready,
        lambda: cluster.restart(0),
        lambda: cluster.kill(0),
    )
    for call in calls:
        with pytest.raises(UsageError, match="this cluster was closed: make another one"):
            call()
    assert "--- a" in cluster.logs()


def test_process_cluster_leader_is_another_one_after_a_pause(syncline_cluster: ProcessCluster) -> None:
    paused = syncline_cluster.leader()
    syncline_cluster.pause(paused)
    assert syncline_cluster.leader() != paused
    syncline_cluster.heal()
    with contextlib.closing(syncline_cluster.client()) as kv:
        kv.put("a", "1")


def test_async_client_is_exported_beside_the_blocking_one() -> None:
    assert (syncline.AsyncClient, syncline.Client) == (AsyncClient, Client)
