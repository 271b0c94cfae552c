"""The examples of `docs/machines.md` run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from syncline import Config, load_config
from tests.helpers.doc_examples import PYTHON
from tests.helpers.ports import free_block

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "machines.md").read_text()


def config_in(folder: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(folder), listen=address, peers={"a": address}, election_s=0.2)


async def test_docs_of_machines_python_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "docs_machines"}
    for code in PYTHON.findall(TEXT):
        exec(compile(code, "docs/machines.md", "exec"), names)
    taken = await names["main"](config_in(tmp_path / "jobs"))
    assert taken == names["Job"]("t1", "w3")
    names["test_jobs"]()
    names["test_jobs_keep_the_contract"]()
    names["test_raffle"]()
    assert await names["count"](config_in(tmp_path / "hits")) == 3
    assert names["JobsOfNextYear"].machine_version == 3


def test_docs_of_machines_settings_can_be_used(tmp_path: Path) -> None:
    (file,) = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    secret = tmp_path / "peer-secret"
    secret.write_text("5f" * 32)
    secret.chmod(0o600)
    path = tmp_path / "cluster.toml"
    path.write_text(file.replace('"peer-secret"', f'"{secret}"'))
    assert sorted(load_config(path, environment={}).peers) == ["a", "b", "c"]
