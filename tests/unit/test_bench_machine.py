"""What a bench says about the machine, on one that can't tell everything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.machine import describe, filesystem


def findmnt(directory: Path, script: str) -> None:
    """Make a `findmnt` that does this."""
    command = directory / "findmnt"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('[ "$5" = /data ] && echo "ext4   /dev/sda1"', ("ext4", "/dev/sda1")),
        ("echo tmpfs", ("tmpfs", "unknown")),
        ("exit 1", ("unknown", "unknown")),
        (None, ("unknown", "unknown")),
    ],
    ids=["it tells", "half of it", "no mount point", "no findmnt"],
)
def test_what_can_not_be_told_of_a_filesystem_is_unknown(
    script: str | None, told: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        findmnt(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert filesystem("/data") == told


def test_a_machine_that_can_not_tell_its_filesystem_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert describe(str(tmp_path))[-1] == "data on unknown (unknown)"
