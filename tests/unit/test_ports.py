"""Free ports: tests that run side by side get different ones."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from syncline.testing.ports import HIGHEST, LOWEST, free_block

BLOCKS = 40
SIZE = 16


def test_ports_of_processes_side_by_side_differ() -> None:
    program = f"""from syncline.testing.ports import free_block
for _ in range({BLOCKS}):
    print(free_block({SIZE}), flush=True)"""
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    given = [int(line) for process in processes for line in process.communicate()[0].split()]
    ports = [port for first in given for port in range(first, first + SIZE)]
    assert len(given) == 3 * BLOCKS
    assert len(set(ports)) == len(ports)


def test_ports_in_use_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = free_block(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 2))
        second = free_block(2)
    assert second >= first + 4


@pytest.mark.parametrize("said", [b"", b"x", b"99999", b"-1111", b"31999", b"0"])
def test_free_block_begins_again_after_a_position_without_meaning(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free_block(2)
    (position,) = tmp_path.iterdir()
    position.write_bytes(said)
    assert LOWEST <= free_block(2) <= HIGHEST - 2
