"""The rendezvous for torchrun, without torch: what torch asks of a backend, and of a store of the workers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from syncline.client import Client
from syncline.contrib.torchrun import RendezvousState, WorkerKeys, client_for_run, get_handler, store_class
from syncline.errors import ConfigError, CorruptionError, Unreachable
from tests.helpers.doc_examples import PYTHON
from tests.helpers.site_server import site_in_thread


@pytest.fixture
def kv() -> Iterator[Client]:
    with site_in_thread() as site, Client(site.url) as client:
        yield client


@pytest.fixture
def backend(kv: Client) -> RendezvousState:
    return RendezvousState(kv, "run")


def test_rendezvous_without_a_state_has_none(backend: RendezvousState) -> None:
    assert backend.name == "syncline"
    assert backend.get_state() is None


def test_rendezvous_first_state_is_written_without_a_token(backend: RendezvousState) -> None:
    written = backend.set_state(b"x")
    assert written is not None
    assert (written[0], written[2]) == (b"x", True)
    assert backend.get_state() == written[:2]


def test_rendezvous_state_is_replaced_with_its_token_alone(backend: RendezvousState) -> None:
    first = backend.set_state(b"x")
    assert first is not None
    second = backend.set_state(b"y", first[1])
    assert second is not None
    assert (second[0], second[2]) == (b"y", True)
    assert second[1] != first[1]
    assert backend.set_state(b"z", first[1]) == (b"y", second[1], False)  # the token is old
    assert backend.get_state() == second[:2]


@pytest.mark.parametrize("token", [None, 999, 0, -1, "token", b"token", True, 1.5])
def test_rendezvous_state_stays_with_another_token(backend: RendezvousState, token: object) -> None:
    backend.set_state(b"a")
    present = backend.set_state(b"x", backend.get_state()[1])  # type: ignore[index]
    assert present is not None
    assert backend.set_state(b"y", token) == (b"x", present[1], False)
    assert backend.get_state() == present[:2]


def test_rendezvous_token_that_was_read_is_that_of_the_state(kv: Client, backend: RendezvousState) -> None:
    """Other keys are written meanwhile: those of the workers, say."""
    backend.set_state(b"x")
    kv.put("other", "1")
    read = backend.get_state()
    assert read is not None
    written = backend.set_state(b"y", read[1])
    assert written is not None
    assert written[2]


@pytest.mark.parametrize("token", [7, "token"])
def test_rendezvous_token_of_no_state_writes_nothing(backend: RendezvousState, token: object) -> None:
    assert backend.set_state(b"x", token) is None
    assert backend.get_state() is None


def test_rendezvous_of_many_nodes_has_one_winner_of_each_round(kv: Client) -> None:
    """Each adds itself with the token that it has read, until it has succeeded: none is lost."""

    def join(name: int) -> None:
        own = RendezvousState(kv, "run")
        while True:
            found = own.get_state()
            state, token = (b"", None) if found is None else found
            written = own.set_state(state + bytes([name]), token)
            if written is not None and written[2]:
                return

    threads = [threading.Thread(target=join, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = RendezvousState(kv, "run").get_state()
    assert found is not None
    assert sorted(found[0]) == list(range(8))


@pytest.mark.parametrize("value", [b"", b"x", b"rdzv1", b"rdzv1\0\0\0\1state", b"\x80\x04."])
def test_rendezvous_state_that_is_none_raises_the_error_of_torch(
    kv: Client, backend: RendezvousState, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv.put("torchrun/run/state", value)
    with pytest.raises(CorruptionError, match="torchrun/run/state has something else"):  # no torch here
        backend.get_state()
    error = torch_error(monkeypatch, "RendezvousStateError")
    for call in (backend.get_state, lambda: backend.set_state(b"x"), lambda: backend.set_state(b"x", "token")):
        with pytest.raises(error, match="has something else than the state of a rendezvous"):
            call()


def torch_error(monkeypatch: pytest.MonkeyPatch, name: str) -> type[Exception]:
    """Put an error of torch in its place: torch is not installed."""
    made = type(name, (Exception,), {})
    api = ModuleType("api")
    vars(api)[name] = made
    for parent in ("torch", "torch.distributed", "torch.distributed.elastic"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, "torch.distributed.elastic.rendezvous", ModuleType("rendezvous"))
    monkeypatch.setitem(sys.modules, "torch.distributed.elastic.rendezvous.api", api)
    return made


def test_rendezvous_without_a_cluster_raises_the_error_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client("http://127.0.0.1:1", timeout=0.3) as kv:
        backend = RendezvousState(kv, "run")
        with pytest.raises(Unreachable):  # no torch here
            backend.get_state()
        error = torch_error(monkeypatch, "RendezvousConnectionError")
        for call in (backend.get_state, lambda: backend.set_state(b"x")):
            with pytest.raises(error, match="Syncline cluster has failed"):
                call()


def test_rendezvous_without_a_run_id_is_refused(kv: Client) -> None:
    with pytest.raises(ConfigError, match="--rdzv-id"):
        RendezvousState(kv, "")


class Base:
    """In place of torch's `Store`."""

    def __init__(self) -> None:
        self.begun = True


