"""The examples of the pages about coordination run as they stand there."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.doc_examples import PYTHON
from tests.helpers.site_server import site_in_thread

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("coordination", "locks", "run-once")
EXAMPLES = [(page, code) for page in PAGES for code in PYTHON.findall((DOCS / f"{page}.md").read_text())]


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=[f"{page}-{at}" for at, (page, _) in enumerate(EXAMPLES)])
def test_docs_of_coordination_example_runs(page: str, code: str) -> None:
    names: dict[str, Any] = {"__name__": f"docs_{page.replace('-', '_')}"}
    exec(compile(code, f"docs/{page}.md", "exec"), names)
    with site_in_thread() as site:
        main = names["main"](site.url)
        if inspect.iscoroutine(main):
            asyncio.run(main)


def test_docs_of_coordination_have_examples_on_each_page() -> None:
    assert {page for page, _ in EXAMPLES} == set(PAGES)
