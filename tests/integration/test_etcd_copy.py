"""`import --from-etcd` and `export --to-etcd`: keys and leases of one revision, and errors that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from syncline.client import AsyncClient
from syncline.server.app import KvServer
from tests.helpers.command import Ran, environment, syncline
from tests.helpers.etcd_double import EtcdDouble, EtcdStored
from tests.helpers.http_server import HttpDouble, Reply, refused_url, scripted
from tests.unit.test_server_app import settings

LEASE = 0x7000_0000_0000_0123
OTHER_LEASE = 0x22
EVERY_BYTE = bytes(range(256))


@asynccontextmanager
async def both(etcd: EtcdDouble, tmp_path: Path) -> AsyncIterator[tuple[HttpDouble, AsyncClient]]:
    """The double of etcd, and a client of a server of ours."""
    async with (
        HttpDouble(etcd) as double,
        KvServer.open(settings(tmp_path)) as server,
        AsyncClient(server.http_url) as kv,
    ):
        yield double, kv


async def run(kv: AsyncClient, *arguments: str, variables: Mapping[str, str] | None = None) -> Ran:
    def call() -> Ran:
        with environment(variables or {}):
            return syncline(*arguments, endpoints=kv.endpoints[0])

    return await asyncio.to_thread(call)


async def keys_of(kv: AsyncClient) -> dict[bytes, EtcdStored]:
    return {item.key: EtcdStored(item.value or b"", item.lease) async for item in kv.scan(values=True)}


def many(count: int) -> dict[bytes, EtcdStored]:
    return {b"many/%04d" % at: EtcdStored(b"%d" % at) for at in range(count)}


async def test_etcd_import_copies_keys_and_leases(tmp_path: Path) -> None:
    """More keys than a page has, each byte value, an empty value, and two leases of which one has no keys."""
    etcd = EtcdDouble(
        keys={
            **many(250),
            EVERY_BYTE: EtcdStored(EVERY_BYTE),
            b"\xff\xff": EtcdStored(b""),
            b"leased": EtcdStored(b"1", LEASE),
        },
        leases={LEASE: 300, OTHER_LEASE: 60},
    )
    size_bytes = sum(len(stored.value) for stored in etcd.keys.values())
    async with both(etcd, tmp_path) as (double, kv):
        ran = await run(kv, "import", "--from-etcd", double.url)
        assert (ran.status, ran.err) == (0, "")
        assert ran.text.splitlines() == [
            f"imported 253 keys, {size_bytes} bytes, 2 leases from {double.url}, as of revision 1",
            "revisions and versions are not kept: the keys have new ones; the time of each lease begins again",
        ]
        assert etcd.pages > 3
        assert await keys_of(kv) == etcd.keys
        found = {lease.id: (lease.granted_ttl_s, lease.keys) for lease in await kv.leases()}
        assert found == {f"{LEASE:016x}": (300.0, 1), f"{OTHER_LEASE:016x}": (60.0, 0)}


async def test_etcd_import_again_is_harmless(tmp_path: Path) -> None:
    """A lease that is here already gets its full time; keys that etcd does not have stay."""
    etcd = EtcdDouble(keys={b"a": EtcdStored(b"1", LEASE)}, leases={LEASE: 300})
    async with both(etcd, tmp_path) as (double, kv):
        await kv.put("own", b"stays")
        for _ in range(2):
            assert (await run(kv, "import", "--from-etcd", double.url)).status == 0
        assert await keys_of(kv) == {**etcd.keys, b"own": EtcdStored(b"stays")}
        assert (await kv.lease_details(LEASE)).keys == (b"a",)


async def test_etcd_import_is_of_one_revision(tmp_path: Path) -> None:
    """What is written between two pages is not in the copy, not even in parts."""
    etcd = EtcdDouble(keys=many(200))
    before = dict(etcd.keys)

    def write() -> None:
        etcd.write({b"many/0000": EtcdStored(b"new"), b"many/0150": None, b"many/9999": EtcdStored(b"new")})

    etcd.after_page = write
    async with both(etcd, tmp_path) as (double, kv):
        ran = await run(kv, "import", "--from-etcd", double.url, "--json")
        assert {name: ran.json()[name] for name in ("imported", "source_revision", "revisions_kept")} == {
            "imported": 200,
            "source_revision": 1,
            "revisions_kept": False,
        }
        assert await keys_of(kv) == before


async def test_etcd_import_of_a_compacted_revision_fails(tmp_path: Path) -> None:
    etcd = EtcdDouble(keys=many(200))

    def compact() -> None:
        etcd.compacted = 2

    etcd.after_page = compact
    async with both(etcd, tmp_path) as (double, kv):
        ran = await run(kv, "import", "--from-etcd", double.url)
        assert ran.status == 1
        assert "required revision has been compacted; " in ran.error()
        assert ran.error().endswith("keys were done before it, run it again for the rest")


async def test_etcd_import_with_a_prefix_leaves_the_rest(tmp_path: Path) -> None:
    etcd = EtcdDouble(
        keys={b"a/1": EtcdStored(b"1", LEASE), b"a\xff": EtcdStored(b"2"), b"b": EtcdStored(b"3", OTHER_LEASE)},
        leases={LEASE: 300, OTHER_LEASE: 300},
    )
    async with both(etcd, tmp_path) as (double, kv):
        assert (await run(kv, "import", "--from-etcd", double.url, "--prefix", "a/")).status == 0
        assert await keys_of(kv) == {b"a/1": EtcdStored(b"1", LEASE)}
        assert [lease.id for lease in await kv.leases()] == [f"{LEASE:016x}"]


async def test_etcd_import_skips_keys_of_an_ended_lease(tmp_path: Path) -> None:
    """The revision that is read has the key still; the lease has ended since, and etcd has deleted the key."""
    etcd = EtcdDouble(keys={b"gone": EtcdStored(b"1", LEASE), b"here": EtcdStored(b"2")})
    async with both(etcd, tmp_path) as (double, kv):
        ran = await run(kv, "import", "--from-etcd", double.url)
        assert ran.status == 0
        assert ran.err == "skipped: gone: its lease has ended meanwhile\n"
        assert await keys_of(kv) == {b"here": EtcdStored(b"2")}


async def test_etcd_import_reports_a_key_that_is_refused(tmp_path: Path) -> None:
    etcd = EtcdDouble(keys={b"a": EtcdStored(b"1"), b"k" * 5000: EtcdStored(b"2"), b"z": EtcdStored(b"3")})
    async with both(etcd, tmp_path) as (double, kv):
        ran = await run(kv, "import", "--from-etcd", double.url)
        assert ran.status == 1
        assert "failed: kkk" in ran.err
        assert ran.err.endswith("syncline: 1 key was not imported\n")
        assert sorted(await keys_of(kv)) == [b"a", b"z"]


async def test_etcd_import_logs_in_and_again(tmp_path: Path) -> None:
    """etcd's tokens end after minutes: one that is refused in between is replaced."""
    etcd = EtcdDouble(keys=many(200), user=("root", "a password"))
    etcd.after_page = etcd.end_token
    password = tmp_path / "password"
    password.write_text("a password\n")
    password.chmod(0o600)
    wrong = tmp_path / "wrong"
    wrong.write_text("another\n")
    wrong.chmod(0o600)
    async with both(etcd, tmp_path) as (double, kv):
        arguments = ("import", "--from-etcd", double.url, "--etcd-user", "root")
        ran = await run(kv, *arguments, variables={"SYNCLINE_ETCD_PASSWORD_FILE": str(wrong)})
        assert ran.status == 2
        assert "authentication failed, invalid user ID or password" in ran.error()
        ran = await run(kv, *arguments, variables={"SYNCLINE_ETCD_PASSWORD_FILE": str(password)})
        assert (ran.status, ran.err) == (0, "")
        assert etcd.logins > 2
        assert await keys_of(kv) == etcd.keys


