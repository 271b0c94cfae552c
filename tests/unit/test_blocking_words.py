"""The blocking words about locks, elections, schedules and barriers, against a server with a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.client import BlockingLock, Client
from syncline.errors import ConfigError, DeadlineExceeded, LockLost, UsageError
from tests.helpers.site_server import SiteServer, site_in_thread

LIMIT_S = 10.0


@pytest.fixture
def site() -> Iterator[SiteServer]:
    with site_in_thread() as server:
        yield server


@pytest.fixture
def kv(site: SiteServer) -> Iterator[Client]:
    with Client(site.url) as client:
        yield client


def keys(kv: Client) -> list[bytes]:
    return [item.key for item in kv.scan("")]


def in_thread(work: object) -> threading.Thread:
    assert callable(work)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until_keys(kv: Client, prefix: str, count: int) -> None:
    with kv.watch(prefix=prefix, from_revision=1) as changes:
        while len(list(kv.scan(prefix))) != count:
            changes.next(timeout=LIMIT_S)


def test_blocking_lock_is_held_by_one_thread_at_a_time(kv: Client) -> None:
    inside, tokens = [], []

    def work() -> None:
        with kv.lock("printer") as held:
            inside.append(held)
            assert len(inside) == 1
            tokens.append(held.token)
            held.check()
            assert held.rest_s > 5
            inside.remove(held)

    threads = [in_thread(work) for _ in range(5)]
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(set(tokens)) == 5
    assert tokens == sorted(tokens)
    assert not keys(kv)


def test_blocking_lock_that_is_not_free_says_so(kv: Client) -> None:
    with kv.lock("printer") as held:
        with pytest.raises(DeadlineExceeded, match=f"held by {held.key.decode()}"):
            kv.lock("printer", wait=0).acquire()
        with kv.lock("printer", holders=2) as other:
            assert other.token > held.token
    with pytest.raises(ConfigError, match="needs a TTL"):
        kv.lock("printer", ttl=0)


def test_blocking_lock_tells_its_loss(kv: Client) -> None:
    with pytest.raises(LockLost), kv.lock("printer") as held:  # noqa: PT012
        kv.delete(held.key)
        assert held.lost.wait(LIMIT_S)
        with pytest.raises(LockLost):
            held.check()
    with pytest.raises(ValueError, match="mine"), kv.lock("printer") as held:  # noqa: PT012
        kv.delete(held.key)
        assert held.lost.wait(LIMIT_S)
        raise ValueError("mine")
    lock = kv.lock("printer").acquire()
    lock.release()
    lock.release()
    with pytest.raises(UsageError, match="for one use"):
        lock.acquire()


def test_blocking_lock_that_is_interrupted_leaves_no_key(kv: Client) -> None:
    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        until_keys(kv, "locks/printer/", 2)
        signal.pthread_kill(main, signal.SIGINT)

    with kv.lock("printer") as held:
        thread = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            kv.lock("printer").acquire()
        thread.join(LIMIT_S)
        assert keys(kv) == [held.key]


def test_blocking_lock_of_the_parent_is_refused_in_a_child(kv: Client) -> None:
    with kv.lock("printer") as held:
        child = os.fork()
        if child == 0:
            os._exit(_uses(held))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        held.check()


def _uses(held: BlockingLock) -> int:
    try:
        held.check()
    except UsageError as error:
        return 7 if "forked" in str(error) else 1
    return 0


def test_blocking_election_gives_terms_and_resigns(kv: Client) -> None:
    for term in kv.elect("master", value="me"):
        with term:
            leader = kv.leader("master")
            assert leader is not None
            assert (leader.value, leader.token, leader.key) == (b"me", term.token, term.key)
            assert term.rest_s > 5
        break
    until_keys(kv, "elections/", 0)
    tokens = []
    with kv.elect("master") as terms:
        for term in terms:
            tokens.append(term.token)
            if len(tokens) == 2:
                break
            with term:
                kv.delete(term.key)
                assert term.lost.wait(LIMIT_S)
                term.check()
                raise AssertionError
    assert not keys(kv)
    assert kv.leader("master") is None
    assert tokens == sorted(set(tokens))


def test_blocking_once_runs_in_one_of_many_threads(kv: Client) -> None:
    results: list[str | None] = []

    @kv.once("nightly", on_crash="rerun")
    def report(text: str) -> str:
        return text

    threads = [in_thread(lambda: results.append(report("sent"))) for _ in range(6)]
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(map(str, results)) == ["None"] * 5 + ["sent"]
    assert keys(kv) == [b"once/nightly"]


def test_blocking_once_gives_a_failed_run_back(kv: Client) -> None:
    fails = [True]

    @kv.once("nightly", on_crash="rerun")
    def report() -> str:
        if fails.pop():
            raise KeyboardInterrupt
        return "sent"

    with pytest.raises(KeyboardInterrupt):
        report()
    assert not keys(kv)
    fails.append(False)
    assert report() == "sent"
    with pytest.raises(TypeError, match="asynchronous"):
        kv.once("other")(_asynchronous)


async def _asynchronous() -> None: ...


def test_blocking_schedule_runs_its_job_in_a_thread(kv: Client) -> None:
    ran = threading.Event()
    where: list[threading.Thread] = []

    def job() -> None:
        where.append(threading.current_thread())
        kv.put("ran", "yes")  # a job may use the client
        ran.set()

    with kv.every("1s", job, name="job") as schedule:
        assert str(schedule.next_time).endswith("+00:00")
        assert ran.wait(LIMIT_S)
    assert str(schedule.next_time) == "None"
    assert where[0] is not threading.current_thread()
    with pytest.raises(TypeError, match="asynchronous"):
        kv.every("1s", _asynchronous)


def test_blocking_barrier_lets_its_parties_through(kv: Client) -> None:
    barrier = kv.barrier("start", parties=3)
    passed: list[float] = []

    def party() -> None:
        barrier.wait(timeout=LIMIT_S)
        passed.append(time.monotonic())

    threads = [in_thread(party) for _ in range(2)]
    with pytest.raises(DeadlineExceeded):
        kv.barrier("other", parties=2).wait(timeout=0.1)
    early = len(passed)
    party()
    for thread in threads:
        thread.join(LIMIT_S)
    assert (early, len(passed)) == (0, 3)


def test_blocking_words_on_a_closed_client_are_refused(site: SiteServer) -> None:
    kv = Client(site.url)
    lock = kv.lock("printer")
    report = kv.once("nightly")(lambda: None)
    kv.close()
    for use in (lambda: kv.lock("printer"), lock.acquire, report, lambda: kv.leader("master")):
        with pytest.raises(UsageError, match="closed"):
            use()


SCRIPT = """
import multiprocessing, os, sys, threading
from syncline.client import Client

ran = threading.Event()

def job():
    print("ran", flush=True)
    ran.set()

if __name__ == "__main__":
    kv = Client(sys.argv[1])
    kv.every("1s", job)
    ran.wait(10)
    print(sorted({key.key.rsplit(b"/", 1)[0] for key in kv.list("schedules/").items}))
    kv.close()
"""


def test_schedule_of_a_function_of_the_script_itself_runs(tmp_path: Path) -> None:
    """Job 1 as it is written: a cron script is one file."""
    script = tmp_path / "nightly.py"
    script.write_text(SCRIPT, encoding="utf-8")
    with site_in_thread() as site:
        done = subprocess.run(
            [sys.executable, str(script), site.url], capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "ran" in done.stdout
    assert "b'schedules/nightly.job'" in done.stdout


@pytest.mark.parametrize("word", ["lock", "register"])
def test_block_keeps_its_own_error_when_the_client_was_closed(site: SiteServer, word: str) -> None:
    kv = Client(site.url)
    with pytest.raises(ZeroDivisionError), kv.lock("a") if word == "lock" else kv.register("a", "10.0.0.1:80"):  # noqa: PT012
        kv.close()
        raise ZeroDivisionError
