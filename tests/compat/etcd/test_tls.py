"""etcd's clients over TLS: etcdctl by gRPC; etcd3gw, Patroni's layer and a bare client by the JSON gateway.

aetcd has no TLS.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from etcd3gw.client import Etcd3Client
from patroni.dcs import get_dcs

from tests.compat.etcd.etcdctl import Etcdctl
from tests.helpers.ports import free_block

SYNCLINE = (sys.executable, "-m", "syncline")
LIMIT_S = 120.0
NODES = 3

pytestmark = pytest.mark.timeout(300)


class SecureCluster(NamedTuple):
    """Three nodes that take TLS alone."""

    ports: list[int]
    authority: str

    @property
    def endpoints(self) -> list[str]:
        return [f"https://127.0.0.1:{port}" for port in self.ports]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    """What `syncline up --tls` starts."""
    directory = tmp_path_factory.mktemp("tls") / "data"
    port = free_block(100 + NODES)
    where = ("--data-dir", str(directory))
    command = [*SYNCLINE, "up", "-d", "--tls", "--nodes", str(NODES), "--port", str(port), *where]
    started = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert started.returncode == 0, started.stderr
    try:
        yield SecureCluster([port + at for at in range(NODES)], str(directory / "certs" / "ca.pem"))
    finally:
        subprocess.run([*SYNCLINE, "down", *where], capture_output=True, timeout=LIMIT_S, check=True)


def posted(cluster: SecureCluster, route: str, body: dict[str, Any], *, authority: str = "") -> dict[str, Any]:
    """The answer of the second node's gateway, by a client that knows nothing of etcd."""
    context = ssl.create_default_context(cafile=authority or cluster.authority)
    request = urllib.request.Request(f"{cluster.endpoints[1]}/v3/{route}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_etcd_clients_see_one_store_over_tls(
    etcdctl: str, secure: SecureCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each client writes a key by another node, and each sees all of them: etcdctl by gRPC, the others by JSON."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)  # to `requests` they count more than `ca_cert`
    ctl = Etcdctl(etcdctl, secure.endpoints, "--cacert", secure.authority)
    assert ctl("put", "tls/ctl", "1") == "OK\n"

    address = {"host": "127.0.0.1", "port": secure.ports[2]}
    client = Etcd3Client(**address, protocol="https", ca_cert=secure.authority, timeout=10)
    lease = client.lease(ttl=60)
    assert client.put("tls/gw", "2", lease)
    assert lease.refresh() == 60
    events, cancel = client.watch_prefix("tls/", start_revision=1)
    assert [next(events)["kv"]["value"] for _ in range(2)] == [b"1", b"2"]

    key, value = (base64.b64encode(text).decode() for text in (b"tls/http", b"3"))
    assert int(posted(secure, "kv/put", {"key": key, "value": value})["header"]["revision"]) > 0
    assert next(events)["kv"]["value"] == b"3"
    cancel()

    assert [one[0] for one in client.get_prefix("tls/")] == [b"1", b"2", b"3"]
    assert ctl("get", "--prefix", "tls/", "--print-value-only").split() == ["1", "2", "3"]
    healthy = ctl("endpoint", "health", "--cluster", "-w", "json")
    assert [one["health"] for one in json.loads(healthy)] == [True] * NODES, "the members' URLs are of TLS, too"


def test_patroni_takes_the_leader_key_over_tls(secure: SecureCluster) -> None:
    logging.getLogger("patroni").setLevel(logging.CRITICAL)
    hosts = [f"127.0.0.1:{port}" for port in secure.ports]
    store = {"hosts": hosts, "protocol": "https", "cacert": secure.authority}
    timers = {"ttl": 20, "retry_timeout": 10, "loop_wait": 1}
    one, two = (get_dcs({"name": name, "scope": "tls", "etcd3": store, **timers}) for name in ("one", "two"))
    assert one.touch_member({"state": "running", "conn_url": "postgres://one", "xlog_location": 1})
    assert one.attempt_to_acquire_leader()
    assert not two.attempt_to_acquire_leader()
    assert two.get_cluster().leader.name == "one"


def test_etcd_client_of_another_authority_is_refused(etcdctl: str, secure: SecureCluster, tmp_path: Path) -> None:
    """It does not know the nodes' authority. A client without TLS is told nothing either."""
    command = [*SYNCLINE, "certs", "ca", "--dir", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    assert made.returncode == 0, made.stderr
    foreign = str(tmp_path / "ca.pem")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        posted(secure, "kv/range", {"key": "YQ=="}, authority=foreign)
    short = ("--dial-timeout", "1s", "--command-timeout", "2s")
    assert Etcdctl(etcdctl, secure.endpoints, "--cacert", foreign, *short).tried("get", "a") == ""
    plain = [endpoint.replace("https://", "http://") for endpoint in secure.endpoints]
    assert Etcdctl(etcdctl, plain, *short).tried("get", "a") == ""
    assert Etcdctl(etcdctl, secure.endpoints, "--cacert", secure.authority)("put", "a", "b") == "OK\n"