async def test_etcd_export_copies_keys_and_leases(tmp_path: Path) -> None:
    """What is exported has the ids of the leases; a time to live of a part of a second is rounded up."""
    etcd = EtcdDouble()
    async with both(etcd, tmp_path) as (double, kv):
        expected = {**many(250), EVERY_BYTE: EtcdStored(EVERY_BYTE), b"\xff": EtcdStored(b"")}
        await kv.put_many({key: stored.value for key, stored in expected.items()})
        await kv.grant_lease(300, lease=LEASE)
        await kv.grant_lease(60, lease=OTHER_LEASE)
        await kv.put("leased", b"1", lease=LEASE)
        own = int((await kv.put("own", b"2", ttl=100.5)).lease, 16)
        expected |= {b"leased": EtcdStored(b"1", LEASE), b"own": EtcdStored(b"2", own)}
        revision = (await kv.list(limit=1)).revision
        for _ in range(2):
            ran = await run(kv, "export", "--to-etcd", double.url)
            assert (ran.status, ran.err) == (0, "")
            assert ran.text.startswith(f"exported {len(expected)} keys, ")
            assert ran.text.splitlines()[0].endswith(f"3 leases to {double.url}, as of revision {revision}")
            assert etcd.keys == expected
            assert etcd.leases == {LEASE: 300, OTHER_LEASE: 60, own: 101}
        assert sorted(etcd.kept_alive) == sorted(etcd.leases), "the second run gives them their full time"


