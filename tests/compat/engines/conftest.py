"""Fixtures of the tests of engines on real servers. What is missing is said at the end of the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from syncline.engines import contact, snapshots
from tests.compat.engines.servers import (
    EtcdServers,
    PostgresServer,
    etcd_servers,
    has_etcd,
    has_pgbouncer,
    postgres_programs,
    postgres_server,
)

LIBRARIES: Final = ("aetcd", "psycopg")

missing_libraries = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing_libraries else []  # then this is not the environment of `make compat`

SCALED: Final = {"RECORDS": 40, "MOST_RECORDS": 40, "KEPT_RECORDS": 4}


def missing_text() -> str:
    """The servers that these tests need, and this machine does not have."""
    missing = [] if has_etcd() else ["etcd (Debian: etcd-server)"]
    missing += [] if postgres_programs() else ["PostgreSQL (Debian: postgresql)"]
    return ", ".join(missing + ([] if has_pgbouncer() else ["PgBouncer (Debian: pgbouncer)"]))


@pytest.fixture(scope="session")
def etcd_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """One etcd. A test may kill it, and starts it again."""
    _need("etcd", has_etcd())
    with etcd_servers(tmp_path_factory.mktemp("etcd")) as servers:
        yield servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL. A test may kill it, and starts it again."""
    programs = postgres_programs()
    _need("PostgreSQL", programs is not None)
    assert programs is not None
    with postgres_server(programs) as server:
        yield server


@pytest.fixture
def with_pgbouncer() -> None:
    """PgBouncer is installed."""
    _need("PgBouncer", has_pgbouncer())


@pytest.fixture
def etcd_three(tmp_path: Path) -> Iterator[EtcdServers]:
    """Three etcd nodes."""
    _need("etcd", has_etcd())
    with etcd_servers(tmp_path, 3) as servers:
        yield servers


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and snapshots after few records."""
    monkeypatch.setattr(contact, "FIRST_PAUSE_S", 0.01)
    for name, value in SCALED.items():
        monkeypatch.setattr(snapshots, name, value)


def _need(server: str, there: bool) -> None:
    if not there:
        pytest.skip(f"{server} is not installed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly: a skipped test is easily overlooked."""
    if not missing_libraries and (text := missing_text()):
        terminalreporter.section("not all engines were checked", sep="!", red=True, bold=True)
        terminalreporter.line(f"missing: {text}", red=True)
