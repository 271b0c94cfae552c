# ruff: noqa: PT012 - the blocks that raise are what is tested
"""The words about shared data without async: the same as the async ones, from threads and forked children."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from syncline.client import Client
from syncline.client.txn import PutOp
from syncline.errors import ConfigError, DeadlineExceeded, LeaseLost, UsageError
from tests.helpers.site_server import site_in_thread


@pytest.fixture
def kv() -> Iterator[Client]:
    with site_in_thread() as site, Client(site.url) as client:
        yield client


def test_blocking_mapping_is_read_by_any_thread(kv: Client) -> None:
    kv.put("c/a", "1")
    with kv.mapping("c/") as config:
        assert (dict(config), len(config), config.get("b")) == ({"a": b"1"}, 1, None)
        revision = config.set("b", "2")
        assert (config["b"], config.revision) == (b"2", revision)
        assert config.changed().items == {"b": b"2"}
        changes = config.changes()
        found: list[object] = []
        reading = threading.Thread(target=lambda: found.append(next(changes).items))
        reading.start()
        while reading.is_alive():  # it follows from the moment at which it has begun
            config.set("a", str(config.revision))
            reading.join(0.01)
        assert found[0].keys() == {"a"}  # type: ignore[attr-defined]
        changes.close()
        assert config.delete("b")
        assert "b" not in config.snapshot()
        assert config.refresh() >= config.revision
        with pytest.raises(DeadlineExceeded):
            while True:
                config.changed(timeout=0.01)
    with pytest.raises(UsageError, match="closed"):
        config["a"]


def test_blocking_registration_and_services(kv: Client) -> None:
    with kv.services("api") as api:
        with kv.register("api", "a:1", meta={"zone": "a"}) as registration:
            [found] = api.wait(1, timeout=10.0)
            assert (found.id, api[registration.id], list(api), len(api)) == (registration.id, found, [found.id], 1)
            registration.update(meta={"zone": "b"})
            assert [one.meta for one in kv.discover("api")] == [{"zone": "b"}]
            with registration.states() as states:
                assert next(states).registered
            assert registration.state.losses == 0
        while api.instances:
            api.changed(timeout=10.0)
    assert kv.discover("api") == ()


def test_blocking_queue_of_threads(kv: Client) -> None:
    mail = kv.queue("mail")
    mail.put_many([str(at) for at in range(20)] + ["end"] * 3)
    found: list[bytes] = []

    def work() -> None:
        while True:
            with mail.claim(wait=20) as item:
                item.check()
                if item.value == b"end":
                    return
                found.append(item.value)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert sorted(found, key=int) == [b"%d" % at for at in range(20)]
    assert (mail.size(), mail.counts().dead, mail.peek()) == (0, 0, ())


def test_blocking_queue_item_is_given_back_done_and_lost(kv: Client) -> None:
    mail = kv.queue("mail", max_deliveries=2)
    mail.put("a")
    with pytest.raises(ZeroDivisionError), mail.claim():
        raise ZeroDivisionError
    with pytest.raises(LeaseLost), mail.claim(ttl=2) as item:
        assert item.deliveries == 2
        [claim] = kv.list("queues/mail/claims/").items
        kv.revoke_lease(claim.lease)
        assert item.lost.wait(10.0)
        with pytest.raises(LeaseLost):
            item.done(PutOp(b"sent", b"1"))
    with pytest.raises(DeadlineExceeded), mail.claim(wait=0):
        raise AssertionError
    [dead] = mail.dead_letters()
    assert mail.restore(dead.id)
    with mail.claim() as item:
        item.done(PutOp(b"sent", b"2"))
        assert item.is_over
    assert (kv.get("sent").value, mail.discard(dead.id)) == (b"2", False)  # type: ignore[union-attr]


def test_blocking_counter_and_sessions(kv: Client) -> None:
    visits = kv.counter("visits")
    assert (visits.add(), visits.add(4), visits.value(), visits.key) == (1, 5, 5, b"counters/visits")
    visits.reset(1)
    sessions = kv.sessions(ttl=60)
    session = sessions.create({"n": 1})
    assert sessions.update(session, lambda data: {**data, "n": 2}) == {"n": 2}
    assert sessions.set(session, b"x")
    assert (sessions.get(session), sessions.touch(session), sessions.delete(session)) == (b"x", True, True)
    assert sessions.get(session) is None


def test_blocking_words_refuse_arguments_before_anything_begins() -> None:
    """A module may make them before a server forks: the client's thread begins with the first call."""
    kv = Client("http://127.0.0.1:1")
    before = threading.active_count()
    for make in (lambda: kv.queue(""), lambda: kv.counter(""), lambda: kv.sessions(ttl=0)):
        with pytest.raises(ConfigError):
            make()
    kv.queue("mail")
    kv.counter("visits")
    kv.sessions()
    assert threading.active_count() == before
    kv.close()


def test_blocking_words_after_a_fork(kv: Client) -> None:
    """Queues, counters and sessions are for all processes. What the parent holds the child does not."""
    visits, mail = kv.counter("visits"), kv.queue("mail")
    mail.put("a")
    with kv.mapping("c/") as config, mail.claim() as item:
        child = os.fork()
        if not child:
            status = 1
            try:
                assert visits.add() == 1
                mail.put("b")
                for use in (lambda: config["a"], item.check, config.refresh):
                    with pytest.raises(UsageError, match="forked"):
                        use()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        item.check()
    assert (visits.value(), mail.size()) == (1, 1)
