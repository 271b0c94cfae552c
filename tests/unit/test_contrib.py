"""`syncline.contrib` without its frameworks, and the options that all its parts share."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest

from syncline.client import Client
from syncline.contrib import figures
from syncline.contrib.connection import checked_name, client_of
from syncline.contrib.figures import RetryCounter
from syncline.errors import ConfigError, Unreachable
from syncline.node.stats import Stats
from tests.helpers.command import environment
from tests.helpers.site_server import site_in_thread

DOCS = Path(__file__).resolve().parents[2] / "docs" / "contrib"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

EXTRAS = {
    "apscheduler": ("apscheduler", "apscheduler"),
    "celery": ("celery", "celery"),
    "django": ("django", "django"),
    "fsspec": ("fsspec", "fsspec"),
    "opentelemetry": ("opentelemetry", "otel"),
    "prometheus": ("prometheus_client", "prometheus"),
}
"""Each module of ours, the framework that it needs, and the extra that brings it."""

PROGRAM = """
import sys, syncline.contrib
for ours, (framework, _) in {extras!r}.items():
    sys.modules[framework] = None
    try:
        __import__(f"syncline.contrib.{{ours}}")
    except ImportError as error:
        print(error)
"""


def test_contrib_without_a_framework_names_the_extra() -> None:
    """In a process of its own. The extra is one of the project's."""
    program = PROGRAM.format(extras=EXTRAS)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    told = ran.stdout.splitlines()
    for line, (ours, (framework, extra)) in zip(told, EXTRAS.items(), strict=True):
        assert f"syncline.contrib.{ours} can't be imported" in line
        assert framework in line
        assert f"pip install 'syncline[{extra}]'" in line
    declared = set(re.findall(r"^(\w+) = \[", PROJECT.read_text(), re.MULTILINE))
    assert {extra for _, extra in EXTRAS.values()} <= declared


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_contrib_program_of_a_page_has_at_most_ten_lines(page: Path) -> None:
    """`make compat` runs them."""
    if page.stem == "README":
        return
    [first, *_] = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) <= 10


def test_contrib_client_takes_files_for_https_from_the_environment() -> None:
    """`syncline up --tls` prints `export SYNCLINE_CACERT=…`. Other endpoints need no such file."""
    with environment({"SYNCLINE_CACERT": "/nowhere"}):
        for endpoints in ("https://127.0.0.1:1", iter(["https://127.0.0.1:1"])):
            with pytest.raises(ConfigError, match="cacert '/nowhere' can't be used"):
                client_of(endpoints, {}, where="the options")
        client_of("http://127.0.0.1:1", {}, where="the options").close()
        with pytest.raises(ConfigError, match="cacert '/elsewhere' can't be used"):
            client_of("https://127.0.0.1:1", {"cacert": "/elsewhere"}, where="the options")


def test_contrib_client_takes_endpoints_and_token_from_the_environment(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with site_in_thread() as site:
        with environment({"SYNCLINE_ENDPOINTS": site.url, "SYNCLINE_TOKEN_FILE": str(token)}):
            kv = client_of(None, {}, where="the options")
        with kv:
            kv.put("a", "1")
            found = kv.get("a")
            assert found is not None
        with client_of([site.url], {"timeout": 3}, where="the options") as other:
            assert other.count() == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tokn": "x"}, "the options: there is no option 'tokn'; accepted are timeout, user"),
        ({"timeout": "soon"}, "the options: timeout is 'soon': it must be a number of seconds"),
        ({"timeout": -1}, "timeout"),
        ({"token": 7}, "the options: token must be text, not int"),
        ({"token_file": "/nowhere/token"}, "the options: the token file /nowhere/token can't be read"),
        ({"token_file": "/dev/null"}, "holds no token"),
        ({"cacert": "/nowhere/ca"}, "cacert"),
        ({"cert": "a"}, "cert and key_file go together"),
    ],
)
def test_contrib_client_with_a_bad_option_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        client_of("http://127.0.0.1:1", options, where="the options")


def test_contrib_retry_counter_is_bounded() -> None:
    counter = RetryCounter()
    for number in range(100):
        error = Unreachable("away")
        error.code = f"code_{number}"
        counter(error)
    counts = counter.counts()
    assert (len(counts), counts["other"]) == (51, 50)


def test_contrib_figures_of_a_loop_that_hangs_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry asks for each figure: a collection would take a minute."""
    monkeypatch.setattr(figures, "SILENT_S", 60.0)
    loop = asyncio.new_event_loop()

    class Hung:
        def stats(self) -> Stats:
            raise AssertionError

    async def made() -> figures.StatsSource:
        return figures.StatsSource(Hung())

    try:
        source = loop.run_until_complete(made())  # from here on the loop does nothing
        waits: list[float] = []

        def times_out(_: object, limit_s: float) -> None:
            waits.append(limit_s)
            raise TimeoutError

        monkeypatch.setattr(Future, "result", times_out)
        assert [source.read() for _ in range(20)] == [None] * 20
    finally:
        loop.close()
    assert len(waits) == 1


@pytest.mark.parametrize("name", ["", "a/b", 7, None])
def test_contrib_name_that_could_be_a_part_of_another_is_refused(name: object) -> None:
    """Clearing `a` would clear `a/b`."""
    with pytest.raises(ConfigError, match=r"the name is .*: it must be text without /"):
        checked_name(name, "the name")


def test_contrib_client_without_endpoints_is_for_this_machine() -> None:
    with environment({"SYNCLINE_ENDPOINTS": ""}):
        kv = client_of(None, None, where="the options")
    assert isinstance(kv, Client)
    assert kv.endpoints == [f"http://127.0.0.1:{port}" for port in (8080, 8081, 8082)]
    kv.close()
