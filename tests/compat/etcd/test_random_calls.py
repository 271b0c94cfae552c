"""Random calls of etcd's interface, on a real etcd and on a node of ours: the answers are the same.

`python -m tests.compat.etcd.differential` runs other seeds. What differs on purpose is in `differential/documented.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.differential.generator import sequence
from tests.compat.etcd.differential.runs import difference_of, shrunk
from tests.compat.etcd.differential.side import Side
from tests.compat.etcd.real_etcd import real_etcd

SHRINKING_WAIT_S: Final = 1.0
"""For events that do not come: the sequence differs already."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """A real etcd, and a node of ours."""
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("etcd is not installed")
    directory = tmp_path_factory.mktemp("random")
    with (
        real_etcd(program, directory, "--bcrypt-cost", "4") as url,
        ProcessCluster(str(directory / "ours"), nodes=1) as cluster,
        Side("etcd", url) as theirs,
        Side("ours", cluster.endpoints[0]) as ours,
    ):
        yield theirs, ours


@pytest.mark.parametrize("seed", range(1, 19))
def test_random_calls_have_the_answers_of_a_real_etcd(sides: tuple[Side, Side], seed: int) -> None:
    """A sequence that differs is run again: a request of etcd times out if the machine stops for some seconds."""
    calls = sequence(seed)
    if difference_of(*sides, calls) is None or (found := difference_of(*sides, calls)) is None:
        return
    for side in sides:
        side.wait_s = SHRINKING_WAIT_S
    pytest.fail(f"a node of ours differs from etcd:\n{shrunk(*sides, found)}")
