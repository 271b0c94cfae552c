"""Results in the store, and beat while the cluster or the broker is away."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator

import pytest
from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker
from kombu.exceptions import OperationalError

from syncline.client import Client
from syncline.contrib.celery import OnceTask, ResultBackend, Scheduler
from syncline.contrib.celery.beat import RUN_HEADER
from syncline.errors import ConfigError, OperationError
from syncline.testing.process_cluster import ProcessCluster
from tests.helpers.ports import free_block

LIMIT_S = 60

pytestmark = pytest.mark.timeout(120)


def application(url: str) -> Celery:
    app = Celery("parts", broker="memory://", set_as_current=False)
    app.conf.syncline_url = url
    app.conf.result_backend = "syncline.contrib.celery:ResultBackend"
    app.conf.beat_schedule = {"tick": {"task": "tick", "schedule": 0.01}}
    return app


@pytest.fixture
def app(kv: Client, syncline_cluster: ProcessCluster) -> Celery:
    del kv
    return application(",".join(syncline_cluster.endpoints))


@pytest.fixture
def beat(app: Celery) -> Iterator[Scheduler]:
    made = Scheduler(app)
    yield made
    made.close()


def test_results_groups_and_chords_come_back(app: Celery, kv: Client) -> None:
    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="total")
    def total(parts: list[int]) -> int:
        return sum(parts)

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    app.set_current()
    app.finalize()
    with start_worker(app, perform_ping_check=False, pool="solo"):
        assert add.delay(1, 2).get(timeout=LIMIT_S) == 3
        assert group(add.s(n, n) for n in range(3))().get(timeout=LIMIT_S) == [0, 2, 4]
        assert chord([add.s(n, n) for n in range(3)], total.s())().get(timeout=LIMIT_S) == 6
        with pytest.raises(ValueError, match="no"):
            fail.delay().get(timeout=LIMIT_S)
    for item in kv.list("celery-results/").items:
        assert item.lease, "each has an end"


def test_result_backend_url_may_stand_in_its_setting(syncline_cluster: ProcessCluster, kv: Client) -> None:
    app = application("http://127.0.0.1:1")
    app.conf.result_backend = f"syncline.contrib.celery:ResultBackend+{syncline_cluster.endpoints[0]}"
    assert isinstance(app.backend, ResultBackend)
    app.backend.set("a", b"1")
    assert (app.backend.get("a"), app.backend.mget(["none", "a"])) == (b"1", [None, b"1"])
    assert kv.get("celery-results/a") is not None
    app.backend.delete("a")
    assert app.backend.get("a") is None


def test_result_backend_with_several_urls_names_them(syncline_cluster: ProcessCluster, kv: Client) -> None:
    """A worker prints the URI at its start. A copy by pickle, as a result carries it, asks the same cluster."""
    urls = ",".join(syncline_cluster.endpoints)
    app = application("http://127.0.0.1:1")
    assert app.backend.as_uri() == "http://127.0.0.1:1"
    app = application("http://127.0.0.1:1")
    app.conf.result_backend = f"syncline.contrib.celery:ResultBackend+{urls}"
    assert app.backend.as_uri() == app.backend.as_uri(include_password=True) == urls
    app.set_current()
    copy = pickle.loads(pickle.dumps(app.backend))
    copy.set("a", b"1")
    assert kv.get("celery-results/a") is not None


def test_result_backend_expire_of_an_absent_key_is_no_error(app: Celery, kv: Client) -> None:
    """The last task of a chord deletes its counter while others may set its end."""
    app.backend.expire("none", 60)
    assert kv.count() == 0


def test_result_that_is_too_large_fails_its_task(app: Celery) -> None:
    """Else a caller would wait for ever: the task is done, and has no result."""

    @app.task(name="large")
    def large() -> str:
        return "x" * 2_000_000

    app.set_current()
    app.finalize()
    with start_worker(app, perform_ping_check=False, pool="solo"), pytest.raises(Exception, match="the limit is"):
        large.delay().get(timeout=LIMIT_S)


def test_once_task_waits_for_a_cluster_that_is_away(app: Celery, syncline_cluster: ProcessCluster) -> None:
    """The broker has given its message away: if the task failed now, the run would be lost."""
    app.conf.syncline_options = {"timeout": 0.2}
    ran: list[str] = []

    @app.task(name="tick", base=OnceTask)
    def tick() -> None:
        ran.append("once")

    for node in range(len(syncline_cluster.endpoints)):
        syncline_cluster.kill(node)
    deliveries = [threading.Thread(target=tick.apply, kwargs={"headers": {RUN_HEADER: "run"}}) for _ in range(2)]
    for delivery in deliveries:
        delivery.start()
    syncline_cluster.heal()
    for delivery in deliveries:
        delivery.join(LIMIT_S)
    assert ran == ["once"]
    app.conf.syncline_claim_wait = 0.2
    app.conf.syncline_url = f"http://127.0.0.1:{free_block(1)}"
    del app._syncline_client
    with pytest.raises(OperationError):
        tick.apply(headers={RUN_HEADER: "another"}).get()
    assert ran == ["once"]


def test_beat_without_a_cluster_tries_again() -> None:
    app = application(f"http://127.0.0.1:{free_block(1)}")
    app.conf.syncline_options = {"timeout": 0.5}
    beat = Scheduler(app)
    assert beat.tick() == 1.0
    assert beat.tick() == 1.0
    beat.close()


def test_beat_sends_what_the_broker_could_not_take_when_it_is_back(
    beat: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    away = True

    def send(name: str, *_: object, **options: object) -> None:
        if away:
            raise OperationalError("the broker is away")
        sent.append(str(options["task_id"]))

    monkeypatch.setattr(beat.app, "send_task", send)
    while not beat._sending:
        beat.tick()
    [run] = beat._sending.values()
    assert not sent
    away = False
    beat.tick()
    assert sent[0] == run
    assert "tick" not in beat._sending or beat._sending["tick"] != run


def test_beat_does_not_wait_for_a_last_run_in_the_future(beat: Scheduler, kv: Client) -> None:
    """Another host has run it, whose clock was years ahead. What is no state at all stops nothing."""
    kv.put("beat/beat/entries/odd", b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"}")
    kv.put("beat/beat/entries/tick", b'{"last_run_at":"2099-01-01T00:00:00+00:00","total_run_count":7}')
    beat.tick()
    assert beat.schedule["tick"].last_run_at.year < 2099
    found = kv.get("beat/beat/entries/tick")
    assert found is not None
    assert b"2099" not in found.value


def test_beat_leaves_out_an_entry_whose_name_no_key_can_have(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store would refuse its state, and the states of all others with it, at each tick."""
    sent: list[object] = []
    monkeypatch.setattr(app, "send_task", lambda name, *_, **__: sent.append(name))
    bad: list[object] = ["x" * 1100, "\udcff", 7]
    app.conf.beat_schedule = {
        **{name: {"task": "bad", "schedule": 0.01} for name in bad},
        "tick": {"task": "tick", "schedule": 0.01},
    }
    beat = Scheduler(app)
    try:
        while len(sent) < 2:
            assert beat.tick() < 1.0, "it does not wait for the store"
        assert set(sent) == {"tick"}
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        named = [error.split(" is left out")[0] for error in errors]
        assert sorted(named) == sorted(f"beat: the entry {repr(name)[:80]}" for name in bad)
    finally:
        beat.close()


def test_beat_leaves_out_a_run_that_can_never_be_sent(beat: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*_: object, **__: object) -> None:
        raise TypeError("not to be encoded")

    monkeypatch.setattr(beat.app, "send_task", send)
    while beat.schedule["tick"].total_run_count < 2:
        beat.tick()
    assert not beat._sending


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("syncline_beat_name", 7, "must be text"),
        ("syncline_beat_ttl", "soon", "must be a number of seconds"),
    ],
)
def test_beat_with_a_bad_setting_is_refused(name: str, value: object, text: str) -> None:
    app = application("http://127.0.0.1:1")
    app.conf[name] = value
    with pytest.raises(ConfigError, match=text):
        Scheduler(app)
