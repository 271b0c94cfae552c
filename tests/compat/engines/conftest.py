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
    postgres_programs,
    postgres_server,
)

SCALED: Final = {"RECORDS": 40, "MOST_RECORDS": 40, "KEPT_RECORDS": 4}


def missing_text() -> str:
    """What these tests need, and this machine does not have."""
    missing = [f"the library {name}" for name in ("aetcd", "psycopg") if importlib.util.find_spec(name) is None]
    if not has_etcd():
        missing.append("etcd (Debian: etcd-server)")
    if postgres_programs() is None:
        missing.append("PostgreSQL (Debian: postgresql)")
    return ", ".join(missing)


@pytest.fixture(scope="session")
def etcd_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """One etcd. A test may kill it, and starts it again."""
    _need("aetcd", has_etcd())
    with etcd_servers(tmp_path_factory.mktemp("etcd")) as servers:
        yield servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL. A test may kill it, and starts it again."""
    programs = postgres_programs()
    _need("psycopg", programs is not None)
    assert programs is not None
    with postgres_server(programs) as server:
        yield server


@pytest.fixture
def etcd_three(tmp_path: Path) -> Iterator[EtcdServers]:
    """Three etcd nodes."""
    _need("aetcd", has_etcd())
    with etcd_servers(tmp_path, 3) as servers:
        yield servers


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and snapshots after few records."""
    monkeypatch.setattr(contact, "FIRST_PAUSE_S", 0.01)
    for name, value in SCALED.items():
        monkeypatch.setattr(snapshots, name, value)


def _need(library: str, server: bool) -> None:
    if not server or importlib.util.find_spec(library) is None:
        pytest.skip(f"the engine's server or {library} is not installed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly: a skipped test is easily overlooked."""
    if text := missing_text():
        terminalreporter.section("not all engines were checked", sep="!", red=True, bold=True)
        terminalreporter.line(f"missing: {text}", red=True)
