"""Files that a node, a command or an operator reads, with random damage: an error in words, and never a traceback.

`SYNCLINE_TEST_ROUNDS` and `SYNCLINE_TEST_SEED` make it longer, or another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from syncline.cli.exits import EXIT_DAMAGED, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, EXIT_USAGE
from syncline.errors import SynclineError
from syncline.server.config import load_config
from tests.helpers.command import Ran, syncline
from tests.helpers.process_cluster import running_cluster

ROUNDS: Final = int(os.environ.get("SYNCLINE_TEST_ROUNDS", "60"))
SEED: Final = int(os.environ.get("SYNCLINE_TEST_SEED", "1"))
KNOWN: Final = {0, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, EXIT_DAMAGED}

CONFIG: Final = """\
name = "a"
data_dir = "data"
election_s = 2.0
peer_secret_file = "peer-secret"
join = ["http://127.0.0.1:8080"]
allowed_hosts = ["kv.example"]
"""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with a few bytes changed, removed, repeated or put in; or cut short; or something else."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.randrange(1, 64)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randrange(1, 64))
            case 3:
                changed[at:at] = changed[max(0, at - 40) : at]
            case 4:
                changed[at:] = b""
            case _:
                changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"9999", b"\x80\x00\x00\x00"))
    return bytes(changed)


def check(ran: Ran, what: str) -> None:
    assert "internal error" not in ran.err, (what, ran)
    assert "Traceback" not in ran.err, (what, ran)
    assert ran.status in KNOWN, (what, ran)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a stopped node, with a snapshot and a log; and a backup of its cluster."""
    path = tmp_path_factory.mktemp("fuzz")

    async def make() -> None:
        async with running_cluster(str(path), 1, segment_bytes="65536") as cluster:
            node = cluster.nodes[0]
            async with node.client(timeout=20.0) as client:
                await asyncio.gather(*(client.put(f"k{number}", b"v" * 200) for number in range(200)))
                await client.snapshot()
                await asyncio.gather(*(client.put(f"l{number}", b"v" * 200) for number in range(200)))
            saved = await asyncio.to_thread(syncline, "backup", "save", str(path / "backup"), endpoints=node.url)
            assert saved.status == 0, saved
            assert await asyncio.to_thread(node.stop) == 0

    asyncio.run(make())
    (path / "node.toml").write_text(CONFIG)
    return path


def commands(data: str, backup: str) -> list[tuple[str, ...]]:
    """What reads the files of a directory and changes nothing."""
    return [
        ("wal", "verify", "--data-dir", data),
        ("wal", "dump", "--data-dir", data, "--entries"),
        ("snapshot", "list", "--data-dir", data),
        ("snapshot", "verify", "--data-dir", data),
        ("snapshot", "inspect", "--data-dir", data),
        ("recover", "--data-dir", data, "--dry-run", "--timeout", "250ms"),
        ("backup", "verify", backup),
    ]


def each(directory: Path, rng: random.Random, look: Callable[[Path, str], None]) -> None:
    """Damage each file in turn, `ROUNDS` times in all, and put it back."""
    files = [path for path in (directory / "n1").rglob("*") if path.is_file() and path.stat().st_size]
    files += [directory / "backup", directory / "backup.sha256", directory / "node.toml"]
    for number in range(ROUNDS):
        path = files[number % len(files)]
        content = path.read_bytes()
        try:
            path.write_bytes(damaged(content, rng))
            look(path, f"seed {SEED}, round {number}, {path.name}")
        finally:
            path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_files_are_errors_in_words(directory: Path) -> None:
    rng = random.Random(SEED)
    seen: set[int] = set()

    def look(path: Path, what: str) -> None:
        for command in commands(str(directory / "n1"), str(directory / "backup")):
            ran = syncline(*command)
            check(ran, f"{what}: {' '.join(command)}")
            seen.add(ran.status)
        with contextlib.suppress(SynclineError):
            load_config(file=str(directory / "node.toml"), environment={})

    each(directory, rng, look)
    assert {0, EXIT_FAILED, EXIT_DAMAGED} & seen, seen


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_backup_is_restored_as_it_was_or_not_at_all(directory: Path, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    content = (directory / "backup").read_bytes()
    for number in range(ROUNDS):
        changed = damaged(content, rng)
        (tmp_path / "b").write_bytes(changed)
        target = tmp_path / "restored"
        ran = syncline("backup", "restore", str(tmp_path / "b"), "--data-dir", str(target), "--name", "n")
        check(ran, f"seed {SEED}, round {number}")
        assert (ran.status == 0) == (changed == content), f"round {number}: {ran}"
        assert ran.status == 0 or not target.exists() or not list(target.iterdir()), "nothing was made"
        shutil.rmtree(target, ignore_errors=True)
