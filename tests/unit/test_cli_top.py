"""`syncline top`: rates from two readings, a table that fits, and a terminal that is left as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from syncline.cli.survey import MemberRow, Survey
from syncline.cli.top.numbers import NodeNumbers, numbers_between, parse_metrics
from syncline.cli.top.screen import DROPPED, drawn, lines_of
from syncline.testing.process_cluster import ProcessCluster
from tests.helpers.command import syncline
from tests.helpers.ports import free_block
from tests.helpers.terminal import on_terminal

BUCKET = 'syncline_http_request_duration_seconds_bucket{route="GET /key",le="%s"} %d\n'


def reading(at_s: float, *, cpu: float, requests: int, slow: int = 0) -> str:
    return (
        "# HELP x\n"
        f"process_cpu_seconds_total {cpu}\n"
        f'syncline_http_requests_total{{route="GET /key",status="200"}} {requests}\n'
        f'syncline_http_requests_total{{route="PUT /key",status="200"}} {requests}\n'
        f"syncline_server_proposals_applied_total {requests}\n"
        f'syncline_http_request_duration_seconds_sum{{route="GET /key"}} {requests * 0.002}\n'
        f'syncline_http_request_duration_seconds_count{{route="GET /key"}} {requests}\n'
        + BUCKET % ("0.001", requests - slow)
        + BUCKET % ("10.0", requests - slow)
        + BUCKET % ("+Inf", requests)
        + "syncline_server_loop_lag_seconds 0.004\nsyncline_mvcc_keys 7\nsyncline_http_connections NaN\nodd{ 1\n"
    )


def test_top_rates_are_differences_of_two_readings() -> None:
    before = parse_metrics(reading(10.0, cpu=1.0, requests=100), 10.0)
    now = parse_metrics(reading(12.0, cpu=2.0, requests=200), 12.0)
    found = numbers_between(before, now)
    assert (found.requests, found.writes, found.cpu) == (100.0, 50.0, 0.5)
    assert found.mean_s == pytest.approx(0.002)
    assert (found.p99_s, found.loop_lag_s, found.keys, found.connections) == (0.001, 0.004, 7, None)


def test_top_p99_above_the_last_bound_is_unbounded() -> None:
    before = parse_metrics(reading(10.0, cpu=1.0, requests=100), 10.0)
    found = numbers_between(before, parse_metrics(reading(12.0, cpu=2.0, requests=200, slow=5), 12.0))
    assert found.p99_s is not None
    assert math.isinf(found.p99_s)


def test_top_of_a_node_that_was_started_again_has_no_rates() -> None:
    """Its counters began again: a difference would be wrong."""
    before = parse_metrics(reading(10.0, cpu=9.0, requests=900), 10.0)
    now = parse_metrics(reading(12.0, cpu=0.1, requests=5), 12.0)
    assert numbers_between(before, now) == numbers_between(None, now)
    assert numbers_between(None, now).requests is None


def member(name: str, *, reachable: bool = True) -> MemberRow:
    return MemberRow(
        name=name,
        id=name,
        role="leader" if reachable else None,
        http=f"http://{name}:8080",
        peer=None,
        term=123456,
        commit=1,
        applied=1,
        lag=1234567,
        pid=1,
        data_dir=None,
        reachable=reachable,
        member=True,
        voter=True,
        error=None if reachable else "connection refused\nand more",
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_top_lines_fit_the_width(width: int) -> None:
    survey = Survey("id", "c" * 90, None, [member("n" * 40), member("b", reachable=False)], "nobody answers " * 9)
    numbers = {"n" * 40: NodeNumbers(1e6, 2e5, 0.0015, math.inf, 3.0, 0.1, 0.99, 10_000, 7, 10**9)}
    lines = lines_of(survey, numbers, width=width, every_s=2)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "NODE" in text
    left_out = sum(title not in text for title in DROPPED)
    assert [title for title in DROPPED if title in text] == [*DROPPED[left_out:]], "the first ones are left out"
    assert left_out == 0 or width < 200
    assert not any("\n" in line for line in lines)


def test_top_picture_fits_the_height() -> None:
    assert drawn(["a", "b", "c"], 3).count("\n") == 2
    assert drawn(["a"], 1).startswith("\x1b[Ha\x1b[K")


def test_top_without_a_cluster_is_unavailable() -> None:
    ran = syncline("top", endpoints=f"http://127.0.0.1:{free_block(1)}")
    assert ran.status == 4
    assert "no server answers" in ran.error()


def test_top_with_a_time_that_is_too_short_is_refused() -> None:
    assert "0.2s or more" in syncline("top", "--every", "1ms").error()


def test_top_on_a_terminal_draws_resizes_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    with ProcessCluster(str(tmp_path), nodes=1) as cluster:
        [url] = cluster.endpoints
        document = syncline("top", "--json", endpoints=url).json()
        assert document["leader"] == "a"
        once = syncline("top", "--once", endpoints=url)
        assert once.status == 0
        assert "leader a, 1 of 1 node answers" in once.text
        assert "\x1b" not in once.text
        for keys in ("q", "\x03"):
            with on_terminal("top", "--every", "60s", environment={"SYNCLINE_ENDPOINTS": url}) as terminal:
                terminal.until("\x1b[?1049h")
                assert "WATCH" in terminal.until("q quits")
                assert not terminal.lets_type()
                terminal.resize(50, 20)
                shown = terminal.until("q quits")
                assert "WATCH" not in shown
                assert "LAG" in shown
                terminal.types(keys)
                assert terminal.ended() == (0 if keys == "q" else 130)
                assert "\x1b[?25h\x1b[?1049l" in terminal.text
                assert terminal.lets_type()

        for columns, lines in ((30, 20), (0, 0)):  # neither UTF-8 nor a size is sure
            variables = {"SYNCLINE_ENDPOINTS": url, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
            with on_terminal("top", environment=variables, columns=columns, lines=lines) as terminal:
                shown = terminal.until("q quits")
                assert "NODE" in shown
                assert ("…" in shown) == (columns > 0)
                terminal.types("q")
                assert terminal.ended() == 0
