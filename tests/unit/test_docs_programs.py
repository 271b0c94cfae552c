"""All Python of the documentation compiles, and runs: here, in a test of its page, or it is listed with a reason."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helpers.doc_examples import PYTHON
from tests.helpers.ports import free_block
from tests.helpers.site_server import SiteServer, site_in_thread

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
WITH_PYTHON: Final = [page for page, text in PAGES.items() if "```python" in text]
FENCE: Final = re.compile(r"^ *```python(.*)$", re.MULTILINE)

RUN_HERE: Final = [
    page for page in WITH_PYTHON if page in {"index.md", "start.md"} or page.startswith(("guides/", "concepts/"))
]  # fmt: skip
"""Pages of which every block is a whole program, against the cluster of `syncline up`."""

COMPAT: Final = "a program with another framework: tests/compat/contrib runs it, in `make compat`"

FRAGMENTS: Final = {
    **{f"contrib/{name}.md": COMPAT for name in ("apscheduler", "celery", "django", "metrics", "torchrun")},
    "digest.md": "a method and its class alone: tests/unit/test_state_digest.py has a whole machine",
    "etcd.md": "clients that are no dependency of ours: tests/compat/etcd runs the same calls",
    "http.md": "an app of another framework: tests/unit/test_asgi.py mounts it",
}
"""Pages whose blocks are no programs and are run by no test, each with the reason."""

IN_PARTS: Final = {
    "tutorial.md": "single methods of classes: test_tutorial_text.py finds each in a file that runs",
}
"""Pages whose blocks do not compile by themselves, each with the reason."""

CLUSTER: Final = re.compile(r"http://127\.0\.0\.1:8080(,http://127\.0\.0\.1:808\d)*")
TAKES: Final = ("PYTHON", "```python", r"```(\w*)")
"""What stands in a test that takes blocks of Python out of a page."""
TESTS: Final = {
    path.name: path.read_text()
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if path.name != Path(__file__).name
}


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in IN_PARTS])
def test_docs_python_compiles(page: str) -> None:
    """Fragments may await at their top: they stand in a coroutine of the reader's."""
    blocks = PYTHON.findall(PAGES[page])
    assert len(blocks) == len(FENCE.findall(PAGES[page])), "a block of Python is not at the begin of its line"
    for block in blocks:
        compile(block, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def runners(page: str) -> Iterator[str]:
    """The tests that take the Python out of this page."""
    name = re.escape(page.removesuffix(".md"))
    for test, text in TESTS.items():
        if re.search(rf"[\"/]{name}(\.md)?\"", text) and any(mark in text for mark in TAKES):
            yield test


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_docs_python_runs_somewhere(page: str) -> None:
    """Add a test that runs the page's blocks, or list the page in `FRAGMENTS` with the reason."""
    places = [page in RUN_HERE, page in FRAGMENTS, page not in RUN_HERE and any(runners(page))]
    assert places.count(True) == 1, (page, list(runners(page)))


@pytest.fixture(scope="module")
def site() -> Iterator[SiteServer]:
    with site_in_thread() as server:
        yield server


PROGRAMS: Final = [(page, at, code) for page in RUN_HERE for at, code in enumerate(PYTHON.findall(PAGES[page]))]


PRINTED: Final = {
    ("start.md", 0): ["b'blue'"],
    ("guides/control-plane.md", 0): ["True", "False", "w3"],
    ("guides/job-once.md", 0): ["sent"],
    ("guides/live-settings.md", 1): ["b'5'"],
}
"""What programs print first, as their comments say."""


@pytest.mark.parametrize(("page", "at", "code"), PROGRAMS, ids=[f"{page}-{at}" for page, at, _ in PROGRAMS])
def test_docs_program_runs(
    site: SiteServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
    at: int,
    code: str,
) -> None:
    """As it stands there, with this test's addresses in place of the page's."""
    run(code, page, site, tmp_path, monkeypatch)
    expected = PRINTED.get((page, at), [])
    assert capsys.readouterr().out.splitlines()[: len(expected)] == expected


def run(code: str, page: str, site: SiteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one program, and the tests in it that need no fixture."""
    code = CLUSTER.sub(site.url, code).replace("127.0.0.1:7100", f"127.0.0.1:{free_block(1)}")
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(tmp_path / "program.py")}
    monkeypatch.setattr(sys, "argv", ["program.py", str(tmp_path / "data")])
    exec(compile(code, f"docs/{page}", "exec", dont_inherit=True), names)
    for name, test in list(names.items()):
        if name.startswith("test_") and test.__code__.co_argcount == 0:
            test()


def test_readme_python_compiles_and_its_programs_run(
    site: SiteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that starts an event loop is a whole program; the others name what is the reader's own."""
    monkeypatch.chdir(tmp_path)
    blocks = PYTHON.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 2
    for code in blocks:
        compile(code, "README.md", "exec", dont_inherit=True)
        if "asyncio.run(" in code:
            run(code, "README.md", site, tmp_path, monkeypatch)
            assert (tmp_path / "data").is_dir()
