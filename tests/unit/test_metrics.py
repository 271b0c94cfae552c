"""The registry, read back by a strict parser of Prometheus' text format (version 0.0.4), and what a server puts in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import ConfigError
from syncline.kv.commands import Put
from syncline.kv.store import KeyStore
from syncline.kv.watch import WatchLimits
from syncline.node.ids import NodeId
from syncline.node.member_registry import Member, Membership
from syncline.node.stats import MemberProgress, Stats, Timings
from syncline.platform.distribution import Distribution
from syncline.server.metrics import MAX_LABELLED, OTHER, Registry, Sample
from syncline.server.process_metrics import add_process_metrics
from syncline.server.telemetry import HttpTelemetry, add_node_metrics, add_watch_metrics
from syncline.transport.messages import PeerStats
from tests.helpers.watches import WatchedNode, WatchReader, settle

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}

Labels = tuple[tuple[str, str], ...]
Page = dict[str, dict[Labels, float]]


def parse(page: bytes) -> tuple[Page, dict[str, str], dict[str, str]]:
    """Samples by name and labels, types by name, help by name. Raises AssertionError for what the format forbids."""
    text = page.decode()
    assert not text or text.endswith("\n")
    samples: Page = {}
    types: dict[str, str] = {}
    helps: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, explained = line.split(" ", 3)
            assert name not in helps
            helps[name] = explained.replace("\\n", "\n").replace("\\\\", "\\")
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current not in types
            assert kind in {"counter", "gauge", "histogram", "summary"}
            types[current] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            name, labels, value = found.groups()
            allowed = [current + suffix for suffix in SUFFIXES.get(types[current], ("",))]
            assert name in allowed, f"{name} among the samples of {current}"
            key = parse_labels(labels) if labels is not None else ()
            assert key not in samples.setdefault(name, {}), f"{name}{key} twice"
            samples[name][key] = float(value)
    assert set(types) == set(helps)
    return samples, types, helps


def parse_labels(text: str) -> Labels:
    labels: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        found = LABEL.match(text, at)
        assert found, text[at:]
        labels.append((found[1], re.sub(r"\\(.)", lambda char: "\n" if char[1] == "n" else char[1], found[2])))
        at = found.end()
    assert len(labels) == len(dict(labels))
    return tuple(labels)


def test_an_empty_registry_is_an_empty_page() -> None:
    assert Registry().render() == b""


def test_the_format_to_the_letter() -> None:
    registry = Registry()
    registry.counters("requests_total", "Asked\nfor \\ twice.", ("route", "status")).labels("/k", "200").inc(3)
    registry.gauge("depth", "How deep.").value = -1.5
    durations = registry.histogram("seconds", "How long.", (0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        durations.observe(value)
    syncs = Distribution((0.5,))
    syncs.observe(0.25)
    registry.computed_histogram("syncs", "How long.", lambda: syncs)
    assert registry.render().decode() == (
        "# HELP requests_total Asked\\nfor \\\\ twice.\n"
        "# TYPE requests_total counter\n"
        'requests_total{route="/k",status="200"} 3\n'
        "# HELP depth How deep.\n"
        "# TYPE depth gauge\n"
        "depth -1.5\n"
        "# HELP seconds How long.\n"
        "# TYPE seconds histogram\n"
        'seconds_bucket{le="0.1"} 2\n'
        'seconds_bucket{le="1.0"} 3\n'
        'seconds_bucket{le="+Inf"} 4\n'
        "seconds_sum 7.65\n"
        "seconds_count 4\n"
        "# HELP syncs How long.\n"
        "# TYPE syncs histogram\n"
        'syncs_bucket{le="0.5"} 1\n'
        'syncs_bucket{le="+Inf"} 1\n'
        "syncs_sum 0.25\n"
        "syncs_count 1\n"
    )


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=10), st.text(min_size=1, max_size=30))
def test_any_text_survives_as_a_label_and_as_help(values: list[tuple[str, str]], explained: str) -> None:
    # A page is UTF-8 and read by lines: characters that are neither are not what labels are for.
    def sound(text: str) -> bool:
        return text.isprintable() or text == "\n"

    values = [pair for pair in values if all(map(sound, pair))]
    explained = explained if explained.isprintable() else "help"
    registry = Registry()
    family = registry.counters("seen_total", explained, ("one", "two"))
    for pair in values:
        family.labels(*pair).inc()
    samples, _, helps = parse(registry.render())
    if "\\" not in explained:
        assert helps["seen_total"] == explained
    expected = {(("one", one), ("two", two)): float(values.count((one, two))) for one, two in values}
    assert samples.get("seen_total", {}) == expected


@pytest.mark.parametrize("evil", ['"', "\\", "\n", '\\"', '"} 1\nfake_total 7\n#', "\\n"])
def test_a_label_value_cannot_break_out(evil: str) -> None:
    registry = Registry()
    registry.counters("seen_total", "Seen.", ("what",)).labels(evil).inc()
    samples, types, _ = parse(registry.render())
    assert samples == {"seen_total": {(("what", evil),): 1.0}}
    assert types == {"seen_total": "counter"}


@given(st.lists(st.floats(-1e6, 1e6), max_size=50))
def test_a_histogram_counts_each_value_once_and_accumulates(values: list[float]) -> None:
    registry = Registry()
    bounds = (-10.0, 0.0, 0.5, 1000.0)
    family = registry.histograms("sizes", "Sizes.", ("of",), bounds)
    histogram = family.labels("a")
    for value in values:
        histogram.observe(value)
    family.labels("b")
    samples, _, _ = parse(registry.render())
    for bound in (*bounds, math.inf):
        written = "+Inf" if math.isinf(bound) else repr(bound)
        labels = (("of", "a"), ("le", written))
        assert samples["sizes_bucket"][labels] == sum(value <= bound for value in values)
        assert samples["sizes_bucket"][(("of", "b"), ("le", written))] == 0
    assert samples["sizes_count"][(("of", "a"),)] == len(values)
    assert samples["sizes_sum"][(("of", "a"),)] == pytest.approx(math.fsum(values), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "1"),
        (7, "7"),
        (2**63, str(2**63)),
        (0.1, "0.1"),
        (1e-9, "1e-09"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers(value: float, written: str) -> None:
    registry = Registry()
    registry.gauge("it", "It.").value = value
    assert registry.render().decode().splitlines()[-1] == f"it {written}"


def test_the_same_labels_are_the_same_counter() -> None:
    family = Registry().counters("seen_total", "Seen.", ("what",))
    one = family.labels("a")
    one.value += 2
    assert family.labels("a") is one
    assert family.labels("b") is not one
    with pytest.raises(ConfigError):
        family.labels("a", "b")
    with pytest.raises(ConfigError):
        one.inc(-1)


def test_label_combinations_are_bounded() -> None:
    registry = Registry()
    family = registry.counters("seen_total", "Seen.", ("what",))
    for number in range(MAX_LABELLED + 50):
        family.labels(str(number)).inc()
    samples, _, _ = parse(registry.render())
    assert len(samples["seen_total"]) == MAX_LABELLED + 1
    assert samples["seen_total"][(("what", OTHER),)] == 50
    long = Registry()
    long.counters("seen_total", "Seen.", ("what",)).labels("x" * 10_000)
    assert len(long.render()) < 1_000


def test_computed_metrics_are_read_at_each_rendering() -> None:
    registry = Registry()
    seen: list[Sample] = [(("a",), 1)]
    looks: list[int] = []
    registry.before_render(lambda: looks.append(1))
    registry.computed("gauge", "now", "Now.", ("what",), lambda: seen)
    assert parse(registry.render())[0] == {"now": {(("what", "a"),): 1.0}}
    seen[:] = [(("b",), 2.5), (("c",), 3)]
    assert parse(registry.render())[0] == {"now": {(("what", "b"),): 2.5, (("what", "c"),): 3.0}}
    assert len(looks) == 2


@pytest.mark.parametrize("bounds", [(), (1, 1), (2, 1), (1, math.inf), (math.nan,)])
def test_bounds_that_make_no_histogram(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        Registry().histogram("sizes", "Sizes.", bounds)


@pytest.mark.parametrize("name", ["", "1st_total", "with-dash_total", "with space_total", "no_suffix"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError):
        Registry().counter(name, "Help.")


def test_a_name_is_taken_once_and_labels_are_sound() -> None:
    registry = Registry()
    registry.gauge("depth", "Depth.")
    with pytest.raises(ConfigError):
        registry.histogram("depth", "Depth.")
    for labels in (("a", "a"), ("1a",), ("__a",), ("a-b",)):
        with pytest.raises(ConfigError):
            registry.gauges("labelled", "Labelled.", labels)
    with pytest.raises(ConfigError):
        registry.histograms("labelled", "Labelled.", ("le",))


ME = NodeId(1)
STATS = Stats(
    role="leader", term=3, vote=ME, leader=ME, commit=90, applied=88, first_index=10, last_index=95, snapshot_index=9,
    membership_index=4, lag=2, proposals_pending=5, proposals_failed=6, reads_pending=7, leader_changes=2,
    snapshots_taken=1, snapshots_installed=0, log_bytes=4096, log_syncs=40, log_sync_s=0.5, log_last_sync_s=0.01,
    loop_lag_s=0.002, messages_refused=1,
    progress={1: MemberProgress(95, 0, True, "replicate"), 2: MemberProgress(90, 5, False, "probe", "", 700, 1.5)},
    elections={"transfer": 1, "start": 2}, leaderships_ended={"lost_quorum": 3},
)  # fmt: skip


class FakeNode:
    """A node whose figures the test sets."""

    def __init__(self) -> None:
        self.figures = STATS
        self.last_contact_s: float | None = 0.0
        self.rtt_s: float | None = 0.004
        self.distributions = Timings(*(Distribution() for _ in Timings.__struct_fields__))

    def timings(self) -> Timings:
        return self.distributions

    def stats(self) -> Stats:
        return self.figures

    def peers(self) -> Mapping[int, PeerStats]:
        peer = PeerStats(
            connected=True, connected_since_s=1.0, last_contact_s=0.1, address="b:1", sent_bytes=10, received_bytes=20,
            sent_messages=1, received_messages=2, dropped_messages=3, reconnects=4, rtt_s=self.rtt_s, last_error=None,
        )  # fmt: skip
        return {2: peer}

    def membership(self) -> Membership:
        names = {NodeId(1): "a", NodeId(2): 'b"evil'}
        members: dict[int, Member] = {
            number: Member(number, name, f"{name}:1", "", True) for number, name in names.items()
        }
        return Membership(index=4, joint=False, members=members)


def test_what_a_node_tells() -> None:
    registry, node, store = Registry(), FakeNode(), KeyStore()
    node.distributions.log_syncs.observe(0.004)
    store.put(b"k", b"v", 0, 1)
    add_node_metrics(registry, node, lambda: store, name="a")
    add_process_metrics(registry)
    samples, types, _ = parse(registry.render())
    plain = {name: values[()] for name, values in samples.items() if () in values}
    assert plain["syncline_server_has_leader"] == 1
    assert plain["syncline_server_is_leader"] == 1
    assert plain["syncline_server_is_learner"] == 0
    assert plain["syncline_server_proposals_committed_total"] == 90
    assert plain["syncline_disk_wal_fsync_duration_seconds_count"] == 1
    assert plain["syncline_mvcc_current_revision"] == plain["syncline_mvcc_keys"] == 1
    assert plain["process_cpu_seconds_total"] > 0
    peer = (("id", f"{2:016x}"), ("name", 'b"evil'))
    assert samples["syncline_network_peer_sent_bytes_total"] == {peer: 10}
    assert samples["syncline_raft_member_lag_entries"][peer] == 5
    assert samples["syncline_raft_member_lag_bytes"][peer] == 700
    assert samples["syncline_raft_member_lag_seconds"][peer] == 1.5
    assert samples["syncline_raft_member_active"][peer] == 0
    assert samples["syncline_server_elections_total"] == {(("reason", "transfer"),): 1, (("reason", "start"),): 2}
    assert samples["syncline_server_leaderships_ended_total"] == {(("reason", "lost_quorum"),): 3}
    assert plain["process_open_fds"] < plain["process_max_fds"]
    assert plain["process_resident_memory_bytes"] > 1 << 20
    assert plain["syncline_process_threads"] >= 1
    assert plain["process_start_time_seconds"] > 1.6e9
    assert all(name.startswith(("syncline_", "process_")) for name in types)

    node.figures = msgspec.structs.replace(STATS, role="follower", leader=None, progress={})
    node.last_contact_s = node.rtt_s = None
    samples, _, _ = parse(registry.render())
    assert samples["syncline_server_has_leader"][()] == 0
    for absent in ("syncline_server_leader_contact_seconds", "syncline_network_peer_round_trip_time_seconds"):
        assert absent not in samples
    assert "syncline_raft_member_lag_entries" not in samples


@pytest.mark.parametrize(("agreement", "shown"), [("none", -1), ("agreed", 1), ("no_majority", 0)])
def test_metrics_show_the_newest_comparison_of_states(agreement: str, shown: int) -> None:
    registry, node, store = Registry(), FakeNode(), KeyStore()
    add_node_metrics(registry, node, lambda: store, name="a")
    samples, _, _ = parse(registry.render())
    assert "syncline_digest_age_seconds" not in samples
    node.figures = msgspec.structs.replace(
        STATS, digest_index=8192, digest_agreement=agreement, digest_age_s=1.5, digests_ignored=3
    )
    samples, _, _ = parse(registry.render())
    assert samples["syncline_digest_agreement"][()] == shown
    assert samples["syncline_digest_index"][()] == 8192
    assert samples["syncline_digest_age_seconds"][()] == 1.5
    assert samples["syncline_digests_ignored_total"][()] == 3


def test_metrics_show_what_the_peer_port_refuses() -> None:
    registry, node, store = Registry(), FakeNode(), KeyStore()
    add_node_metrics(registry, node, lambda: store, name="a")
    node.figures = msgspec.structs.replace(STATS, terms_refused=4, connections_displaced=5)
    samples, _, _ = parse(registry.render())
    assert samples["syncline_raft_terms_refused_total"][()] == 4
    assert samples["syncline_network_connections_displaced_total"][()] == 5


def test_http_answers_are_counted_by_route_and_status() -> None:
    registry = Registry()
    telemetry = HttpTelemetry(registry)
    for route, status in (("/key/{key...}", 200), ("/key/{key...}", 200), ("/key/{key...}", 404), ("", 400)):
        telemetry.observe(route, status, 0.003)
    samples, _, _ = parse(registry.render())
    assert samples["syncline_http_requests_total"] == {
        (("route", "/key/{key...}"), ("status", "200")): 2,
        (("route", "/key/{key...}"), ("status", "404")): 1,
        (("route", "(refused)"), ("status", "400")): 1,
    }
    assert samples["syncline_http_request_duration_seconds_count"][(("route", "/key/{key...}"),)] == 3


async def test_metrics_count_watches_their_events_and_slow_ones() -> None:
    node, registry = WatchedNode(limits=WatchLimits(max_unread_bytes=20)), Registry()
    add_watch_metrics(registry, node.hub)
    readers = [WatchReader(node), WatchReader(node, key=b"a")]
    for _ in range(3):
        node.apply(Put(b"b", b""))
        await settle()
    text = registry.render().decode()
    assert "\nsyncline_mvcc_watchers 2\n" in text
    assert "\nsyncline_mvcc_watch_events_total 2\n" in text
    assert "\nsyncline_mvcc_slow_watchers_total 1\n" in text
    for reader in readers:
        reader.watch.close()
    assert "\nsyncline_mvcc_watchers 0\n" in registry.render().decode()
