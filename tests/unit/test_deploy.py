"""The files of `deploy/`: each can be read, and names only flags, settings and commands that exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from syncline.node.raft import HANDOVER_S
from syncline.server.config import SERVER_SETTINGS, ServerConfig, load_config
from syncline.version import __version__
from tests.helpers.command_line import parsed
from tests.helpers.helm_chart import CHART, MANIFEST, default_values, render, rendered_manifest

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
VARIABLE: Final = re.compile(r"\bSYNCLINE_[A-Z_]+\b")
SECRET: Final = "5f" * 32
CLIENT_VARIABLES: Final = {"SYNCLINE_ENDPOINTS", "SYNCLINE_CACERT", "SYNCLINE_TOKEN", "SYNCLINE_TOKEN_FILE"}
"""Of the commands that talk to a server."""

EVERYTHING: Final[dict[str, object]] = {
    "replicas": 5,
    "cluster": "prod",
    "tls": {"secret": "certs"},
    "insecureClients": False,
    "joinTokenSecret": "join",
    "settings": {"election_s": 2.5, "max_connections": 500},
    "persistence": {"storageClass": "local"},
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"a/b": "c"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "db", "operator": "Exists"}],
    "priorityClassName": "high",
    "antiAffinity": "required",
    "backup": {"enabled": True, "claim": "backups", "environmentSecret": "tokens"},
}


def flags_given(arguments: list[str]) -> dict[str, object]:
    command, values = parsed(arguments)
    assert command.name == "serve"
    return {name: value for name, value in values.items() if name in SERVER_SETTINGS}


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def known_variable(name: str) -> bool:
    return name.removeprefix("SYNCLINE_").lower() in SERVER_SETTINGS or name in CLIENT_VARIABLES


@pytest.mark.parametrize(
    "path", [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()], ids=lambda path: str(path.name)
)
def test_deploy_files_name_variables_that_exist(path: Path) -> None:
    found = set(VARIABLE.findall(path.read_text()))
    assert {name for name in found if not known_variable(name) and name != "SYNCLINE_PORT"} == set()


# -- the image --------------------------------------------------------------------------------------------------------


def instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def test_dockerfile_runs_the_server_as_a_user_with_known_settings() -> None:
    found = list(instructions())
    known = {"ARG", "FROM", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in found} <= known
    assert dict(found)["USER"] == "10001:10001"
    assert dict(found)["STOPSIGNAL"] == "SIGTERM"
    program = yaml.safe_load(dict(found)["ENTRYPOINT"]) + yaml.safe_load(dict(found)["CMD"])
    assert program[0] == "syncline"
    environment = dict(pair.split("=", 1) for pair in shlex.split(dict(found)["ENV"]))
    config = load_config(environment={**environment, "SYNCLINE_NAME": "a"}, flags=flags_given(program[1:]))
    assert (config.http_listen, config.peer_listen, config.data_dir) == ("0.0.0.0:8080", "0.0.0.0:7100", "/data")


def test_dockerignore_leaves_what_the_build_needs() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"])
    assert {name for name in needed if not any(name == one or name.startswith(f"{one}/") for one in kept)} == set()


def test_compose_file_has_three_nodes_of_one_cluster() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    document = yaml.safe_load(re.sub(r"\$\{SYNCLINE_PEER_SECRET:\?[^}]*\}", SECRET, text))
    services = document["services"]
    configs = {}
    for name, service in services.items():
        environment = {**service["environment"], "SYNCLINE_DATA_DIR": "/data"}
        configs[name] = load_config(environment=environment)
        assert configs[name].name == name
        assert service["volumes"] == [f"{name}:/data"]
        assert name in document["volumes"]
        port = service["ports"][0]
        assert port.startswith("127.0.0.1:"), "clients need no TLS, so no other machine may reach the port"
        assert configs[name].http_advertise == f"http://{port.rsplit(':', 1)[0]}"
        assert configs[name].initial_cluster[name] == configs[name].peer_advertise
        assert configs[name].peer_secrets()
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_s > configs[name].drain_s + HANDOVER_S
    assert {str(config.initial_cluster) for config in configs.values()} == {str(configs["a"].initial_cluster)}
    assert set(configs["a"].initial_cluster) == set(services)


# -- systemd ----------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    lines = (DEPLOY / "systemd" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_systemd_unit_runs_the_server_with_known_flags() -> None:
    service = unit("syncline.service")
    program = shlex.split(service["ExecStart"])
    assert program[0].endswith("/syncline")
    command, values = parsed(program[1:])
    assert command.name == "serve"
    assert values["config_file"] == "/etc/syncline/node.toml"
    config = load_config(file=str(DEPLOY / "systemd" / "node.toml"), environment={}, flags=flags_given(program[1:]))
    assert config.data_dir == "/var/lib/" + service["StateDirectory"]
    assert config.initial_cluster[config.name] == config.peer_listen
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) > 0
    assert float(service["TimeoutStopSec"]) > config.drain_s + HANDOVER_S


def test_systemd_backup_runs_a_known_command() -> None:
    program = shlex.split(unit("syncline-backup.service")["ExecStart"])
    command, values = parsed(program[1:])
    assert command.name == "schedule"
    assert values["once"]
    lines = (DEPLOY / "systemd" / "backup.env").read_text().splitlines()
    assert {line.split("=")[0] for line in lines if not line.startswith("#")} <= CLIENT_VARIABLES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    """The program and the user of the units are not on this machine: others stand in for them."""
    names = [path.name for path in sorted((DEPLOY / "systemd").iterdir()) if path.suffix in {".service", ".timer"}]
    assert len(names) == 3
    for name in names:
        text = (DEPLOY / "systemd" / name).read_text().replace("/opt/syncline/bin/syncline", "/bin/true")
        text = re.sub(r"^(User|Group)=syncline$", r"\1=root", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)
    assert (ran.returncode, ran.stderr) == (0, "")


# -- Kubernetes -------------------------------------------------------------------------------------------------------


def stateful_set(text: str) -> dict[str, Any]:
    return next(document for document in documents(text) if document["kind"] == "StatefulSet")


def started(container: dict[str, Any], pod: str, path: Path) -> ServerConfig:
    """The settings with which the container's script starts the server in a pod of this name."""
    path.mkdir(exist_ok=True)
    program = path / "syncline"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    given = {item["name"]: item.get("value", "") for item in container["env"]}
    given |= {"SYNCLINE_NAME": pod, "SYNCLINE_PEER_SECRET": SECRET}
    environment = {**given, "PATH": f"{path}:{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30.0)
    assert (ran.returncode, ran.stderr) == (0, "")
    return load_config(environment=given, flags=flags_given(ran.stdout.splitlines()))


def test_kubernetes_manifest_is_that_of_the_chart() -> None:
    assert rendered_manifest() == MANIFEST.read_text(), "run: make manifest"


def test_kubernetes_pods_are_members_by_name_and_later_ones_join(tmp_path: Path) -> None:
    """A pod keeps its name and its volume, and gets another address whenever it starts."""
    container = stateful_set(MANIFEST.read_text())["spec"]["template"]["spec"]["containers"][0]
    for number in range(4):
        pod = f"syncline-{number}"
        config = started(container, pod, tmp_path)
        name = f"{pod}.syncline-peers.default.svc"
        assert (config.name, config.peer_advertise) == (pod, f"{name}:7100")
        assert config.http_advertise == f"http://{name}:8080"
        assert config.peer_secrets()
        if number < 3:
            assert config.initial_cluster[pod] == config.peer_advertise
            assert len(config.initial_cluster) == 3
            assert config.join == ()
        else:
            assert config.initial_cluster == {}
            assert len(config.join) == 3


@pytest.mark.parametrize("changes", [{"insecureClients": True}, EVERYTHING], ids=["defaults", "everything"])
def test_chart_renders_documents_that_fit_together(changes: dict[str, object], tmp_path: Path) -> None:
    files = render(changes, release="kv", namespace="db")
    found = [document for name, text in files.items() if name.endswith(".yaml") for document in documents(text)]
    kinds = [document["kind"] for document in found]
    assert kinds.count("Service") == 2
    assert kinds.count("CronJob") == ("backup" in changes)
    spec = stateful_set(files["statefulset.yaml"])["spec"]
    pod = spec["template"]["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert pod["enableServiceLinks"] is False
    services = {document["metadata"]["name"]: document["spec"] for document in found if document["kind"] == "Service"}
    assert services[spec["serviceName"]]["publishNotReadyAddresses"] is True
    assert services[spec["serviceName"]]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    config = started(pod["containers"][0], "kv-4", tmp_path)
    assert config.http_advertise.endswith("://kv-4.kv-peers.db.svc:8080")
    assert len(config.join) == 3
    check_volumes(pod, spec["volumeClaimTemplates"])
    if changes is EVERYTHING:
        assert (config.election_s, config.max_connections, config.cluster) == (2.5, 500, "prod")
        assert (config.tls_dir, config.join_token_file) == ("/certs", "/join/token")
        job = next(document for document in found if document["kind"] == "CronJob")
        job_pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        check_volumes(job_pod, [])
        assert parsed(job_pod["containers"][0]["args"])[0].name == "schedule"
        assert not set(job_pod["containers"][0]["args"]) & {"", None}
        [endpoints] = [one["value"] for one in job_pod["containers"][0]["env"] if one["name"] == "SYNCLINE_ENDPOINTS"]
        assert endpoints == "https://kv.db.svc:8080", "the name that the certificates have"


def test_chart_certificates_of_the_handbook_have_all_names() -> None:
    text = (ROOT / "docs" / "operations" / "install.md").read_text()
    [line] = re.findall(r"^syncline certs node (.*)$", text, re.MULTILINE)
    files = render({"tls": {"secret": "certs"}, "backup": {"enabled": True, "target": "s3://b"}}, release="syncline")
    dialled = re.findall(r"https://([^:]+):8080", files["backup.yaml"] + files["NOTES.txt"])
    assert set(dialled) == {"syncline.default.svc"}
    named = {one.strip() for one in line.split("--host")[1:]}
    assert named == {*dialled, "syncline-0.syncline-peers.default.svc"}


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"backup": {"enabled": True}}, False),
        ({"backup": {"enabled": True, "claim": "c"}}, True),
        ({"backup": {"enabled": True, "target": "s3://bucket/x"}}, True),
        ({"backup": {"enabled": True, "target": "s3://bucket/x", "claim": "c"}}, False),
        ({"backup": {"enabled": True, "target": "backups", "claim": "c"}}, False),
        ({"backup": {"enabled": True, "claim": "c", "keep": 0}}, False),
        ({"antiAffinity": "require"}, False),
        ({"settings": {"max_store_bytes": 1 << 30}}, False),
        ({"settings": {"max_store_bytes": str(1 << 30), "election_s": 2.5, "max_connections": 5000}}, True),
        ({"replicas": 0}, False),
        ({"persistence": {"retain": "Keep"}}, False),
    ],
)
def test_chart_schema_refuses_values_that_can_not_work(changes: dict[str, Any], good: bool) -> None:
    """A backup into a container's own directory fails each hour, since its root is read-only."""
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert jsonschema.Draft7Validator(schema).is_valid(values) == good


