"""Job 3: the memory of a control plane survives its machine. The example runs as it is written, on three nodes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import pytest
from examples.machines import control_plane
from examples.machines.control_plane import Jobs

from tests.helpers.ports import free_block
from tests.helpers.programs import running_command

ROOT: Final = Path(__file__).resolve().parents[2]

AS_WRITTEN: Final = """
    async with Jobs.open("cluster.toml") as jobs:
        await jobs.assign("t1", "w3")
"""


def test_control_plane_example_is_as_job_3_is_written() -> None:
    assert AS_WRITTEN in Path(control_plane.__file__).read_text()


async def test_control_plane_memory_survives_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_block(3)
    addresses = {name: f"127.0.0.1:{first + at}" for at, name in enumerate("abc")}
    members = "".join(f'{name} = "{address}"\n' for name, address in addresses.items())
    (tmp_path / "cluster.toml").write_text(f"election_s = 0.3\n[initial_cluster]\n{members}")
    monkeypatch.chdir(tmp_path)

    def settings(name: str) -> dict[str, str]:
        return {
            "SYNCLINE_NAME": name,
            "SYNCLINE_DATA_DIR": str(tmp_path / name),
            "SYNCLINE_PEER_LISTEN": addresses[name],
        }

    def opened(name: str) -> asyncio.Task[Jobs]:
        with monkeypatch.context() as here:
            for setting, value in settings(name).items():
                here.setenv(setting, value)
            return asyncio.create_task(Jobs.open("cluster.toml", timeout=20.0))

    arguments = [sys.executable, "-m", "examples.machines.control_plane"]
    environment = {**settings("a"), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    async with running_command(arguments, [], environment=environment, folder=tmp_path) as program:
        b, c = await asyncio.gather(opened("b"), opened("c"))
        said = await program.until("line")
        assert said["line"] == "t1 is with w3"
        program.kill()
        await program.ended()
    for jobs in (b, c):
        assert await jobs.worker("t1") == "w3"
    assert not await b.assign("t1", "w4")
    assert await c.assign("t2", "w4")
    a = await opened("a")
    assert (await a.worker("t1"), await a.worker("t2")) == ("w3", "w4")
    await asyncio.gather(a.close(), b.close(), c.close())
