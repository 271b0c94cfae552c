"""The fixtures `kv` and `syncline_cluster`, as a project that has Syncline installed sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.doc_examples import PYTHON

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "pytest.md"

SHARED = """
def test_first(kv, syncline_cluster):
    kv.put("left", "behind")
    kv.grant_lease(3000)
    syncline_cluster.kill(0)
    syncline_cluster.pause(1)
    endpoints.append(syncline_cluster.endpoints)


def test_second(kv, syncline_cluster):
    assert (list(kv.scan()), kv.leases()) == ([], [])
    assert endpoints == [syncline_cluster.endpoints]
    syncline_cluster.kill(2)
    assert kv.get("nodes 0 and 1 serve") is None


endpoints = []
"""


def test_fixtures_of_the_guide_run_in_a_project_of_their_own(pytester: pytest.Pytester) -> None:
    """One cluster for the run; what a test does to it is undone before the next one."""
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nsyncline_cluster_scope = "session"\n')
    pytester.makepyfile(test_guide=PYTHON.findall(PAGE.read_text())[0], test_shared=SHARED)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:anyio")
    assert result.parseoutcomes() == {"passed": 4}


def test_fixture_with_an_unknown_scope_names_the_accepted_ones(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nsyncline_cluster_scope = "class"\n')
    pytester.makepyfile("def test_one(kv): pass")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:anyio")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*syncline_cluster_scope is 'class': accepted are function, module, session*"])


def test_fixtures_import_nothing_before_a_test_asks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\ndef test_one(): assert 'syncline.client' not in sys.modules")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:anyio")
    assert result.parseoutcomes() == {"passed": 1}
