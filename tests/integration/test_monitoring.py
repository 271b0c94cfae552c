"""Dashboard, alert rules and the page about monitoring, compared with what a cluster of three shows at `/metrics`."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from syncline.client import AsyncClient
from syncline.node.leader_causes import ELECTION_REASONS, END_REASONS
from syncline.server.app import KvServer
from syncline.server.saturation import RESOURCES
from tests.helpers.node_cluster import until
from tests.unit.test_metrics import Page, parse
from tests.unit.test_server_app import TLS_FILES, cluster, settings

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "syncline.json"
PAGE = (ROOT / "docs" / "monitoring.md").read_text()

SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""

NAMED = re.compile(r"`((?:syncline|process)_[a-z_0-9]*(?:_total|_seconds|_bytes|_entries))`")
MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
SELECTOR = re.compile(r"\b((?:syncline|process)_[a-z_0-9]+)(\{[^}]*\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


class Shown:
    """What all nodes of a cluster show together."""

    def __init__(self) -> None:
        self.pages: list[bytes] = []
        self.samples: Page = {}
        self.kinds: dict[str, str] = {}
        self.helps: dict[str, str] = {}

    def add(self, page: bytes) -> None:
        samples, kinds, helps = parse(page)
        self.pages.append(page)
        self.kinds |= kinds
        self.helps |= helps
        for name, by_labels in samples.items():
            self.samples.setdefault(name, {}).update(by_labels)

    def labels(self, name: str) -> set[str]:
        """The labels of a metric's samples."""
        return {label for labels in self.samples.get(name, {}) for label, _ in labels}

    def values(self, name: str, label: str) -> set[str]:
        return {value for labels in self.samples.get(name, {}) for key, value in labels if key == label}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Three nodes with a leader and a write, and one with TLS for its certificate."""
    found, place = Shown(), tmp_path_factory.mktemp("monitoring")
    tls = settings(place, "t", http_tls_cert=str(TLS_FILES / "node1.pem"), http_tls_key=str(TLS_FILES / "node1.key"))

    async def look() -> None:
        async with cluster(place) as servers:
            async with AsyncClient(servers["a"].http_url) as client:
                await client.put("key", b"value")
                await client.get("key")
                await client.get("missing")
                with pytest.raises(Exception, match="limit is"):
                    await client.put("k" * 5000, b"")
            for server in servers.values():
                raft = server.raft  # round trips are known some heartbeats later
                await until(raft, lambda raft=raft: all(peer.rtt_s is not None for peer in raft.peers().values()))  # type: ignore[misc]
                found.add(server.metrics.render())
        async with KvServer.open(tls) as server:
            found.add(server.metrics.render())

    asyncio.run(asyncio.wait_for(look(), 60))
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Each expression of the rules and of the dashboard, by where it stands."""
    found = {
        rule["alert"]: rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    }
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


EXPRESSIONS = expressions()
ALLOWED = {"reason": {*ELECTION_REASONS, *END_REASONS}, "resource": set(RESOURCES)}


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_expression_uses_metrics_and_labels_that_are_shown(shown: Shown, where: str) -> None:
    text = EXPRESSIONS[where]
    used = SELECTOR.findall(text)
    assert used or text.startswith(("up{", "count by (job) (up")), "an expression reads a metric"
    known: set[str] = set(SCRAPED)
    for name, selector in used:
        assert name in shown.samples, f"no node shows {name}"
        labels = shown.labels(name)
        known |= labels
        for label, _, value in MATCHER.findall(selector):
            assert label in labels | SCRAPED, f"{name} has no label {label}"
            if label == "code":
                assert set(value.split("|")) <= shown.values(name, label) | {"internal"}
    for group in GROUPING.findall(text):
        assert {label.strip() for label in group.split(",")} <= known, group


def test_legends_and_summaries_use_labels_that_are_shown(shown: Shown) -> None:
    texts = [
        (rule["expr"], label)
        for rule in rules()
        for label in re.findall(r"\$labels\.([a-z_]+)", rule["annotations"]["summary"])
    ]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            texts += [(target["expr"], label) for label in re.findall(r"\{\{([a-z_]+)\}\}", target["legendFormat"])]
    assert len(texts) > 30
    for expression, label in texts:
        names = [name for name, _ in SELECTOR.findall(expression)]
        assert label in SCRAPED | {one for name in names for one in shown.labels(name)}, (expression, label)
        for group in GROUPING.findall(expression):
            assert label in group, f"{expression} drops {label}"


def test_reasons_and_resources_are_those_of_the_code(shown: Shown) -> None:
    assert shown.values("syncline_server_elections_total", "reason") == set(ELECTION_REASONS)
    assert shown.values("syncline_server_leaderships_ended_total", "reason") == set(END_REASONS)
    assert shown.values("syncline_saturation_ratio", "resource") == set(RESOURCES) - (
        set() if "store" in shown.values("syncline_saturation_ratio", "resource") else {"store"}
    )
    for value in (*ELECTION_REASONS, *END_REASONS, *RESOURCES):
        assert f"`{value}`" in PAGE


def test_metrics_of_a_cluster_are_those_of_the_page(shown: Shown) -> None:
    """The table has each metric with its kind, its labels and its help text, in order."""
    rows = dict(re.findall(r"^\| `((?:syncline|process)_[a-z_0-9]+)` (\|.*)\|$", PAGE, re.MULTILINE))
    expected = {}
    for name, kind in shown.kinds.items():
        sample = f"{name}_count" if kind == "histogram" else name
        labels = ", ".join(f"`{label}`" for label in sorted(shown.labels(sample)))
        expected[name] = f"| {kind} | {labels} | {shown.helps[name]} "
    assert rows == expected


def test_metrics_of_a_new_cluster_have_few_samples(shown: Shown) -> None:
    """A scrape must stay small: labels are bounded."""
    assert max(page.count(b"\n") for page in shown.pages) < 1_000
    assert max(map(len, shown.pages)) < 100_000


def test_metrics_page_reads_no_metric_that_is_not_shown(shown: Shown) -> None:
    """Each metric that any page of the documentation names is there."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for name in NAMED.findall(page.read_text()):
            assert name in shown.kinds, f"{page.name} names {name}"


def test_each_alert_has_a_section_of_the_page_and_a_severity() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 15
    for rule in rules():
        name = cast("str", rule["alert"])
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, name
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s")), name
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, name
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{name.lower()}"
        assert f"\n### {name}\n" in PAGE
    assert re.findall(r"^### (Syncline\w+)$", PAGE, re.MULTILINE) == names


def test_dashboard_is_one_that_grafana_imports() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["title"] == "Syncline"
    assert board["schemaVersion"] >= 36
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        left, top, width, height = (panel["gridPos"][name] for name in "xywh")
        assert left + width <= 24, panel["title"]
        cells = {(x, y) for x in range(left, left + width) for y in range(top, top + height)}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH")[: len(panel["targets"])]
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "job"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has promtool")
def test_promtool_takes_the_rules_and_the_metrics(shown: Shown) -> None:
    subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, timeout=30, capture_output=True)
    for page in shown.pages:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=page, check=False, timeout=30, capture_output=True
        )
        complaints = (done.stdout + done.stderr).decode().splitlines()
        assert [line for line in complaints if not line.startswith("syncline_tls_certificate_days_left")] == []
