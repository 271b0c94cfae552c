"""Copies and mirrors between a real etcd and a cluster of ours."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from syncline.client import Client
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.etcdctl import Etcdctl
from tests.compat.waiting import until
from tests.helpers.command import environment, syncline

KEYS = 300
PASSWORD = "a password"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def theirs(etcdctl: str, etcd: str) -> Etcdctl:
    """etcdctl of the real etcd, which has no keys and no leases."""
    ctl = Etcdctl(etcdctl, [etcd])
    ctl("del", "", "--from-key")
    for line in ctl("lease", "list").splitlines()[1:]:
        ctl("lease", "revoke", line)
    return ctl


def contents(ctl: Etcdctl) -> dict[bytes, tuple[bytes, int]]:
    """All keys with value and lease."""
    found = json.loads(ctl("get", "", "--from-key", "-w", "json"))
    return {
        base64.b64decode(one["key"]): (base64.b64decode(one.get("value", "")), one.get("lease", 0))
        for one in found.get("kvs", [])
    }


def ours(kv: Client) -> dict[bytes, tuple[bytes, int]]:
    return {item.key: (item.value or b"", item.lease) for item in kv.scan(values=True)}


def test_import_from_a_real_etcd(theirs: Etcdctl, etcd: str, kv: Client, syncline_cluster: ProcessCluster) -> None:
    """Keys with and without a value, and a lease with its id."""
    lease = theirs("lease", "grant", "300").split()[1]
    theirs("put", "--lease", lease, "leased", "1")
    theirs("put", "empty", "")
    for at in range(KEYS):
        kv.put(f"many/{at:03}", b"%d" % at)
    filled = syncline("export", "--to-etcd", etcd, endpoints=syncline_cluster.endpoints[0])
    assert (filled.status, filled.err) == (0, "")
    syncline_cluster.clear()
    ran = syncline("import", "--from-etcd", etcd, "--json", endpoints=syncline_cluster.endpoints[0])
    assert (ran.status, ran.err) == (0, "")
    assert ours(kv) == contents(theirs)
    assert len(ours(kv)) == KEYS + 2
    assert kv.lease_details(lease.rjust(16, "0")).granted_ttl_s == 300.0


def test_export_to_a_real_etcd_with_users(
    theirs: Etcdctl, etcd: str, kv: Client, syncline_cluster: ProcessCluster, tmp_path: Path
) -> None:
    every_byte = bytes(range(256))
    kv.put(every_byte, every_byte)
    lease = kv.put("leased", b"1", ttl=200).lease
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    theirs("user", "add", f"root:{PASSWORD}")
    theirs("user", "grant-role", "root", "root")
    theirs("auth", "enable")
    try:
        with environment({"SYNCLINE_ETCD_PASSWORD_FILE": str(password)}):
            arguments = ("export", "--to-etcd", etcd, "--etcd-user", "root")
            ran = syncline(*arguments, endpoints=syncline_cluster.endpoints[0])
        assert (ran.status, ran.err) == (0, "")
    finally:
        theirs("--user", f"root:{PASSWORD}", "auth", "disable")
        theirs("user", "delete", "root")
    assert contents(theirs) == ours(kv)
    assert "granted with TTL(200s)" in theirs("lease", "timetolive", lease)


@pytest.mark.parametrize("way", ["in", "out"])
def test_make_mirror(
    way: str, theirs: Etcdctl, etcd: str, etcdctl: str, kv: Client, syncline_cluster: ProcessCluster, tmp_path: Path
) -> None:
    """`etcdctl make-mirror` copies what is there, then each change, until it is stopped. Leases are not its concern."""
    del kv  # it empties the cluster
    own = Etcdctl(etcdctl, syncline_cluster.endpoints)
    source, target = (theirs, own) if way == "in" else (own, theirs)
    place = syncline_cluster.endpoints[0] if way == "in" else etcd
    for at in range(5):
        source("put", f"m/{at}", f"{at}")
    source("put", "other", "left out")
    with (tmp_path / "log").open("wb") as log, source.started("make-mirror", "--prefix", "m/", place, output=log):
        until("what was there is copied", lambda: len(contents(target)) == 5)
        source("put", "m/5", "later")
        source("del", "m/0")
        source("put", "m/1", "changed")
        expected = {key: value for key, value in contents(source).items() if key.startswith(b"m/")}
        until("the changes are copied", lambda: contents(target) == expected)