def test_dockerfile_has_what_the_backups_of_the_chart_need() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("[etcd-api,fsspec]") == 2
    assert text.count("${PACKAGES}") == text.count("ARG PACKAGES=") == 2


def test_systemd_backup_directory_is_made_by_the_handbook() -> None:
    path = unit("syncline-backup.service")["ReadWritePaths"]
    assert re.search(
        rf"^install -d .*-o syncline .*{path}$", (ROOT / "docs/operations/backup.md").read_text(), re.MULTILINE
    )


def check_volumes(pod: dict[str, Any], claims: list[dict[str, Any]]) -> None:
    declared = {volume["name"] for volume in pod["volumes"] or ()} | {claim["metadata"]["name"] for claim in claims}
    containers = [*pod["containers"], *pod.get("initContainers", ())]
    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounted == declared
    for container in containers:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_chart_uses_every_value_and_has_the_version_of_the_package() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([\w.]+)", text))
    names = set()
    for name, value in default_values().items():
        whole = {"settings", "resources", "podAnnotations", "nodeSelector"}
        names |= {f"{name}.{one}" for one in value} if isinstance(value, dict) and name not in whole else {name}
    assert names == used
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_reads_the_manifest() -> None:
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(documents(ran.stdout)) == len(documents(MANIFEST.read_text()))


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_helm_renders_what_the_tests_render(tmp_path: Path) -> None:
    """The renderer of the tests knows a part of Helm's language: here the two are compared."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(EVERYTHING))
    lint = ["helm", "lint", str(CHART), "-f", str(values)]
    linted = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
    command = ["helm", "template", "kv", str(CHART), "--namespace", "db", "-f", str(values)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = render(EVERYTHING, release="kv", namespace="db")
    expected = [document for name in sorted(ours) if name.endswith(".yaml") for document in documents(ours[name])]
    found = documents(ran.stdout)

    def order(document: dict[str, Any]) -> tuple[str, str]:
        return document["kind"], document["metadata"]["name"]

    assert sorted(found, key=order) == sorted(expected, key=order)
