"""The long commands of the handbook, with real nodes: three machines with TLS, and a dead machine that is replaced."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.ports import free_block
from tests.helpers.process_cluster import Node, eventually, running_cluster

PAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "operations"
LIMIT_S: Final = 60.0


def commands(page: str, section: str) -> list[str]:
    """The commands of one section of a page."""
    text = (PAGES / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\$ (syncline .*)$", text, re.MULTILINE)
    assert found, section
    return found


def run(line: str, path: Path) -> str:
    command = [sys.executable, "-m", *shlex.split(line)]
    ran = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ran.returncode == 0, (line, ran)
    return ran.stdout


def start(line: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *shlex.split(line)], cwd=path, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.deadline(150.0)
@pytest.mark.timeout(180)
async def test_handbook_three_machines_serve_with_tls_and_secret(tmp_path: Path) -> None:
    """The three addresses become ports of this machine. Each machine has a directory of its own files."""
    port = free_block(6)
    children = []

    def here(line: str, number: int) -> str:
        """The command of node n1 for another node, on this machine."""
        if line.startswith("syncline serve"):
            line = re.sub(r"--name n1 ", f"--name n{number} ", line).replace(
                "--data-dir data", f"--data-dir data{number}"
            )
            line = re.sub(r"(listen )10\.0\.0\.1:", rf"\g<1>10.0.0.{number}:", line)
        line = re.sub(r"10\.0\.0\.(\d):8080", lambda match: f"127.0.0.1:{port + int(match[1]) - 1}", line)
        line = re.sub(r"10\.0\.0\.(\d):7100", lambda match: f"127.0.0.1:{port + 2 + int(match[1])}", line)
        return re.sub(r"10\.0\.0\.\d", "127.0.0.1", line)

    try:
        for line in commands("three-machines.md", "On one machine: the secret and the certificates"):
            run(here(line, 1), tmp_path)
        (serve,) = commands("three-machines.md", "On each machine: start the node")
        children = [start(here(serve, number), tmp_path) for number in (1, 2, 3)]
        status, put, health = commands("three-machines.md", "From any machine: look and write")

        async def well() -> bool:
            line = [sys.executable, "-m", *shlex.split(here(health, 1))]
            ran = await asyncio.to_thread(subprocess.run, line, cwd=tmp_path, capture_output=True, timeout=LIMIT_S)
            return ran.returncode == 0

        await eventually("the cluster is healthy", well, deadline_s=60.0)
        run(here(put, 1), tmp_path)
        assert all(f"n{number}" in run(here(status, 1), tmp_path) for number in (1, 2, 3))
    finally:
        for child in children:
            child.kill()
            child.wait(LIMIT_S)


@pytest.mark.slow
@pytest.mark.deadline(150.0)
@pytest.mark.timeout(180)
async def test_handbook_dead_machine_is_replaced_by_one_command(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path / "nodes")) as cluster:
        async with cluster.client() as client:
            await client.put("before", "1")
        dead = cluster.node("n2")
        dead.kill()
        repair, serve = commands("backup.md", "A dead machine")
        port = free_block(2)
        places = {"127.0.0.1:8081": cluster.node("n1").http, "127.0.0.1:8083": cluster.node("n3").http,
                  "127.0.0.1:7106": f"127.0.0.1:{port}", "127.0.0.1:8086": f"127.0.0.1:{port + 1}"}  # fmt: skip
        for old, new in places.items():
            repair, serve = repair.replace(old, new), serve.replace(old, new)
        run(repair, tmp_path)
        child = start(serve, tmp_path)
        try:
            reader = Node("n2", str(tmp_path), port, {})
            reader.url = f"http://127.0.0.1:{port + 1}"

            async def votes() -> bool:
                async with cluster.node("n1").client() as client:
                    members = (await client.members()).members
                    return [member.role for member in members] == ["voter"] * 3

            await eventually("the new node votes", votes)
            async with reader.client() as client:
                found = await client.get("before")
                assert found is not None
                assert found.value == b"1"
        finally:
            child.kill()
            child.wait(LIMIT_S)
