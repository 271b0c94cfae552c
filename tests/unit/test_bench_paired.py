"""Two trees side by side: the order of the turns, what is told of them, and wrong arguments."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import cast

import pytest
from bench import paired
from bench.load import Workload
from bench.paired import CELLS, Cell, LeaderMoved, Pair, Turn, groups, line, look_at, main, take_pairs
from bench.peers.syncline import SynclineCluster

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CELL = CELLS[0]


def turn(per_s: float, leader_us: float, *, others: float = 0.0, errors: int = 0) -> Turn:
    """A turn of a second; all three nodes together used twice what the leader did."""
    operations = round(per_s)
    cpu_s = leader_us * operations / 1e6
    return Turn(operations, per_s, 1000, cpu_s, 2 * cpu_s, others, errors)


def fields(text: str) -> list[str]:
    return text.removeprefix(CELL.title).split()


def test_paired_line_shows_rates_cpu_and_their_ratios() -> None:
    pairs = [Pair(turn(1000, 30.0), turn(1000, 30.0)), Pair(turn(2000, 30.0), turn(1980, 33.0, errors=2))]
    base, now, rate, quartiles, p50, *rest = fields(line(CELL, pairs))
    assert (base, now, rate, quartiles, p50) == ("1,500", "1,490", "0.995", "0.992-0.998", "1.000")
    # Of all turns together, so that a turn with more operations counts for more.
    assert rest[:3] == ["30.0", "to", "32.0"]
    assert rest[3:5] == ["1.066", "1.025-1.075"]
    assert rest[5:9] == ["60.0", "to", "64.0", "1.066"]
    assert rest[9:] == ["0.00", "2"]


def test_paired_line_marks_a_loss_of_more_than_3_percent() -> None:
    assert line(CELL, [Pair(turn(1000, 30.0), turn(969, 30.0))]).endswith("LOSS")
    assert line(CELL, [Pair(turn(1000, 30.0), turn(971, 30.0))]).endswith("  0")


def test_paired_line_of_a_disturbed_machine_is_unsure() -> None:
    """Ratios on both sides of 1 show no loss, whatever their median is."""
    rates = (700, 800, 900, 1100, 1200)
    assert line(CELL, [Pair(turn(1000, 30.0), turn(rate, 30.0)) for rate in rates]).endswith("UNSURE")


def test_paired_line_without_pairs_says_so() -> None:
    assert line(CELL, []).endswith("nothing was measured")


@pytest.mark.parametrize("moved", [False, True])
def test_paired_turns_alternate_and_leave_moved_leaders_out(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        notes.append("quiet")
        yield

    def take(cluster: object, cell: Cell, requests: object, seconds: float) -> Turn:
        notes.append(f"{cluster} {seconds:g} s")
        if moved and len(notes) == 6:
            raise LeaderMoved
        return turn(1000, 30.0)

    monkeypatch.setattr(paired, "take_turn", take)
    clusters = cast("dict[str, SynclineCluster]", {"base": "old", "now": "new"})
    pairs = take_pairs(clusters, CELL, 3, 2.0, quiet)
    warm_up, first, second = ["quiet", "old 0.5 s", "new 0.5 s"], ["quiet", "new 2 s", "old 2 s"], ["quiet", "old 2 s"]
    assert notes == [*warm_up, *first, *second, "new 2 s", *first]
    assert len(pairs) == (2 if moved else 3)


def test_paired_cells_with_the_same_settings_share_clusters() -> None:
    found = groups(["mac", "large", "secret", "writes", "secret-large"])
    assert [[cell.name for cell in group] for group in found] == [
        ["writes", "large"],
        ["secret", "secret-large"],
        ["mac"],
    ]
    assert (
        Cell("a", Workload.WRITES, 1, 16 << 10, secret=True, mac=True).title
        == "writes, 1 client, 16 KiB, secret and MAC"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--base"),
        (["--base", ".", "--only", "writes,nothing"], "unknown: nothing; known are writes, write, reads"),
        (["--base", ".", "--turns", "1"], "at least 2"),
        (["--base", ".", "--seconds", "0"], "more than 0"),
    ],
)
def test_paired_wrong_arguments_are_named(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["paired", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_paired_directory_without_syncline_is_refused(tmp_path: object) -> None:
    with pytest.raises(SystemExit, match="is no checkout of Syncline"):
        look_at("base", str(tmp_path))


def test_paired_checkout_that_does_not_run_is_refused(tmp_path: object) -> None:
    os.makedirs(f"{tmp_path}/src/syncline")
    with open(f"{tmp_path}/src/syncline/__init__.py", "w", encoding="ascii") as file:
        file.write("")
    with pytest.raises(SystemExit, match="does not run with this interpreter"):
        look_at("base", str(tmp_path))


def test_paired_this_tree_knows_a_secret() -> None:
    assert look_at("now", ROOT) == paired.Tree("now", ROOT, knows_secret=True)


def test_mac_node_keeps_the_mac_on_loopback() -> None:
    """In a process of its own: it changes a default."""
    code = (
        "from bench.peers.mac_node import keep_mac; keep_mac();"
        "from syncline.transport.authentication import PeerAuthentication;"
        "print(PeerAuthentication().spare_loopback)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
