"""First light: a real tree of files through the whole house, with real processes, real disks and `kill -9`."""

from __future__ import annotations

import asyncio
import json
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.process_cluster import Node, eventually, running_cluster

FILES: Final = 2000
VALUE_LIMIT: Final = 1 << 20


def source_tree(target: Path) -> dict[str, bytes]:
    """So many source files: Python's own, in copies where this installation has fewer."""
    library = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, Path]] = []
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        ours = path.is_file() and not path.is_symlink() and path.stat().st_size <= VALUE_LIMIT
        if ours and "site-packages" not in relative.parts:
            found.append((relative.as_posix(), path))
    assert found
    files: dict[str, bytes] = {}
    while len(files) < FILES:
        copy, at = divmod(len(files), len(found))
        name, path = found[at]
        files[f"copy{copy}/{name}"] = path.read_bytes()
    for name, data in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return files


async def command(*arguments: str, timeout_s: float = 100.0) -> tuple[int, bytes, bytes]:
    """Run `syncline ARGUMENTS…` as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "syncline", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out, err


def tree_at(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def exported(node: Node, target: Path) -> dict[str, bytes]:
    status, out, err = await command("export", str(target), "--json", "--endpoints", node.url)
    assert status == 0, (out, err)
    return tree_at(target)


@pytest.mark.deadline(110.0)
async def test_import_by_a_follower_survives_the_leaders_death(
    tmp_path: Path,
) -> None:
    files = source_tree(tmp_path / "source")
    assert len(files) >= FILES
    async with running_cluster(str(tmp_path / "cluster")) as cluster:
        leader = await cluster.leader()
        through, other = await cluster.followers()
        arguments = ("import", str(tmp_path / "source"), "--json", "--endpoints", through.url)
        importing = asyncio.create_task(command(*arguments))
        async with other.client(timeout=10.0) as client:

            async def half_way() -> bool:
                return await client.count("copy") >= len(files) // 2

            await eventually("half of the files are there", half_way, deadline_s=60.0)
            leader.kill()
            assert await client.count("copy") < len(files), "the leader died after the import, not half-way"
        status, out, err = await importing
        assert status == 0, (out, err)
        assert json.loads(out)["imported"] == len(files)

        leader.start()
        await cluster.wait_ready()
        for node in cluster.nodes:
            assert await exported(node, tmp_path / f"from-{node.name}") == files