async def test_etcd_export_reports_a_key_that_is_refused(tmp_path: Path) -> None:
    """etcd refuses the transaction as a whole: its other keys are written all the same."""
    etcd = EtcdDouble(most_bytes=1000)
    async with both(etcd, tmp_path) as (double, kv):
        await kv.put_many({f"k{at}": b"x" * (1001 if at == 5 else 300) for at in range(10)})
        ran = await run(kv, "export", "--to-etcd", double.url)
        assert ran.status == 1
        assert ran.err.splitlines() == [
            "failed: k5: etcd: etcdserver: request is too large",
            "syncline: 1 key was not exported",
        ]
        assert len(etcd.keys) == 9


async def test_etcd_copy_errors_name_the_fault(tmp_path: Path) -> None:
    async with both(EtcdDouble(version="3.3.10"), tmp_path) as (double, kv):
        ran = await run(kv, "import", "--from-etcd", double.url)
        assert ran.status == 1
        assert "is etcd 3.3.10: 3.4 is the oldest version" in ran.error()
        async with HttpDouble(scripted(Reply(200, b"<html>"))) as other:
            ran = await run(kv, "import", "--from-etcd", other.url)
            assert "the answer is none of etcd's" in ran.error()
        ran = await run(kv, "export", "--to-etcd", refused_url())
        assert ran.status == 4
        assert "connection refused" in ran.error()


def test_etcd_copy_takes_one_place() -> None:
    for arguments in (
        ("import",),
        ("import", ".", "--from-etcd", "http://127.0.0.1:2379"),
        ("export",),
        ("export", ".", "--to-etcd", "http://127.0.0.1:2379"),
        ("export", ".", "--etcd-user", "root"),
        ("import", "--from-etcd", "http://127.0.0.1:2379", "--concurrency", "3"),
    ):
        ran = syncline(*arguments)
        assert ran.status == 2, arguments
        assert "etcd" in ran.err


def test_etcd_that_is_not_reached_gets_no_advice_about_a_cluster_of_ours() -> None:
    ran = syncline("import", "--from-etcd", refused_url())
    assert ran.status == 4
    assert "can't reach" in ran.err
    assert "syncline up" not in ran.err
