"""The guard's report, and its yardsticks."""

from __future__ import annotations

import os
import sys

from bench.floor import WRITE_BYTES, replicated_us
from bench.generators import closedloop, http1
from bench.guard import fdatasync_us, load_record, report
from bench.load import Load, Workload
from bench.processes import Process


def test_the_report_notes_what_is_clearly_slower() -> None:
    lines = report({"a": 0.7, "b": 0.8, "new": 1.0}, {"a": 1.0, "b": 1.0, "gone": 1.0}).splitlines()
    assert lines[1].split() == ["a", "0.700", "1.000", "0.70", "SLOWER"]
    assert lines[2].split() == ["b", "0.800", "1.000", "0.80"]
    assert lines[3].split() == ["new", "1.000", "-", "-"]
    assert len(lines) == 4


def test_without_a_record_there_is_nothing_to_compare_with(tmp_path: object) -> None:
    assert load_record(f"{tmp_path}/none.json") == {}


def test_an_append_with_its_sync_takes_time_and_leaves_nothing(tmp_path: object) -> None:
    assert 0 < fdatasync_us(str(tmp_path), 0.05) < 1e6
    assert not os.listdir(str(tmp_path))


def test_a_write_that_is_passed_on_is_in_three_files_when_it_is_done(tmp_path: object) -> None:
    assert 0 < replicated_us(str(tmp_path), 0.2) < 1e6
    for at in range(3):
        with open(f"{tmp_path}/floor{at}", "rb") as file:
            assert file.read(WRITE_BYTES) == b"w" * WRITE_BYTES


def test_the_echo_answers(tmp_path: object) -> None:
    echo = Process([sys.executable, "-m", "bench.echo"], f"{tmp_path}/log", asked=True)
    try:
        port = echo.ask("port")
        assert isinstance(port, int)
        requests = [http1.request("PUT", "/key", b"x" * 5000)]
        outcome = closedloop.generate("127.0.0.1", port, requests, http1.answer, Load(Workload.WRITES, 3, 0.2))
    finally:
        echo.stop()
    assert outcome.latencies_us.count > 0
    assert outcome.errors == 0
