"""The plan of `up --tls`: certificates in the directory, settings of the nodes, URLs for clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

from syncline.cli.up.plan import make_plan, write_plan
from syncline.cli.up.supervisor import Supervisor, UpNode
from syncline.cli.up.traces import Traces
from syncline.cli.up.view import how_to_use
from syncline.platform.disk import OsDisk
from syncline.server.config import load_config


def test_up_tls_makes_certificates_once_and_keeps_them(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    plan = make_plan(str(directory), nodes=2, port=9000, tls=True)
    write_plan(plan, OsDisk())
    made = {path.name: path.read_bytes() for path in (directory / "certs").iterdir()}
    assert sorted(made) == ["ca.key", "ca.pem", "n1.key", "n1.pem", "n2.key", "n2.pem"]
    config = load_config(file=plan.nodes[0].config_path, environment={})
    assert config.http_scheme == "https"
    assert config.peer_tls_ca == str(directory / "certs" / "ca.pem")
    again = make_plan(str(directory), nodes=3, port=None)
    assert again.tls, "a cluster that has TLS keeps it"
    write_plan(again, OsDisk())
    now = {path.name: path.read_bytes() for path in (directory / "certs").iterdir()}
    assert {name: now[name] for name in made} == made
    assert sorted({*now} - {*made}) == ["n3.key", "n3.pem"]
    assert again.endpoints == "https://127.0.0.1:9000,https://127.0.0.1:9001,https://127.0.0.1:9002"
    joining = load_config(file=again.nodes[2].config_path, environment={})
    assert joining.join == ("https://127.0.0.1:9000", "https://127.0.0.1:9001")
    assert joining.join_tls_ca == config.join_tls_ca


def test_up_tls_trusts_an_authority_that_is_made_before_the_nodes_start(tmp_path: Path) -> None:
    """A new cluster has no certificates when its supervisor is made."""

    async def run() -> list[str]:
        plan = make_plan(str(tmp_path / "cluster"), nodes=1, port=9000, tls=True)
        supervisor = Supervisor(plan, restart=False, program=("false",))
        try:
            write_plan(plan, OsDisk())
            await supervisor.start()
            return [node.state for node in await supervisor.look()]
        finally:
            await supervisor.stop([])
            await supervisor.close()

    assert asyncio.run(run()) in (["starting"], ["ended"])


def test_up_without_tls_keeps_its_plan_as_before(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), nodes=1, port=None)
    write_plan(plan, OsDisk())
    assert b"tls" not in (tmp_path / "up.json").read_bytes()
    assert not (tmp_path / "certs").exists()
    assert b"tls_dir" not in (tmp_path / "n1" / "node.toml").read_bytes()


def test_up_tls_start_that_fails_leaves_no_certificates(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    plan = make_plan(str(directory), nodes=1, port=None, tls=True)
    traces = Traces(plan)
    write_plan(plan, OsDisk())
    traces.remove()
    assert not directory.exists()


def test_up_tls_says_how_clients_trust_it(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), nodes=1, port=None, tls=True)
    node = UpNode(name="n1", http=plan.nodes[0].http_url, peer="", state="leader", pid=1)
    lines = how_to_use(plan, [node])
    authority = f"{tmp_path}/certs/ca.pem"
    assert lines[0].startswith(f"curl --cacert {authority} -X PUT https://127.0.0.1:8080/")
    assert f"export SYNCLINE_CACERT={authority}" in lines
    assert "export SYNCLINE_ENDPOINTS=https://127.0.0.1:8080" in lines
