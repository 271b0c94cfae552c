"""The bench's results, targets, page and plots."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import msgspec
import pytest
from bench.figures import Figure
from bench.load import Workload
from bench.outputs import page, table
from bench.outputs.svg import HEIGHT, NAME_PX, WIDTH, Series, plot
from bench.results import Results, Row, System, load, ratio, save
from bench.targets import TARGETS, Against, AtMost, Throughput
from bench.turns import Sample

SVG = "{http://www.w3.org/2000/svg}"


def sample(per_s: float, p99_ms: float = 2.0) -> Sample:
    return Sample(
        per_s=per_s,
        p50_ms=p99_ms / 2,
        p99_ms=p99_ms,
        p999_ms=p99_ms * 2,
        cpu_s_per_1000=0.1,
        resident_mib=100.0,
        generator_cores=0.2,
        others_cores=0.01,
        errors=0,
    )


def row(system: str, clients: int, *per_s: float, workload: Workload = Workload.WRITES) -> Row:
    return Row(system, workload, clients, 5.0, [sample(value) for value in per_s])


def results() -> Results:
    return Results(
        date="2026-01-02",
        machine=["2 processors"],
        commit="abc",
        systems={"syncline": System("1", "ours."), "etcd": System("3", "theirs."), "redis": System(missing="no redis")},
        rows=[row("syncline", 1, 10.0, 20.0, 60.0), row("etcd", 1, 5.0, 20.0, 20.0), row("syncline", 64, 900.0)],
        figures=[Figure("failover.median", "failover, median", 1.25, "s", "of 20")],
    )


def test_a_ratio_is_the_median_of_what_was_measured_one_after_the_other() -> None:
    found = ratio(row("a", 1, 10.0, 20.0, 60.0), row("b", 1, 5.0, 20.0, 20.0), "per_s")
    assert (found.value, found.lowest, found.highest) == (2.0, 1.0, 3.0)


def test_rows_of_different_repeats_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratio(row("a", 1, 10.0), row("b", 1, 5.0, 20.0), "per_s")


def test_results_are_kept(tmp_path: object) -> None:
    path = f"{tmp_path}/results.json"
    save(results(), path)
    assert load(path) == results()


def test_a_cell_that_is_measured_again_replaces_all_systems_of_it() -> None:
    found = results()
    found.add_rows([row("syncline", 1, 7.0)])
    assert found.row("etcd", Workload.WRITES, 1) is None
    assert found.row("syncline", Workload.WRITES, 64) is not None
    again = found.row("syncline", Workload.WRITES, 1)
    assert again is not None
    assert again.median("per_s") == 7.0


def test_a_figure_that_is_measured_again_replaces_the_old_one() -> None:
    found = results()
    found.add_figures([Figure("failover.median", "failover, median", 2.5, "s")])
    assert [figure.value for figure in found.figures] == [2.5]


@pytest.mark.parametrize(
    ("limit", "at_most", "holds"), [(2.0, False, True), (2.1, False, False), (2.0, True, True), (1.9, True, False)]
)
def test_a_target_against_another_system(limit: float, at_most: bool, holds: bool) -> None:
    verdict = Against(Workload.WRITES, 1, "per_s", "etcd", limit, at_most=at_most).verdict(results())
    assert verdict.measured == "2.00x (1.00 to 3.00)"
    assert verdict.holds is holds


def test_targets_of_single_figures() -> None:
    assert AtMost("failover.median", "failover", 2.0, "s").verdict(results()).holds is True
    assert AtMost("failover.median", "failover", 1.0, "s").verdict(results()).holds is False
    assert Throughput("syncline", 64, 900.0).verdict(results()).holds is True
    assert Throughput("syncline", 64, 901.0).verdict(results()).holds is False


def test_a_target_that_was_not_measured_neither_holds_nor_fails() -> None:
    for target in TARGETS:
        assert target.verdict(Results("2026-01-02", [], "abc")).holds is None


def test_the_page_has_the_machine_then_the_targets_then_the_ratios() -> None:
    text = page.render(results())
    places = [
        text.index(part) for part in ("2 processors", "## Targets", "multiple", "| syncline | 1 |", "## Single figures")
    ]
    assert places == sorted(places)
    assert "| etcd | 1 | 2.00x (1.00 to 3.00) |" in text
    assert "| failover, median | 1.25 s | of 20 |" in text
    assert "redis: left out, no redis" in text


def test_page_has_a_section_on_etcds_interface_beside_etcd() -> None:
    """Both systems in one line. What was measured without etcd has no ratio, and no section comes of nothing."""
    assert "etcd's interface" not in page.render(results())
    key, title = "etcd-face.grpc.put", "gRPC, 64 connections (h2load): writes"
    ours = Figure(f"{key}.syncline", f"syncline: {title}", 3000.0, "/s", "p50 1 ms")
    other = Figure(f"{key}.etcd", f"etcd: {title}", 2000.0, "/s", "p50 2 ms")
    compared = Figure(f"{key}.ratio", f"against etcd: {title}", 1.5, "x", "1.40 to 1.60")
    seen = Figure("etcd-face.watches.whole_p99.syncline", "syncline: gRPC: 1,000 watchers", 7.0, "ms", "0 missing")
    text = page.render(msgspec.structs.replace(results(), figures=[*results().figures, ours, other, compared, seen]))
    section = text.partition("## etcd's interface\n")[2].partition("\n## ")[0]
    assert f"| {title} | 3,000 | 2,000 | 1.50x (1.40 to 1.60) | p50 1 ms | p50 2 ms |" in section
    assert "| syncline: gRPC: 1,000 watchers | 7 ms | 0 missing |" in section
    assert "etcd-face" not in text.partition("## Single figures")[2]
    assert title not in text.partition("## Single figures")[2]
    alone = page.render(msgspec.structs.replace(results(), figures=[ours]))
    assert f"| {title} | 3,000 | - | - | p50 1 ms | - |" in alone


def test_every_table_of_the_page_is_rectangular() -> None:
    for block in re.findall(r"(?:^\|.*\|\n)+", page.render(results()), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_the_page_names_the_plots_that_are_written(tmp_path: object) -> None:
    path = page.write(results(), f"{tmp_path}/pages")
    with open(path, encoding="utf-8") as file:
        named = set(re.findall(r"\(([^)]*\.svg)\)", file.read()))
    assert named == set(page.plots(results()))
    for name in named:
        with open(f"{tmp_path}/pages/{name}", encoding="utf-8") as file:
            ET.fromstring(file.read())


def test_the_table_shows_ratios_against_ours() -> None:
    lines = table.medians(results(), "syncline")
    assert "2.00x (1.00 to 3.00)" in next(line for line in lines if "etcd" in line)
    assert "x" not in next(line for line in lines if " 64  syncline" in line)


def picture(*series: Series) -> ET.Element:
    return ET.fromstring(plot("a < b", "per second", series))


def test_a_plot_goes_up_where_values_do() -> None:
    drawn = picture(Series("one", [(1, 10.0), (16, 100.0), (256, 1000.0)], "#000"))
    line = drawn.find(f"{SVG}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.2), "the axis is logarithmic"
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)


def test_names_of_lines_that_end_together_do_not_meet() -> None:
    drawn = picture(*(Series(f"line {n}", [(1, 10.0), (64, 100.0 + n)], "#000") for n in range(4)))
    places = [float(text.attrib["y"]) for text in drawn.iter(f"{SVG}text") if (text.text or "").startswith("line")]
    assert len(places) == 4
    ordered = sorted(places)
    assert all(below - above >= NAME_PX - 0.2 for above, below in pairwise(ordered))


def test_a_plot_of_a_single_point_is_a_picture_too() -> None:
    drawn = picture(Series("one", [(64, 5.0)], "#000"))
    assert drawn.find(f"{SVG}circle") is not None
    assert "a < b" in "".join(drawn.itertext())
