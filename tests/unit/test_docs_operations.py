"""The handbook: its commands are read by the command's own parser, its messages are those of the code."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from syncline.kv.machine import KvMachine
from syncline.server.config import SERVER_SETTINGS, ServerConfig
from syncline.server.http.limits import MIB
from tests.helpers.command import syncline
from tests.helpers.command_line import parsed
from tests.helpers.site_server import site_in_thread
from tests.unit.test_backups import filled

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted((ROOT / "docs" / "operations").glob("*.md"))
BLOCK: Final = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"`(syncline [^`\n]+)`")


def commands(text: str) -> Iterator[str]:
    """The commands in the blocks of a page."""
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            if (words := line.strip().removeprefix("$ ")).startswith("syncline "):
                yield words


def named(text: str) -> Iterator[str]:
    """Those that stand in its sentences: the options that are needed may be missing."""
    yield from CODE.findall(BLOCK.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.stem))
def test_handbook_commands_are_read_by_the_parser(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})
    for line in commands(page.read_text()):
        words = shlex.split(line)[1:]
        if words != ["--version"]:
            parsed(words)
    for line in named(page.read_text()):
        with contextlib.suppress(click.MissingParameter):
            parsed(shlex.split(line)[1:])


def test_handbook_has_commands() -> None:
    assert sum(len(list(commands(page.read_text()))) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.stem))
def test_handbook_names_files_that_exist(page: Path) -> None:
    named = re.findall(r"(?<![\w/])((?:deploy|docs|bench)/[\w./-]*\w)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_handbook_messages_are_those_of_the_code() -> None:
    """Who searches for a message finds it: a text that was changed in the code is changed here."""
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", source))
    text = (ROOT / "docs" / "operations" / "troubleshooting.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert len(cells) > 20
    assert [part for cell in cells for part in re.findall(r"`([^`]+)`", cell) if part not in source] == []


def test_handbook_limits_are_the_defaults() -> None:
    text = (ROOT / "docs" / "operations" / "sizing.md").read_text()
    rows = dict(re.findall(r"^\| [^|]+ \| `(max_\w+)` \| ([\d,]+(?: MiB)?)", text, re.MULTILINE))
    config = ServerConfig(name="a", data_dir="a")
    assert len(rows) >= 5
    for name, shown in rows.items():
        assert name in SERVER_SETTINGS
        number, _, unit = shown.replace(",", "").partition(" ")
        assert int(number) * (MIB if unit else 1) == getattr(config, name), name


def test_handbook_backup_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the restored node, which a slow test starts."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands((ROOT / "docs" / "operations" / "backup.md").read_text()) if " backup " in line]
    with site_in_thread() as server:
        filled(server.backend.machine)
        for line in lines:
            words = [word.replace("http://127.0.0.1:8081", server.url) for word in shlex.split(line)[1:]]
            ran = syncline(*words)
            assert ran.status == 0, (line, ran)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"monday.backup", "public.backup", "backups", "restored"} <= names
    assert isinstance(server.backend.machine, KvMachine)