def test_worker_store_has_the_calls_of_torch(kv: Client) -> None:
    store = store_class(Base)(WorkerKeys(kv, "run"))
    assert isinstance(store, Base)
    assert store.begun
    store.set("a", b"\xff")  # type: ignore[attr-defined]
    assert store.get("a") == b"\xff"  # type: ignore[attr-defined]
    assert store.get(key="a", timeout=timedelta(seconds=1)) == b"\xff"  # type: ignore[attr-defined]


def test_worker_keys_add_compare_and_delete(kv: Client) -> None:
    keys = WorkerKeys(kv, "run")
    assert [keys.add("n", 1), keys.add("n", 5), int(keys.get("n"))] == [1, 6, 6]
    assert all(item.lease for item in kv.list("torchrun/").items), "each has an end"
    kv.touch("torchrun/run/store/n", 60)
    assert keys.add("n", 0) == 6
    [item] = kv.list("torchrun/").items
    assert kv.lease_details(item.lease).ttl_s > 7000, "two hours after the last write"
    assert keys.compare_set("c", "", "first") == b"first"
    assert keys.compare_set("c", "other", "x") == b"first"
    assert keys.compare_set("c", "first", "second") == b"second"
    assert keys.compare_set("none", "expected", "x") == b"expected"
    assert (keys.check(["n", "c"]), keys.check(["n", "none"]), keys.num_keys()) == (True, False, 2)
    assert (keys.delete_key("n"), keys.delete_key("n")) == (True, False)
    assert WorkerKeys(kv, "other").num_keys() == 0


def test_worker_keys_add_to_a_key_that_is_deleted_meanwhile(kv: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, increment = WorkerKeys(kv, "run"), kv.increment

    def increment_and_delete(key: bytes, by: int) -> int:
        total = increment(key, by)
        kv.delete(key)
        return total

    monkeypatch.setattr(kv, "increment", increment_and_delete)
    assert keys.add("n", 3) == 3
    assert keys.num_keys() == 0


def test_worker_keys_wait_for_another_worker(kv: Client) -> None:
    keys = WorkerKeys(kv, "run")
    with pytest.raises(LookupError, match="not all of these keys"):
        keys.wait(["late"], timedelta(seconds=0.1))
    with pytest.raises(LookupError, match="after 0 s"):
        keys.wait(["late"], timedelta())
    thread = threading.Thread(target=keys.set, args=("late", "1"))
    thread.start()
    assert keys.get("late", timedelta(seconds=30)) == b"1"
    thread.join()


def test_worker_keys_wait_for_a_write_behind_the_look(kv: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the look at the keys and the begin of the watch; writes of other keys end no wait."""
    keys, get_many, looks = WorkerKeys(kv, "run"), kv.get_many, 0

    def look_and_write(asked: Collection[bytes]) -> Mapping[bytes, object]:
        nonlocal looks
        found = get_many(asked)
        looks += 1
        if looks == 2:
            for name in ("other", "another", "late"):
                keys.set(name, "1")
        return found

    monkeypatch.setattr(kv, "get_many", look_and_write)
    keys.wait(["late"], timedelta(seconds=30))
    assert looks == 3


class Parameters:
    """As torchrun gives them: all values of `--rdzv-conf` are text."""

    def __init__(self, endpoint: str, **conf: str) -> None:
        self.endpoint = endpoint
        self.run_id = "run"
        self._conf = conf

    def get(self, key: str, default: object = None) -> object:
        return self._conf.get(key, default)


def test_torchrun_endpoint_names_hosts_or_urls() -> None:
    with client_for_run(Parameters("a:8080, https://b:8081", timeout="3")) as kv:
        assert kv.endpoints == ["http://a:8080", "https://b:8081"]
    with pytest.raises(ConfigError, match="timeout is 'soon'"):
        client_for_run(Parameters("a:8080", timeout="soon"))


def test_torchrun_without_torch_names_what_is_missing() -> None:
    with pytest.raises(ImportError, match="torch"):
        get_handler()(Parameters("a:8080"))


def test_docs_of_torchrun_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "contrib" / "torchrun.md"
    [code] = PYTHON.findall(page.read_text())
    names: dict[str, Any] = {}
    exec(code, names)
    with site_in_thread() as site:
        names["main"](site.url)
    assert capsys.readouterr().out == "(b'two nodes', 2, True) (b'two nodes', 2)\n"
