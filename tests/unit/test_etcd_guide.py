"""`docs/etcd.md` names every method that there is, with its routes, and says so of those that are refused."""

from __future__ import annotations

import re
from pathlib import Path

from syncline.server.etcd.methods import METHODS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "etcd.md").read_text()
ROW = re.compile(r"^\| `(\w+/\w+)` \| (.*?) \| (supported|differs|not) \| (.*?) ?\|$", re.MULTILINE)


def test_etcd_guide_names_each_method_and_its_routes() -> None:
    """A method without a row, a row without a method, or another route is a fault of the page."""
    shown = {name: re.findall(r"`([^`]+)`", routes) for name, routes, _, _ in ROW.findall(TEXT)}
    expected = {
        method.name.rpartition(".")[2]: [method.route, *method.aliases]  # `/etcdserverpb.KV/Range`: KV/Range
        for method in METHODS.values()
    }
    assert shown == expected


def test_etcd_guide_explains_what_is_not_as_in_etcd() -> None:
    for name, _, verdict, note in ROW.findall(TEXT):
        assert verdict == "supported" or note, name
